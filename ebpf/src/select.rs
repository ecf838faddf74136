//! Which programs of an object a request means. Must never choose between two: what fits more than once is listed.

use serde::{Deserialize, Serialize};

use crate::inspect::{Object, Program};
use crate::kind::{DeclaredKind, ProgramKind};
use crate::names::{self, FunctionName, SectionName};

/// How a request names a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// `--section-name`: the ELF section, else `xdp/NAME`, else the function.
    Section(SectionName),
    /// `--program`: the function.
    Function(FunctionName),
}

/// A program that could have been meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its function.
    pub function: FunctionName,
    /// Its section.
    pub section: SectionName,
}

/// Why a request means no program, or no single one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum SelectError {
    /// The object holds none.
    #[error("object has no program")]
    NoPrograms,
    /// No section, `xdp/` section or function of that name.
    #[error("object has no section or function `{asked}`; it has {}", list(.candidates))]
    NoSection {
        /// As asked.
        asked: String,
        /// What there is.
        candidates: Vec<Candidate>,
    },
    /// No function of that name.
    #[error("object has no program `{asked}`; it has {}", list(.candidates))]
    NoFunction {
        /// As asked.
        asked: String,
        /// What there is.
        candidates: Vec<Candidate>,
    },
    /// None of the kind that the sub-command attaches.
    #[error("object has no {kind} program; it has {}", list(.candidates))]
    NoneOfKind {
        /// The sub-command's.
        kind: ProgramKind,
        /// What there is.
        candidates: Vec<Candidate>,
    },
    /// More than one.
    #[error("more than one program fits: {}", list(.candidates))]
    Ambiguous {
        /// Those.
        candidates: Vec<Candidate>,
    },
    /// Its section says another kind.
    #[error("`{function}` is in section `{section}`, which is not {asked}")]
    WrongKind {
        /// The program.
        function: FunctionName,
        /// Its section.
        section: SectionName,
        /// The sub-command's.
        asked: ProgramKind,
    },
}

impl SelectError {
    /// The name that was probably meant: one of a section or function that differs in a letter or two.
    pub fn meant(&self) -> Option<&str> {
        let (asked, candidates) = match self {
            Self::NoSection { asked, candidates } | Self::NoFunction { asked, candidates } => (asked, candidates),
            Self::NoPrograms | Self::NoneOfKind { .. } | Self::Ambiguous { .. } | Self::WrongKind { .. } => {
                return None;
            }
        };
        let sections = candidates.iter().map(|candidate| candidate.section.as_str());
        let sections = sections.filter(|_| matches!(self, Self::NoSection { .. }));
        let names = candidates.iter().map(|candidate| candidate.function.as_str()).chain(sections);
        names::nearest(asked, names)
    }
}

fn list(candidates: &[Candidate]) -> String {
    let names = candidates.iter().map(|candidate| {
        let Candidate { function, section } = candidate;
        format!("`{function}` (section `{section}`)")
    });
    names.collect::<Vec<_>>().join(", ")
}

fn candidates<'a>(programs: impl IntoIterator<Item = &'a Program>) -> Vec<Candidate> {
    programs
        .into_iter()
        .map(|program| Candidate { function: program.function.clone(), section: program.section.clone() })
        .collect()
}

/// Every program that is not optional: what a load without selector means.
pub fn all(object: &Object) -> Vec<&Program> {
    object.programs.iter().filter(|program| !program.optional).collect()
}

/// The programs that a selector means: one function, or all of a section. Optional ones count, as they are asked for.
pub fn matching<'a>(object: &'a Object, selector: &Selector) -> Result<Vec<&'a Program>, SelectError> {
    if object.programs.is_empty() {
        return Err(SelectError::NoPrograms);
    }
    let those = |wanted: &dyn Fn(&Program) -> bool| -> Vec<&'a Program> {
        object.programs.iter().filter(|program| wanted(program)).collect()
    };
    match selector {
        Selector::Function(asked) => {
            let found = those(&|program| program.function == *asked);
            if found.is_empty() {
                let (asked, candidates) = (asked.to_string(), candidates(&object.programs));
                return Err(SelectError::NoFunction { asked, candidates });
            }
            Ok(found)
        }
        Selector::Section(asked) => {
            let exact = asked.as_str();
            let under_xdp = format!("xdp/{exact}");
            let steps: [&dyn Fn(&Program) -> bool; 3] = [
                &|program| program.section.as_str() == exact,
                &|program| program.section.as_str() == under_xdp,
                &|program| program.function.as_str() == exact,
            ];
            steps.into_iter().map(those).find(|found| !found.is_empty()).ok_or_else(|| SelectError::NoSection {
                asked: asked.to_string(),
                candidates: candidates(&object.programs),
            })
        }
    }
}

/// The one program that a sub-command attaches. Without a selector: the only one whose section says this kind, or, when
/// none does, the only one whose section says nothing; optional ones are left out.
pub fn one<'a>(object: &'a Object, selector: Option<&Selector>, kind: ProgramKind) -> Result<&'a Program, SelectError> {
    let found = match selector {
        Some(selector) => {
            let mut found = matching(object, selector)?;
            // A section may hold one program of the kind and others; a single one of another kind is a mistake to name.
            if found.len() > 1 {
                found.retain(|program| may_be(program, kind));
            }
            found
        }
        None => {
            if object.programs.is_empty() {
                return Err(SelectError::NoPrograms);
            }
            let said: Vec<_> = all(object).into_iter().filter(|program| program.kind() == Some(kind)).collect();
            if said.is_empty() {
                all(object).into_iter().filter(|program| may_be(program, kind)).collect()
            } else {
                said
            }
        }
    };
    match found.as_slice() {
        [program] if may_be(program, kind) => Ok(*program),
        [program] => Err(SelectError::WrongKind {
            function: program.function.clone(),
            section: program.section.clone(),
            asked: kind,
        }),
        [] => Err(SelectError::NoneOfKind { kind, candidates: candidates(&object.programs) }),
        several => Err(SelectError::Ambiguous { candidates: candidates(several.iter().copied()) }),
    }
}

fn may_be(program: &Program, kind: ProgramKind) -> bool {
    match &program.kind {
        DeclaredKind::Known(declared) => *declared == kind,
        DeclaredKind::Unsupported(_) => false,
        DeclaredKind::Unstated => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::ByteOrder;
    use crate::kind::meaning;
    use crate::run_config::RunConfig;

    #[test]
    fn a_name_that_is_nearly_right_is_told() {
        let candidates = [("count", "xdp/count"), ("drop_all", "xdp"), ("pass", "classifier")];
        let candidates = candidates.map(|(function, section)| Candidate {
            function: function.parse().unwrap(),
            section: section.parse().unwrap(),
        });
        let section = |asked: &str| SelectError::NoSection { asked: asked.to_owned(), candidates: candidates.to_vec() };
        let function =
            |asked: &str| SelectError::NoFunction { asked: asked.to_owned(), candidates: candidates.to_vec() };
        for (error, meant) in [
            (section("xpd/count"), Some("xdp/count")),
            (section("xdp/cont"), Some("xdp/count")),
            (section("clasifier"), Some("classifier")),
            (function("cuont"), Some("count")),
            (function("counts"), Some("count")),
            (function("dropall"), Some("drop_all")),
            (function("xdp/cont"), None),
            (function("something"), None),
            (SelectError::NoPrograms, None),
        ] {
            assert_eq!(error.meant(), meant, "{error}");
        }
    }

    fn object(programs: &[(&str, &str)]) -> Object {
        let programs = programs.iter().map(|(section, function)| {
            let said = meaning(section);
            Program {
                function: function.parse().unwrap(),
                section: section.parse().unwrap(),
                kind: said.kind,
                target: said.target,
                frags: said.frags,
                optional: said.optional,
                instructions: 2,
                run_config: RunConfig::default(),
            }
        });
        Object {
            byte_order: ByteOrder::Little,
            programs: programs.collect(),
            maps: Vec::new(),
            contents: Vec::new(),
            unusable_contents: Vec::new(),
            data: Vec::new(),
            globals: Vec::new(),
            externs: Vec::new(),
            license: None,
            has_btf: true,
            core_relocations: 0,
            decl_tags: Vec::new(),
        }
    }

    fn section(name: &str) -> Option<Selector> {
        Some(Selector::Section(name.parse().unwrap()))
    }

    fn function(name: &str) -> Option<Selector> {
        Some(Selector::Function(name.parse().unwrap()))
    }

    fn check(programs: &[(&str, &str)], selector: Option<Selector>, expected: Result<&str, &str>) {
        let object = object(programs);
        let found = one(&object, selector.as_ref(), ProgramKind::Xdp)
            .map(|program| program.function.to_string())
            .map_err(|error| error.to_string());
        assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned));
    }

    #[test]
    fn a_section_name_is_exact_then_under_xdp_then_a_function() {
        check(&[("pass", "a"), ("xdp/pass", "b"), ("xdp", "pass")], section("pass"), Ok("a"));
        check(&[("xdp/pass", "b"), ("xdp", "pass")], section("pass"), Ok("b"));
        check(&[("xdp", "pass"), ("xdp", "drop")], section("pass"), Ok("pass"));
        check(
            &[("xdp", "drop")],
            section("pass"),
            Err("object has no section or function `pass`; it has `drop` (section `xdp`)"),
        );
    }

    #[test]
    fn several_programs_that_fit_are_listed_never_chosen_from() {
        let two = [("xdp", "a"), ("xdp", "b"), ("tc", "c")];
        let error = "more than one program fits: `a` (section `xdp`), `b` (section `xdp`)";
        check(&two, None, Err(error));
        check(&two, section("xdp"), Err(error));
        check(&two, function("b"), Ok("b"));
    }

    #[test]
    fn the_sub_command_decides_only_where_the_section_is_silent() {
        check(&[("prog", "a")], None, Ok("a"));
        check(&[("prog", "a"), ("xdp", "b")], None, Ok("b"));
        check(&[("tc", "a")], function("a"), Err("`a` is in section `tc`, which is not xdp"));
        check(&[("tc", "a")], None, Err("object has no xdp program; it has `a` (section `tc`)"));
        check(&[("kprobe/x", "a")], function("a"), Err("`a` is in section `kprobe/x`, which is not xdp"));
        check(&[], None, Err("object has no program"));
    }

    #[test]
    fn optional_programs_are_loaded_only_when_asked_for() {
        check(&[("?xdp", "a"), ("xdp", "b")], None, Ok("b"));
        check(&[("?xdp", "a"), ("xdp", "b")], function("a"), Ok("a"));
        let object = object(&[("?xdp", "a"), ("xdp", "b")]);
        assert_eq!(all(&object).len(), 1);
    }
}
