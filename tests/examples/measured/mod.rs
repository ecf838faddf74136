//! How what was measured is printed, and compared: times with times of the same run alone, taken in turn.
#![expect(clippy::print_stdout, reason = "a tool: what it prints is its result")]
#![allow(dead_code, reason = "no tool needs all of it")]

use std::time::Duration;

use serde_json::json;

/// `bound` as in `<=1.3`.
pub(crate) fn figure(name: &str, value: f64, unit: &str, bound: Option<&str>) {
    println!("{}", json!({"name": name, "value": value, "unit": unit, "bound": bound}));
}

/// The median of the ratios of times that were taken in turn.
pub(crate) fn ratio(of: &[Duration], to: &[Duration]) -> f64 {
    median(of.iter().zip(to).map(|(of, to)| of.as_secs_f64() / to.as_secs_f64()).collect())
}

/// The median in milliseconds.
pub(crate) fn milliseconds(times: &[Duration]) -> f64 {
    median(times.iter().map(|time| time.as_secs_f64() * 1e3).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    f64::midpoint(at(values.len().saturating_sub(1) / 2), at(values.len() / 2))
}
