//! Rules for words: to-do marks, the length of README.md, the list of files a verb goes through.
//!
//! Must never judge style: that is for people.

use super::source::has_word;
use super::{File, Finding, Tree};

/// A reader reads the whole of it.
const README_LINES: usize = 200;
/// One verb end to end fits in a reader's head.
const FILES_ON_THE_PATH: usize = 16;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut found: Vec<Finding> = tree.files.iter().flat_map(marks).collect();
    if let Some(readme) = tree.file("README.md") {
        let lines = readme.text.lines().count();
        if lines > README_LINES {
            found
                .push(readme.finding(README_LINES + 1, format!("{lines} lines; README.md has at most {README_LINES}")));
        }
    }
    if let Some(page) = tree.file("docs/ARCHITECTURE.md") {
        found.extend(path_lists(tree, page));
    }
    found
}

/// A mark for later names where it is tracked, by a link on the same line.
fn marks(file: &File) -> Vec<Finding> {
    const MARKS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    // Licence texts and lock files are not ours to word.
    if file.path.starts_with("LICENSE")
        || file.path.ends_with(".lock")
        || file.path.ends_with("go.sum")
        || file.is_generated()
    {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for mark in MARKS {
            if has_word(line, mark) && !line.contains("https://") {
                found.push(file.finding(number + 1, format!("`{mark}` without a link: do it, or open an issue")));
            }
        }
    }
    found
}

/// Each fenced block under `<!-- path: NAME -->` lists files in the order a verb runs through them.
fn path_lists(tree: &Tree, page: &File) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut lines = page.text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(name) = line.trim().strip_prefix("<!-- path: ").and_then(|l| l.strip_suffix(" -->")) else {
            continue;
        };
        let block = lines.by_ref().skip_while(|(_, l)| !l.starts_with("```")).skip(1);
        let steps: Vec<(usize, &str)> = block
            .take_while(|(_, l)| !l.starts_with("```"))
            .filter_map(|(n, l)| Some((n + 1, l.split_whitespace().next()?)))
            .collect();
        if steps.is_empty() || steps.len() > FILES_ON_THE_PATH {
            let message = format!("path `{name}` lists {} files; 1 to {FILES_ON_THE_PATH} are allowed", steps.len());
            found.push(page.finding(number + 1, message));
        }
        found.extend(path_steps(tree, page, &steps));
    }
    found
}

fn path_steps(tree: &Tree, page: &File, steps: &[(usize, &str)]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (line, path) in steps {
        if tree.file(path).is_none() {
            found.push(page.finding(*line, format!("there is no file `{path}`")));
        }
    }
    for ((_, from), (line, to)) in steps.iter().zip(steps.iter().skip(1)) {
        let Some(file) = tree.file(from) else { continue };
        let name = module(tree, to);
        if !file.text.lines().any(|l| has_word(l, &name)) {
            found.push(page.finding(*line, format!("`{from}` does not name `{name}`, so `{to}` is not its next step")));
        }
    }
    found
}

/// The name by which other files call the module in `path`: a crate root is called by its crate's name.
fn module(tree: &Tree, path: &str) -> String {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        [krate @ .., "src", "lib.rs" | "main.rs"] => {
            let manifest = format!("{}/Cargo.toml", krate.join("/"));
            let named = tree
                .file(&manifest)
                .and_then(|f| f.text.lines().find_map(|l| l.strip_prefix("name = \"")?.strip_suffix('"')));
            named.or(krate.last().copied()).unwrap_or_default().replace('-', "_")
        }
        [.., parent, "mod.rs"] => (*parent).to_owned(),
        [.., file] => file.split('.').next().unwrap_or(file).to_owned(),
        [] => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(files: &[(&str, &str)]) -> Vec<String> {
        check(&Tree::of(files)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_mark_for_later_has_a_link() {
        let mark = concat!("TO", "DO");
        assert_eq!(messages(&[("a.rs", &format!("// {mark}: x\n"))]).len(), 1);
        assert_eq!(messages(&[("a.rs", &format!("// {mark} https://x/1\n{mark}S\n"))]), Vec::<String>::new());
    }

    #[test]
    fn the_readme_stays_short() {
        assert_eq!(messages(&[("README.md", &"x\n".repeat(README_LINES))]), Vec::<String>::new());
        let found = messages(&[("README.md", &"x\n".repeat(README_LINES + 1))]);
        assert_eq!(found, ["README.md:201: 201 lines; README.md has at most 200"]);
    }

    #[test]
    fn each_file_of_a_path_names_the_next() {
        let page = "# A\n<!-- path: load -->\n\n```\na/src/main.rs  starts\na/src/b.rs\nc/src/lib.rs\n```\n";
        let good = [
            ("docs/ARCHITECTURE.md", page),
            ("a/src/main.rs", "mod b;"),
            ("a/src/b.rs", "use my_c::x;"),
            ("c/src/lib.rs", ""),
            ("c/Cargo.toml", "name = \"my-c\"\n"),
        ];
        assert_eq!(messages(&good), Vec::<String>::new());
        let mut bad = good;
        bad[1].1 = "mod bb;";
        assert_eq!(
            messages(&bad),
            ["docs/ARCHITECTURE.md:6: `a/src/main.rs` does not name `b`, so `a/src/b.rs` is not its next step"]
        );
        assert_eq!(messages(&good[..4]).len(), 1, "without its manifest the crate is called `c`");
        assert_eq!(messages(&good[..2]).len(), 2, "two files are missing");
    }

    #[test]
    fn a_path_is_short_enough_to_read() {
        let list = "x.rs\n".repeat(FILES_ON_THE_PATH + 1);
        let page = format!("<!-- path: load -->\n```\n{list}```\n");
        assert_eq!(messages(&[("docs/ARCHITECTURE.md", &page), ("x.rs", "mod x;")]).len(), 1);
    }
}
