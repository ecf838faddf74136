//! One measured number, its bound, and how both are shown.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail};
use serde_json::{Value, json};

/// A number without a bound is there to be read beside one that has one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figure {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) unit: String,
    pub(super) bound: Option<Bound>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Figure {
    pub(crate) fn new(name: &str, value: f64, unit: &str, bound: Option<Bound>) -> Self {
        Self { name: name.to_owned(), value, unit: unit.to_owned(), bound }
    }

    /// As a program that measures prints it: name, value, unit, and a bound or null.
    pub(super) fn from_json(line: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(line)?;
        let text = |key: &str| value.get(key).and_then(Value::as_str).with_context(|| format!("no `{key}`"));
        let bound = match value.get("bound") {
            None | Some(Value::Null) => None,
            Some(_) => Some(text("bound")?.parse()?),
        };
        let number = value.get("value").and_then(Value::as_f64).context("no `value`")?;
        Ok(Self::new(text("name")?, number, text("unit")?, bound))
    }

    pub(super) fn to_json(&self) -> Value {
        let Self { name, value, unit, bound } = self;
        let bound = bound.map(|bound| bound.to_string());
        json!({"name": name, "value": rounded(*value), "unit": unit, "bound": bound, "holds": self.holds()})
    }

    /// `None` without a bound.
    pub(super) fn holds(&self) -> Option<bool> {
        self.bound.map(|bound| match bound {
            Bound::AtMost(most) => self.value <= most,
            Bound::AtLeast(least) => self.value >= least,
        })
    }
}

impl FromStr for Bound {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |text: &str| text.parse().with_context(|| format!("`{text}` is not a number"));
        match (text.strip_prefix("<="), text.strip_prefix(">=")) {
            (Some(most), _) => number(most).map(Self::AtMost),
            (_, Some(least)) => number(least).map(Self::AtLeast),
            (None, None) => bail!("`{text}` is not a bound: `<=NUMBER` or `>=NUMBER`"),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "<={most}"),
            Self::AtLeast(least) => write!(f, ">={least}"),
        }
    }
}

/// Three decimals: more is noise.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

pub(super) fn table(figures: &[Figure]) -> String {
    let width = figures.iter().map(|figure| figure.name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for figure in figures {
        let Figure { name, value, unit, bound } = figure;
        let bound = bound.map(|bound| bound.to_string()).unwrap_or_default();
        let holds = match figure.holds() {
            Some(true) => "holds",
            Some(false) => "DOES NOT HOLD",
            None => "",
        };
        let row = format!("{name:width$}  {:>12} {unit:6}  {bound:>8}  {holds}", rounded(*value));
        // Writing to a string cannot fail.
        _ = writeln!(text, "{}", row.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_reads_as_it_is_written_and_judges() {
        for (text, value, holds) in
            [("<=1.3", 1.3, true), ("<=1.3", 1.301, false), (">=2", 2.0, true), (">=2", 1.9, false)]
        {
            let bound: Bound = text.parse().unwrap();
            assert_eq!(bound.to_string(), text);
            assert_eq!(Figure::new("x", value, "ratio", Some(bound)).holds(), Some(holds), "{text} {value}");
        }
        assert!("1.3".parse::<Bound>().is_err());
        assert!("<=x".parse::<Bound>().is_err());
    }

    #[test]
    fn a_line_of_a_program_is_a_figure() {
        let line = r#"{"name":"a","value":0.48251,"unit":"ratio","bound":"<=0.8"}"#;
        let figure = Figure::from_json(line).unwrap();
        assert_eq!(figure, Figure::new("a", 0.48251, "ratio", Some(Bound::AtMost(0.8))));
        let shown = json!({"name": "a", "value": 0.483, "unit": "ratio", "bound": "<=0.8", "holds": true});
        assert_eq!(figure.to_json(), shown);
        let line = r#"{"name":"b","value":3,"unit":"ms","bound":null}"#;
        assert_eq!(Figure::from_json(line).unwrap(), Figure::new("b", 3.0, "ms", None));
        assert!(Figure::from_json(r#"{"name":"b","unit":"ms"}"#).is_err());
    }

    #[test]
    fn the_table_says_what_does_not_hold() {
        let bad = Figure::new("long_name", 2.0, "ratio", Some(Bound::AtMost(1.3)));
        let figures = [bad, Figure::new("b", 1.5, "ms", None)];
        assert_eq!(
            table(&figures),
            "long_name             2 ratio      <=1.3  DOES NOT HOLD\nb                   1.5 ms\n"
        );
    }
}
