//! `cargo xtask book`: the pages that `docs/SUMMARY.md` lists, as a book in `target/book/html`; fails if one of its links is dead.
//!
//! The pages are laid out for mdBook nearly as they are in the tree, with the files that they link to, so that links of pages work in a view
//! of the tree and in the book. Must never write outside of `target/book`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tidy::links::{self, SUMMARY};
use crate::tools;

/// Its settings.
const SETTINGS: &str = "docs/book.toml";

pub(crate) fn run(root: &Path) -> Result<()> {
    let mdbook = tools::cargo_tool(&tools::MDBOOK)?;
    let dir = root.join("target/book");
    if dir.exists() {
        fs::remove_dir_all(&dir).context("cannot remove the book of before")?;
    }
    let source = dir.join("src");
    let summary = read(root, SUMMARY)?;
    let pages = links::contents(&summary);
    write(&source.join(place(SUMMARY)), &relinked(&summary, SUMMARY))?;
    for page in &pages {
        let text = read(root, page)?;
        write(&source.join(place(page)), &relinked(&text, page))?;
        let linked = links::links(&text).into_iter().filter_map(|link| link.path(page));
        for file in linked.filter(|file| root.join(file).is_file() && !pages.contains(file)) {
            copy(&root.join(&file), &source.join(&file))?;
        }
    }
    copy(&root.join(SETTINGS), &dir.join("book.toml"))?;
    let out = Command::new(&mdbook).arg("build").arg(&dir).output().context("cannot run mdbook")?;
    let said = String::from_utf8_lossy(&out.stderr);
    // What it warns of is a fault of a page.
    if !out.status.success() || said.contains("WARN") || said.contains("ERROR") {
        bail!("mdbook: {}\n{}", out.status, said.trim());
    }
    let html = dir.join("html");
    let dead = dead(&html)?;
    if !dead.is_empty() {
        bail!("dead links in the book:\n{}", dead.join("\n"));
    }
    println!("{} pages: {}", pages.len(), html.join("index.html").display());
    Ok(())
}

/// Where a file of the tree is in the book's source. A page of a directory is called as mdBook wants it; the first page is at the root, where
/// mdBook puts a copy of it anyway, with the same links.
fn place(file: &str) -> String {
    match file {
        SUMMARY => "SUMMARY.md".to_owned(),
        "docs/README.md" => "index.md".to_owned(),
        file => file.strip_suffix("README.md").map_or(file.to_owned(), |directory| format!("{directory}index.md")),
    }
}

/// A page with links that lead to the same files in the book's source.
fn relinked(text: &str, page: &str) -> String {
    let mut out = text.to_owned();
    for link in links::links(text).iter().rev() {
        let Some(path) = link.path(page) else { continue };
        let heading = link.to().find('#').and_then(|at| link.to().get(at..)).unwrap_or_default();
        let to = format!("{}{heading}", relative(&place(page), &place(&path)));
        let written = out.get(link.range()).unwrap_or_default();
        out.replace_range(link.range(), &written.replace(&format!("({})", link.to()), &format!("({to})")));
    }
    out
}

/// The way from the directory of one file to another file.
fn relative(from: &str, to: &str) -> String {
    let from: Vec<&str> = from.split('/').collect();
    let to: Vec<&str> = to.split('/').collect();
    let same = from.iter().zip(&to).take(from.len().min(to.len()) - 1).take_while(|(from, to)| from == to).count();
    let up = std::iter::repeat_n("..", from.len() - 1 - same);
    up.chain(to.into_iter().skip(same)).collect::<Vec<_>>().join("/")
}

/// Links of pages that lead to no page, or to nothing on it.
fn dead(html: &Path) -> Result<Vec<String>> {
    let html = &fs::canonicalize(html).context("there is no book")?;
    let mut pages = BTreeMap::new();
    collect(html, &mut pages)?;
    let mut dead = Vec::new();
    for (page, text) in &pages {
        let links: BTreeSet<&str> = attributes(text, "href").filter(|link| !link.contains(':')).collect();
        for link in links {
            let (path, place) = link.split_once('#').unwrap_or((link, ""));
            let mut target = page.parent().unwrap_or(html).join(path);
            if path.is_empty() {
                target.clone_from(page);
            } else if target.is_dir() {
                target.push("index.html");
            }
            let target = fs::canonicalize(&target).unwrap_or(target);
            let there =
                place.is_empty() || pages.get(&target).is_none_or(|text| attributes(text, "id").any(|id| id == place));
            if !target.is_file() || !there {
                dead.push(format!("{}: {link}", page.strip_prefix(html).unwrap_or(page).display()));
            }
        }
    }
    Ok(dead)
}

/// All pages below a directory, with what they say.
fn collect(dir: &Path, pages: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read `{}`", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, pages)?;
        } else if path.extension().is_some_and(|extension| extension == "html") {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
            pages.insert(path, text);
        }
    }
    Ok(())
}

/// The values of an attribute of this name.
fn attributes<'a>(html: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let begin = format!(" {name}=\"");
    let values: Vec<&str> = html.split(&begin).skip(1).filter_map(|rest| rest.split('"').next()).collect();
    values.into_iter()
}

fn read(root: &Path, file: &str) -> Result<String> {
    fs::read_to_string(root.join(file)).with_context(|| format!("cannot read `{file}`"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    make_parent(path)?;
    fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().context("a file without a directory")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make `{}`", parent.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    make_parent(to)?;
    fs::copy(from, to).with_context(|| format!("cannot copy `{}`", from.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_the_same_pages_in_the_book() {
        let summary = "# A\n\n- [a](README.md)\n- [b (c)](b/c.md)\n- [s](../spec/s.md)\n";
        assert_eq!(relinked(summary, SUMMARY), "# A\n\n- [a](index.md)\n- [b (c)](docs/b/c.md)\n- [s](spec/s.md)\n");
        let page = "[a](../README.md) [c](c.md#x) [d](../../e/README.md) [h](#h) [w](https://x/y.md)\n";
        let moved = "[a](../../index.md) [c](c.md#x) [d](../../e/index.md) [h](#h) [w](https://x/y.md)\n";
        assert_eq!(relinked(page, "docs/b/d.md"), moved);
    }

    #[test]
    fn a_dead_link_of_the_book_is_found() {
        let dir = std::env::temp_dir().join(format!("bpfd-book-{}", std::process::id()));
        fs::create_dir_all(dir.join("b")).unwrap();
        let page = r##"<h1 id="x"></h1><a href="#x"></a><a href="b/#y"></a><a href="https://x"></a>"##;
        fs::write(dir.join("a.html"), page).unwrap();
        fs::write(dir.join("b/index.html"), r#"<h1 id="y">"#).unwrap();
        let good = dead(&dir);
        fs::write(dir.join("a.html"), page.replace("b/#y", "b/#z").replace("=\"#x", "=\"c.html")).unwrap();
        let bad = dead(&dir);
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(good.unwrap(), Vec::<String>::new());
        assert_eq!(bad.unwrap(), ["a.html: b/#z", "a.html: c.html"]);
    }
}
