//! A page of Markdown as a manual page: what man(7) needs, of the Markdown that this tree's pages use.
//!
//! Must never lose text: an element that it does not know is an error, not a gap.

use anyhow::{Result, bail};
use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// What stands at the head of a page.
pub(super) struct Head<'a> {
    pub(super) name: &'a str,
    pub(super) section: u8,
    /// One line, without a full stop.
    pub(super) summary: &'a str,
    pub(super) version: &'a str,
}

impl Head<'_> {
    /// The lines before the text.
    pub(super) fn write(&self) -> String {
        let Self { name, section, summary, version } = self;
        let (title, summary) = (name.to_uppercase(), escape(summary));
        format!(
            ".TH \"{title}\" \"{section}\" \"\" \"bpfd {version}\" \"\"\n.SH NAME\n{} \\- {summary}\n",
            escape(name)
        )
    }
}

/// Lines that are shown as they are, such as the help of a program.
pub(super) fn verbatim(text: &str) -> String {
    format!(".PP\n.EX\n{}\n.EE\n", protect(&escape(text.trim_end_matches('\n'))))
}

/// The text of a page of Markdown. Its title is left out: the page has a name already.
pub(super) fn page(markdown: &str) -> Result<String> {
    let mut writer = Writer::default();
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        writer.event(event)?;
    }
    Ok(writer.out)
}

#[derive(Default)]
struct Writer {
    out: String,
    /// Text of the paragraph, heading or cell that is being read.
    text: String,
    /// For each list around what is read: the number of its next item, or none.
    lists: Vec<Option<u64>>,
    /// The item has no paragraph yet.
    item_begins: bool,
    title: bool,
    code: bool,
    /// Links in it; they are told after what they belong to.
    target: Option<String>,
    rows: Vec<Vec<String>>,
}

impl Writer {
    fn event(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Start(tag) => self.start(tag)?,
            Event::End(tag) => self.end(tag)?,
            Event::Text(text) if self.code => self.text.push_str(&text),
            Event::Text(text) => self.text.push_str(&escape(&text)),
            Event::Code(code) => self.text.push_str(&format!("\\fB{}\\fR", escape(&code))),
            Event::SoftBreak | Event::HardBreak => self.text.push('\n'),
            other => bail!("no page has this kind of Markdown yet: {other:?}"),
        }
        Ok(())
    }

    fn start(&mut self, tag: Tag<'_>) -> Result<()> {
        match tag {
            Tag::Paragraph | Tag::TableHead | Tag::TableRow | Tag::TableCell => {
                // A row is begun by its first cell.
                if matches!(tag, Tag::TableHead | Tag::TableRow) {
                    self.rows.push(Vec::new());
                }
            }
            Tag::Heading { level, .. } => self.title = level == HeadingLevel::H1,
            Tag::Strong => self.text.push_str("\\fB"),
            Tag::Emphasis => self.text.push_str("\\fI"),
            Tag::Link { dest_url, .. } => self.target = Some(dest_url.into_string()),
            Tag::CodeBlock(_) => {
                self.flush();
                self.code = true;
            }
            Tag::List(first) => {
                self.flush();
                if !self.lists.is_empty() {
                    self.out.push_str(".RS\n");
                }
                self.lists.push(first);
            }
            Tag::Item => {
                let mark = match self.lists.last_mut() {
                    Some(Some(number)) => {
                        let mark = format!("{number}.");
                        *number += 1;
                        mark
                    }
                    Some(None) | None => "\\(bu".to_owned(),
                };
                self.out.push_str(&format!(".IP {mark} 4\n"));
                self.item_begins = true;
            }
            Tag::Table(_) => self.rows.clear(),
            other => bail!("no page has this kind of Markdown yet: {other:?}"),
        }
        Ok(())
    }

    fn end(&mut self, tag: TagEnd) -> Result<()> {
        match tag {
            TagEnd::Paragraph => self.flush(),
            TagEnd::Heading(level) => {
                let text = std::mem::take(&mut self.text);
                match (self.title, level) {
                    (true, _) => {}
                    (false, HeadingLevel::H2) => self.out.push_str(&format!(".SH \"{}\"\n", quoted(&text))),
                    (false, _) => self.out.push_str(&format!(".SS \"{}\"\n", quoted(&text))),
                }
                self.title = false;
            }
            TagEnd::Strong | TagEnd::Emphasis => self.text.push_str("\\fR"),
            TagEnd::Link => {
                // Another page of the tree has no place on the host: its text alone stays.
                if let Some(target) = self.target.take().filter(|target| target.starts_with("https://")) {
                    self.text.push_str(&format!(" <{}>", escape(&target)));
                }
            }
            TagEnd::CodeBlock => {
                self.code = false;
                let text = std::mem::take(&mut self.text);
                let block = verbatim(&text);
                let inside = !self.lists.is_empty();
                self.out.push_str(&if inside { format!(".RS 4\n{block}.RE\n") } else { block });
            }
            TagEnd::Item => {
                self.flush();
                self.item_begins = false;
            }
            TagEnd::List(_) => {
                self.lists.pop();
                self.out.push_str(if self.lists.is_empty() { ".PP\n" } else { ".RE\n" });
            }
            TagEnd::TableCell => {
                let text = std::mem::take(&mut self.text);
                if let Some(row) = self.rows.last_mut() {
                    row.push(text);
                }
            }
            TagEnd::TableHead | TagEnd::TableRow => {}
            TagEnd::Table => self.table(),
            other => bail!("no page has this kind of Markdown yet: {other:?}"),
        }
        Ok(())
    }

    /// Ends a paragraph.
    fn flush(&mut self) {
        let text = std::mem::take(&mut self.text);
        if text.is_empty() {
            return;
        }
        // The first paragraph of an item follows its mark; later ones keep its margin.
        match (self.item_begins, self.lists.is_empty()) {
            (true, _) => self.item_begins = false,
            (false, true) => self.out.push_str(".PP\n"),
            (false, false) => self.out.push_str(".IP\n"),
        }
        self.out.push_str(&protect(&text));
        self.out.push('\n');
    }

    /// A terminal has no room for columns: each row is a paragraph of its own, below its first cell. The heads of the columns stand
    /// above; where there are several, they stand before each cell too.
    fn table(&mut self) {
        let mut rows = std::mem::take(&mut self.rows).into_iter();
        let heads = rows.next().unwrap_or_default();
        let shown = heads.iter().filter(|head| !head.is_empty()).map(|head| format!("\\fI{head}\\fR"));
        let shown = shown.collect::<Vec<_>>().join(", ");
        if !shown.is_empty() {
            self.out.push_str(&format!(".PP\n{shown}:\n"));
        }
        for row in rows {
            let mut cells = row.iter().map(|cell| cell.replace('\n', " ")).zip(&heads);
            let Some((first, _)) = cells.next() else { continue };
            self.out.push_str(&format!(".TP\n\\&{first}\n"));
            for (number, (cell, head)) in cells.filter(|(cell, _)| !cell.is_empty()).enumerate() {
                let between = if number == 0 { "" } else { ".br\n" };
                let several = heads.len() > 2 && !head.is_empty();
                let named = if several { format!("\\fI{head}:\\fR ") } else { String::new() };
                self.out.push_str(&format!("{between}\\&{named}{cell}\n"));
            }
        }
        self.out.push_str(".PP\n");
    }
}

/// No character has a meaning of roff's.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\e"),
            '-' => out.push_str("\\-"),
            '\'' => out.push_str("\\(aq"),
            '^' => out.push_str("\\(ha"),
            '~' => out.push_str("\\(ti"),
            '`' => out.push_str("\\(ga"),
            '…' => out.push_str("..."),
            c => out.push(c),
        }
    }
    out
}

/// The argument of a macro.
fn quoted(text: &str) -> String {
    text.replace('"', "\\(dq").replace('\n', " ")
}

/// A line that begins with a control character is text all the same.
fn protect(text: &str) -> String {
    text.split('\n')
        .map(|line| if line.starts_with('.') { format!("\\&{line}") } else { line.to_owned() })
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_element_of_a_page_is_one_of_man() {
        let markdown = "# Title\n\nText with `code`, **weight** and [a link](https://x.example/a-b), and\n[a page](x.md).\n\n\
            ## Part \"one\"\n\n- first\n- second\n  on two lines\n\n1. one\n\n   ```\n   .x -y\n   ```\n\n### Sub\n\n\
            | key | what |\n|---|---|\n| `a` | it's |\n";
        let expected = ".PP\nText with \\fBcode\\fR, \\fBweight\\fR and a link <https://x.example/a\\-b>, and\na page.\n\
            .SH \"Part \\(dqone\\(dq\"\n.IP \\(bu 4\nfirst\n.IP \\(bu 4\nsecond\non two lines\n.PP\n\
            .IP 1. 4\none\n.RS 4\n.PP\n.EX\n\\&.x \\-y\n.EE\n.RE\n.PP\n.SS \"Sub\"\n\
            .PP\n\\fIkey\\fR, \\fIwhat\\fR:\n.TP\n\\&\\fBa\\fR\n\\&it\\(aqs\n.PP\n";
        assert_eq!(page(markdown).unwrap(), expected);
    }

    #[test]
    fn what_it_does_not_know_is_no_gap() {
        for unknown in ["![a picture](x.png)", "text\n\n> a quotation", "<b>x</b>", "---"] {
            assert!(page(unknown).is_err(), "{unknown}");
        }
    }
}
