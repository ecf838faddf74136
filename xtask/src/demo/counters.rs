//! What programs have counted, read from their pinned maps with bpftool, and what they must have counted: packets × step.
//!
//! Must never ask bpfd for a count: the kernel is the witness.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::shell::Shell;

/// One counter of the show: a per-CPU array of one u64.
#[derive(Debug)]
pub(super) struct Counter {
    /// The app that it belongs to.
    pub(super) app: String,
    /// What a packet adds.
    pub(super) step: u64,
    /// The map's pin, as `bpfctl get -o json` names it.
    pub(super) pin: String,
    /// What it must hold now.
    pub(super) expected: u64,
}

impl Counter {
    pub(super) fn new(app: &str, step: u64, pin: String) -> Self {
        Self { app: app.to_owned(), step, pin, expected: 0 }
    }

    /// Reads it, and shows it beside what it must be.
    pub(super) fn check(&self, shell: &Shell) -> Result<()> {
        let Self { app, step, pin, expected } = self;
        println!("$ bpftool map dump pinned {pin}");
        let sum = self.read(shell)?;
        println!("# {app}: {sum} over all CPUs; {} packets x {step} = {expected}", expected / step.max(&1));
        if sum != *expected {
            bail!("the counter of `{app}` is {sum}, and must be {expected}");
        }
        Ok(())
    }

    /// What it holds now.
    pub(super) fn read(&self, shell: &Shell) -> Result<u64> {
        sum(&shell.quiet(&["bpftool", "--json", "map", "dump", "pinned", &self.pin])?)
    }
}

/// The sum over all CPUs of a dump's one element.
fn sum(dump: &str) -> Result<u64> {
    let dump: Value = serde_json::from_str(dump).context("bpftool printed no JSON")?;
    let values = dump.pointer("/0/values").and_then(Value::as_array).context("the dump has no values per CPU")?;
    let mut sum = 0_u64;
    for value in values {
        let bytes = value.get("value").and_then(Value::as_array).context("a CPU without a value")?;
        let bytes = bytes.iter().map(byte).collect::<Result<Vec<u8>>>()?;
        let bytes = <[u8; 8]>::try_from(bytes.as_slice()).context("a value that is not of 8 bytes")?;
        sum = sum.checked_add(u64::from_ne_bytes(bytes)).context("the sum is too large")?;
    }
    Ok(sum)
}

/// `"0x2a"`.
fn byte(value: &Value) -> Result<u8> {
    let digits = value.as_str().and_then(|text| text.strip_prefix("0x")).context("not a byte in hex")?;
    Ok(u8::from_str_radix(digits, 16)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(cpus: &[&str]) -> String {
        let values: Vec<String> =
            cpus.iter().enumerate().map(|(cpu, value)| format!(r#"{{"cpu":{cpu},"value":[{value}]}}"#)).collect();
        format!(r#"[{{"key":["0x00","0x00","0x00","0x00"],"values":[{}]}}]"#, values.join(","))
    }

    #[test]
    fn all_cpus_are_summed() {
        let bytes = |n: u64| n.to_ne_bytes().map(|b| format!(r#""0x{b:02x}""#)).join(",");
        assert_eq!(sum(&dump(&[&bytes(300), &bytes(4)])).unwrap(), 304);
        assert!(sum(&dump(&[&bytes(u64::MAX), &bytes(1)])).is_err());
        assert!(sum(&dump(&[r#""0x01""#])).is_err());
        assert!(sum("[]").is_err() && sum("Error: x").is_err());
    }
}
