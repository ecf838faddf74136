//! Links between pages: each leads to a file of the tree, and to a heading that is there; `docs/SUMMARY.md` has every page of the book.
//!
//! Must never open a connection: links to other hosts are not looked at.

use std::collections::BTreeSet;
use std::ops::Range;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::{File, Finding, Tree};

/// The book's contents: a list of links to its pages, in their order.
pub(crate) const SUMMARY: &str = "docs/SUMMARY.md";
/// Pages below these are pages of the book.
const BOOK: [&str; 2] = ["docs/", "spec/"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let pages = || tree.files.iter().filter(|file| file.path.ends_with(".md"));
    let mut found: Vec<Finding> = pages().flat_map(|page| dead(tree, page)).collect();
    if let Some(summary) = tree.file(SUMMARY) {
        let listed = contents(&summary.text);
        found.extend(missing(summary, pages(), &listed));
        let of_book: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
        found.extend(pages().filter(|page| of_book.contains(&*page.path)).flat_map(|page| leads_out(page, &of_book)));
    }
    found
}

/// The paths of the book's pages, from the root of the tree.
pub(crate) fn contents(summary: &str) -> Vec<String> {
    links(summary).into_iter().filter_map(|link| link.path(SUMMARY)).collect()
}

/// A link of a page, as it is written.
pub(crate) struct Link {
    to: String,
    at: Range<usize>,
}

impl Link {
    fn is_elsewhere(&self) -> bool {
        self.to.contains("://") || self.to.starts_with("mailto:")
    }

    /// Where it leads, from the root of the tree: `None` to another host, and within the page.
    pub(crate) fn path(&self, page: &str) -> Option<String> {
        let path = self.to.split('#').next().filter(|path| !path.is_empty() && !self.is_elsewhere())?;
        let mut parts: Vec<&str> = page.split('/').collect();
        parts.pop();
        for part in path.trim_end_matches('/').split('/') {
            match part {
                ".." => drop(parts.pop()),
                "." => {}
                part => parts.push(part),
            }
        }
        Some(parts.join("/"))
    }

    /// As it is written.
    pub(crate) fn to(&self) -> &str {
        &self.to
    }

    /// The bytes of the page that are the link.
    pub(crate) fn range(&self) -> Range<usize> {
        self.at.clone()
    }

    /// The heading that it leads to.
    fn heading(&self) -> Option<&str> {
        self.to.split_once('#').map(|(_, heading)| heading).filter(|_| !self.is_elsewhere())
    }

    fn line(&self, text: &str) -> usize {
        text.get(..self.at.start).unwrap_or_default().matches('\n').count() + 1
    }
}

/// All links and pictures of a page.
pub(crate) fn links(markdown: &str) -> Vec<Link> {
    let events = Parser::new_ext(markdown, Options::ENABLE_TABLES).into_offset_iter();
    let link = |(event, at): (Event<'_>, Range<usize>)| match event {
        Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
            Some(Link { to: dest_url.into_string(), at })
        }
        _ => None,
    };
    events.filter_map(link).collect()
}

/// The names by which links lead to the headings of a page, as GitHub and mdBook make them.
fn headings(markdown: &str) -> BTreeSet<String> {
    let (mut names, mut heading) = (BTreeSet::new(), None::<String>);
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let name = heading.take().unwrap_or_default();
                let kept = name.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
                names.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>().to_lowercase());
            }
            Event::Text(text) | Event::Code(text) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&text);
                }
            }
            _ => {}
        }
    }
    names
}

fn dead(tree: &Tree, page: &File) -> Vec<Finding> {
    let fault = |link: &Link| {
        let path = link.path(&page.path);
        let target = match &path {
            Some(path) => tree.file(path),
            None => Some(page),
        };
        let directory = |path: &String| tree.files.iter().any(|file| file.path.starts_with(&format!("{path}/")));
        match (target, link.heading()) {
            _ if link.is_elsewhere() => None,
            (None, _) if !path.as_ref().is_some_and(directory) => Some("leads to no file"),
            (Some(file), Some(heading)) if !headings(&file.text).contains(heading) => Some("leads to no heading"),
            _ => None,
        }
    };
    let links = links(&page.text);
    let dead = links.iter().filter_map(|link| Some((link, fault(link)?)));
    dead.map(|(link, fault)| page.finding(link.line(&page.text), format!("link `{}` {fault}", link.to))).collect()
}

fn missing<'a>(summary: &File, pages: impl Iterator<Item = &'a File>, listed: &[String]) -> Vec<Finding> {
    let of_book = |path: &str| path != SUMMARY && BOOK.iter().any(|book| path.starts_with(book));
    let count = |page: &File| listed.iter().filter(|path| **path == page.path).count();
    let pages = pages.filter(|page| of_book(&page.path) && count(page) != 1);
    pages
        .map(|page| {
            summary.finding(1, format!("has `{}` {} times: a page is in the book once", page.path, count(page)))
        })
        .collect()
}

/// A reader of the book finds there what its pages link to, unless it is no page.
fn leads_out(page: &File, of_book: &BTreeSet<&str>) -> Vec<Finding> {
    let out = |link: &Link| {
        let path = link.path(&page.path)?;
        let is_page = path.ends_with(".md") || !path.rsplit('/').next().is_some_and(|name| name.contains('.'));
        let there = of_book.contains(&*path) || of_book.contains(&*format!("{path}/README.md"));
        (is_page && !there).then_some(())
    };
    let links = links(&page.text);
    let found = links.iter().filter_map(|link| out(link).map(|()| link));
    found
        .map(|link| {
            page.finding(
                link.line(&page.text),
                format!("link `{}` leads out of the book: add it to {SUMMARY}", link.to),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(files: &[(&str, &str)]) -> Vec<String> {
        check(&Tree::of(files)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_link_leads_to_a_file_a_directory_or_a_heading() {
        let page = "# A `b` (c)\n\n[x](#a-b-c) [y](d/e.md#two) [z](d) [w](https://x/y.md)\n";
        assert_eq!(messages(&[("a.md", page), ("d/e.md", "## Two\n[up](../a.md)\n")]), Vec::<String>::new());
        let found = messages(&[("a.md", "[x](#a)\n\n[y](d/e.md#one)\n[z](e)\n[w](d/f.md)\n"), ("d/e.md", "## Two\n")]);
        assert_eq!(
            found,
            [
                "a.md:1: link `#a` leads to no heading",
                "a.md:3: link `d/e.md#one` leads to no heading",
                "a.md:4: link `e` leads to no file",
                "a.md:5: link `d/f.md` leads to no file",
            ]
        );
    }

    #[test]
    fn the_book_has_each_page_once_and_what_its_pages_link_to() {
        let summary = "- [a](a.md)\n- [s](../spec/s.md)\n- [b](b/README.md)\n";
        let page = "[b](b) [s](../spec/s.md) [file](x.toml)\n";
        let mut files = vec![(SUMMARY, summary), ("docs/a.md", page), ("spec/s.md", ""), ("docs/b/README.md", "")];
        files.push(("docs/x.toml", ""));
        assert_eq!(messages(&files), Vec::<String>::new());
        files[1].1 = "[x](../X.md)\n";
        files.extend([("docs/new.md", ""), ("X.md", "")]);
        assert_eq!(
            messages(&files),
            [
                "docs/SUMMARY.md:1: has `docs/new.md` 0 times: a page is in the book once",
                "docs/a.md:1: link `../X.md` leads out of the book: add it to docs/SUMMARY.md",
            ]
        );
    }
}
