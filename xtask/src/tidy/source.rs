//! Rust text as tidy sees it: lines without comments, and words in them.
//!
//! A scanner, not a parser: it knows comments, string literals and identifiers, which is all the rules ask for.
//! It must never be cleverer than a reader of the rule can predict.

/// The code of each line, comments cut off and the insides of string literals blanked; lines count from 1.
/// Block comments and strings may span lines; raw strings are understood up to `r##`.
pub(super) fn code(text: &str) -> Vec<(usize, String)> {
    let mut state = State::Code;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut out = String::with_capacity(line.len());
        let mut rest = line;
        loop {
            let (next, left) = step(state, rest, &mut out);
            state = next;
            match left {
                Some(left) => rest = left,
                None => break,
            }
        }
        lines.push((number + 1, out));
    }
    lines
}

#[derive(Clone, Copy)]
enum State {
    Code,
    Comment(u32),
    Text,
    Raw(&'static str),
}

/// Consumes up to the next change of state; `None` is the end of the line.
fn step<'a>(state: State, rest: &'a str, out: &mut String) -> (State, Option<&'a str>) {
    match state {
        State::Code => code_step(rest, out),
        State::Comment(depth) => {
            let open = rest.find("/*");
            let close = rest.find("*/");
            match (open, close) {
                (Some(o), Some(c)) if o < c => (State::Comment(depth + 1), rest.get(o + 2..)),
                (Some(o), None) => (State::Comment(depth + 1), rest.get(o + 2..)),
                (_, Some(c)) if depth > 1 => (State::Comment(depth - 1), rest.get(c + 2..)),
                (_, Some(c)) => (State::Code, rest.get(c + 2..)),
                (None, None) => (State::Comment(depth), None),
            }
        }
        State::Text => {
            let mut chars = rest.char_indices();
            while let Some((at, c)) = chars.next() {
                match c {
                    '\\' => {
                        chars.next();
                    }
                    '"' => {
                        out.push('"');
                        return (State::Code, rest.get(at + 1..));
                    }
                    _ => {}
                }
            }
            (State::Text, None)
        }
        State::Raw(end) => match rest.split_once(end) {
            Some((_, left)) => {
                out.push('"');
                (State::Code, Some(left))
            }
            None => (State::Raw(end), None),
        },
    }
}

fn code_step<'a>(rest: &'a str, out: &mut String) -> (State, Option<&'a str>) {
    const OPENERS: [(&str, State); 6] = [
        ("//", State::Code),
        ("/*", State::Comment(1)),
        ("r##\"", State::Raw("\"##")),
        ("r#\"", State::Raw("\"#")),
        ("r\"", State::Raw("\"")),
        ("\"", State::Text),
    ];
    let mut before = ' ';
    for (at, c) in rest.char_indices() {
        let here = rest.get(at..).unwrap_or_default();
        // A quote as a character literal opens no string.
        if here.starts_with("'\"'") || here.starts_with("'\\\"'") {
            let end = if here.starts_with("'\"'") { at + 3 } else { at + 4 };
            out.push_str(rest.get(..at).unwrap_or_default());
            out.push_str("' '");
            return (State::Code, rest.get(end..));
        }
        for (opener, state) in OPENERS {
            let word_before = opener.starts_with('r') && (before.is_alphanumeric() || before == '_');
            if here.starts_with(opener) && !word_before {
                out.push_str(rest.get(..at).unwrap_or_default());
                if opener == "//" {
                    return (State::Code, None);
                }
                if !matches!(state, State::Comment(_)) {
                    out.push('"');
                }
                return (state, rest.get(at + opener.len()..));
            }
        }
        before = c;
    }
    out.push_str(rest);
    (State::Code, None)
}

/// Whether `word` stands in `line` with no identifier character on either side.
pub(super) fn has_word(line: &str, word: &str) -> bool {
    word_ends(line, word).next().is_some()
}

/// Whether `line` names the crate `name`: as the root of a path, or in a `use`.
pub(super) fn names_crate(line: &str, name: &str) -> bool {
    let import = line.trim_start();
    let import = import.strip_prefix("pub ").unwrap_or(import).starts_with("use ");
    word_ends(line, name).any(|(before, after)| {
        // `x.aya::…` does not exist and `foo::aya` is some other module.
        !before.ends_with("::") && (after.trim_start().starts_with("::") || import)
    })
}

/// Whether `line` calls `name` as a function or method.
pub(super) fn calls(line: &str, name: &str) -> bool {
    word_ends(line, name).any(|(before, after)| {
        let defined = before.trim_end().ends_with("fn");
        !defined && (after.starts_with('(') || after.starts_with("::<"))
    })
}

/// The text before and after each whole-word occurrence.
fn word_ends<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).filter_map(move |(at, _)| {
        let before = line.get(..at)?;
        let after = line.get(at + word.len()..)?;
        let whole = !before.ends_with(part_of_word) && !after.starts_with(part_of_word);
        whole.then_some((before, after))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> Vec<String> {
        code(text).into_iter().map(|(_, l)| l).collect()
    }

    #[test]
    fn comments_and_strings_are_not_code() {
        assert_eq!(only("a // b\n/* c\n d */ e"), ["a ", "", " e"]);
        assert_eq!(only("x(\"aya::y // no\"); z"), ["x(\"\"); z"]);
        assert_eq!(only("x(r#\"a \" b\n c\"#) d"), ["x(\"", "\") d"]);
        assert_eq!(only("m('\"') // c"), ["m(' ') "]);
        assert_eq!(only("let s = \"a\\\"b\"; t"), ["let s = \"\"; t"]);
        assert_eq!(only("/* a /* b */ c */ d"), [" d"]);
    }

    #[test]
    fn a_crate_is_named_by_path_or_import_only() {
        assert!(names_crate("let x = aya::maps::MapData::create();", "aya"));
        assert!(names_crate("use aya;", "aya"));
        assert!(names_crate("pub use aya as a;", "aya"));
        assert!(!names_crate("let aya = 1;", "aya"));
        assert!(!names_crate("use aya_obj::Object;", "aya"));
        assert!(!names_crate("crate::aya::x()", "aya"));
    }

    #[test]
    fn a_definition_is_not_a_call() {
        assert!(calls("sys.set_xdp(1)", "set_xdp"));
        assert!(!calls("fn set_xdp(a: u8)", "set_xdp"));
        assert!(!calls("Step::set_xdp_of(1)", "set_xdp"));
    }
}
