//! A terminal as a picture: lines with the colours that programs gave them, as SVG text.
//!
//! Must never show what was not printed.

use std::fmt::Write as _;

/// Widths and heights in pixels.
const CHARACTER: f64 = 8.4;
const LINE: usize = 20;
const MARGIN: usize = 18;

const STYLE: &str = "text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#d8dee9;white-space:pre}\
.p{fill:#7f8ea3}.b{font-weight:bold}.r{fill:#ff7b72;font-weight:bold}.y{fill:#e3b341;font-weight:bold}.c{fill:#6cb6ff;font-weight:bold}";

/// Of commands with what each printed, in the order in which they were typed.
pub fn svg(title: &str, session: &[(&str, &str)]) -> String {
    let mut lines = Vec::new();
    for (command, printed) in session {
        lines.push(format!(r#"<tspan class="p">$ </tspan><tspan class="b">{}</tspan>"#, escape(command)));
        lines.extend(printed.lines().map(styled));
        lines.push(String::new());
    }
    lines.pop();
    let columns =
        session.iter().flat_map(|(command, printed)| printed.lines().map(plain).chain([format!("$ {command}")]));
    let columns = u32::try_from(columns.map(|line| line.chars().count()).max().unwrap_or_default()).unwrap();
    let (width, height) = (f64::from(columns).mul_add(CHARACTER, 36.0).ceil(), lines.len() * LINE + 2 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" role=\"img\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#1c2330\"/>\n",
        escape(title)
    );
    for (number, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_empty()) {
        let y = MARGIN + number * LINE + 14;
        writeln!(svg, "<text x=\"{MARGIN}\" y=\"{y}\" xml:space=\"preserve\">{line}</text>").unwrap();
    }
    svg + "</svg>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The parts of a line, each with the codes before it (ECMA-48, SGR).
fn parts(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut pieces = line.split("\u{1b}[");
    let first = pieces.next().map(|text| ("0", text));
    first.into_iter().chain(pieces.filter_map(|piece| piece.split_once('m')))
}

fn plain(line: &str) -> String {
    parts(line).map(|(_, text)| text).collect()
}

fn styled(line: &str) -> String {
    let part = |(code, text): (&str, &str)| match code {
        "1;31" => format!(r#"<tspan class="r">{}</tspan>"#, escape(text)),
        "1;33" => format!(r#"<tspan class="y">{}</tspan>"#, escape(text)),
        "1;36" => format!(r#"<tspan class="c">{}</tspan>"#, escape(text)),
        "1" => format!(r#"<tspan class="b">{}</tspan>"#, escape(text)),
        _ => escape(text),
    };
    parts(line).filter(|(_, text)| !text.is_empty()).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_become_styles_and_nothing_else_is_left() {
        assert_eq!(styled("\u{1b}[1;31merror\u{1b}[0m: a <b>"), r#"<tspan class="r">error</tspan>: a &lt;b&gt;"#);
        assert_eq!(plain("\u{1b}[1;31merror\u{1b}[0m: a"), "error: a");
        let picture = svg("t", &[("true", "x\ny\n")]);
        assert!(picture.contains(r#"<tspan class="p">$ </tspan><tspan class="b">true</tspan>"#), "{picture}");
        assert_eq!(picture.matches("<text ").count(), 3);
    }
}
