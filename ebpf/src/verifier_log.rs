//! Reads the kernel verifier's log: what it objects to, at which instruction, and which C line that came from.
//!
//! The log is text for people and changes with every kernel: what is not recognised is left out, and the raw log is kept by
//! others. Must never cost more than its tail, whatever its size, nor pass on control characters.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::line_info::{LineTable, SourceLocation};

/// What is read of a log, bytes from its end: the verdict is there.
const TAIL: usize = 64 << 10;
/// Lines of a message that are kept, and characters of each.
const MAX_MESSAGE_LINES: usize = 4;
const MAX_LINE: usize = 512;

/// Where a function begins in a program as it was loaded: callees follow the program's own instructions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkedFunction {
    /// Its name in the object.
    pub name: String,
    /// Instruction slot from the program's start.
    pub start: u32,
}

/// What a log says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// The verifier's words; several lines are joined by `; `.
    pub message: Option<String>,
    /// The instruction slot of the loaded program.
    pub instruction: Option<u32>,
    /// The function it is in, and the slot from that one's start.
    pub function: Option<(String, u32)>,
    /// The C line it came from; see [`Rejection::locate`].
    pub location: Option<SourceLocation>,
}

impl Rejection {
    /// Looks the C line up in the lines of the object that the program is of.
    pub fn locate(&mut self, lines: &LineTable) {
        let function = self.function.as_ref();
        self.location = function.and_then(|(name, slot)| lines.locate(name, *slot)).cloned();
    }
}

/// `./rejected.c:18:11: invalid access to packet`: what is known of it.
impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(SourceLocation { file, line, column, text: _ }) = &self.location {
            write!(f, "{file}:{line}:{column}: ")?;
        }
        f.write_str(self.message.as_deref().unwrap_or("it does not say why"))
    }
}

/// Lines that say nothing about a refusal: totals, states, what is looked at next (`kernel/bpf/verifier.c`, `log.c`).
const NOISE: [&str; 20] = [
    "processed ",
    "verification time ",
    "stack depth ",
    "mark_precise: ",
    "last_idx ",
    "regs=",
    "parent ",
    "propagating ",
    "from ",
    "caller:",
    "callee:",
    "returning from callee:",
    "to caller at ",
    "func#",
    "Func#",
    "Validating ",
    "Live regs before insn:",
    "BPF program load failed",
    "-- BEGIN",
    "-- END",
];

/// Reads a log. `functions` are those of the loaded program, in any order; one that lacks a name is not spoken of.
pub fn read(log: &[u8], functions: &[LinkedFunction]) -> Rejection {
    let tail = String::from_utf8_lossy(log.get(log.len().saturating_sub(TAIL)..).unwrap_or_default());
    let text: Vec<&str> = tail.lines().map(|line| line.trim_end_matches('\0')).collect();
    let last = text.iter().rposition(|line| instruction_of(line).is_some());
    let after = text.get(last.map_or(0, |at| at + 1)..).unwrap_or_default();
    let words: Vec<&str> = after.iter().copied().filter(|line| is_message(line)).collect();
    // Checks that come before the walk end the log at once; the totals of a walk that went well would too.
    let words = words.get(words.len().saturating_sub(MAX_MESSAGE_LINES)..).unwrap_or_default();
    let mut message = (!words.is_empty()).then(|| words.iter().map(|line| shown(line)).collect::<Vec<_>>().join("; "));
    // The one message about a helper that does not say which.
    if let (Some(message), Some(helper)) =
        (&mut message, last.and_then(|at| text.get(at)).and_then(|line| helper(line)))
        && message.contains("GPL-restricted function")
    {
        message.push_str(&format!(": {}", shown(helper)));
    }

    let walked = last.and_then(|at| text.get(at)).and_then(|line| instruction_of(line));
    let instruction = walked.or_else(|| words.iter().find_map(|line| instruction_named(line)));
    let function = instruction.and_then(|at| {
        let function =
            functions.iter().filter(|function| function.start <= at).max_by_key(|function| function.start)?;
        (!function.name.is_empty()).then(|| (function.name.clone(), at - function.start))
    });
    Rejection { message, instruction, function, location: None }
}

/// `12: (71) r2 = *(u8 *)(r1 +12)`: the slot. States (`0: R1=ctx()`) have no code in brackets.
fn instruction_of(line: &str) -> Option<u32> {
    let (number, rest) = line.split_once(": (")?;
    let (code, _) = rest.split_once(')')?;
    let is_code = code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_code { number.parse().ok() } else { None }
}

/// `6: (85) call bpf_probe_read_kernel#113`: the helper.
fn helper(line: &str) -> Option<&str> {
    line.split_once(" call ").map(|(_, helper)| helper.trim_end())
}

/// `unreachable insn 7`, `back-edge from insn 9 to 3`: the slot.
fn instruction_named(line: &str) -> Option<u32> {
    let (_, rest) = line.split_once("insn ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

fn is_message(line: &str) -> bool {
    let is_state =
        || line.split_once(':').is_some_and(|(at, _)| !at.is_empty() && at.bytes().all(|b| b.is_ascii_digit()));
    !line.is_empty()
        && !line.starts_with([' ', '\t', ';'])
        && !NOISE.iter().any(|noise| line.starts_with(noise))
        && !is_state()
}

fn shown(line: &str) -> String {
    let mut shown = String::new();
    for c in line.chars().take(MAX_LINE) {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: &[u8] = include_bytes!("../tests/objects/rejected.o");
    const DIRECT: &[u8] = include_bytes!("../tests/logs/direct_6_18.txt");
    const BY_CALL: &[u8] = include_bytes!("../tests/logs/by_call_6_18.txt");

    fn functions(of: &[(&str, u32)]) -> Vec<LinkedFunction> {
        of.iter().map(|(name, start)| LinkedFunction { name: (*name).to_owned(), start: *start }).collect()
    }

    /// message | instruction | function | file:line:column: text
    fn check(log: &[u8], of: &[(&str, u32)], expected: &str) {
        let mut found = read(log, &functions(of));
        found.locate(&LineTable::read(OBJECT).unwrap());
        let Rejection { message, instruction, function, location } = found;
        let place = location.map(|l| format!("{}:{}:{}: {}", l.file, l.line, l.column, l.text)).unwrap_or_default();
        let instruction = instruction.map(|at| at.to_string()).unwrap_or_default();
        let function = function.map(|(name, _)| name).unwrap_or_default();
        let text = [message.unwrap_or_default(), instruction, function, place].join(" | ");
        assert_eq!(text, expected);
    }

    const WORDS: &str =
        "invalid access to packet, off=12 size=1, R1(id=0,off=12,r=0); R1 offset is outside of the packet";

    #[test]
    fn a_refusal_names_its_c_line() {
        let expected = format!("{WORDS} | 1 | direct | ./rejected.c:18:11: if (eth->h_proto == 8)");
        check(DIRECT, &[("direct", 0)], &expected);
    }

    #[test]
    fn a_refusal_in_a_callee_names_the_callees_line() {
        let expected = format!("{WORDS} | 12 | protocol | ./rejected.c:11:14: return eth->h_proto;");
        check(BY_CALL, &[("protocol", 11), ("by_call", 0)], &expected);
    }

    #[test]
    fn a_refusal_before_the_walk_names_its_instruction_in_words() {
        let log = b"func#0 @0\nunreachable insn 2\nprocessed 0 insns (limit 1000000) max_states_per_insn 0\n";
        check(log, &[("direct", 0)], "unreachable insn 2 | 2 | direct | ./rejected.c:18:11: if (eth->h_proto == 8)");
    }

    #[test]
    fn a_helper_for_others_is_named() {
        let words = "cannot call GPL-restricted function from non-GPL compatible program";
        let log = format!("6: (85) call bpf_probe_read_kernel#113\n{words}\nprocessed 7 insns (limit 1000000)\n");
        check(log.as_bytes(), &[], &format!("{words}: bpf_probe_read_kernel#113 | 6 |  | "));
    }

    #[test]
    fn a_log_that_says_nothing_gives_nothing() {
        check(b"", &[("direct", 0)], " |  |  | ");
        check(b"\xff\xfe\x00", &[], "\u{fffd}\u{fffd} |  |  | ");
        check(b"processed 2 insns (limit 1000000)\n", &[], " |  |  | ");
    }

    #[test]
    fn only_the_tail_of_a_huge_log_is_read() {
        let mut log = b"1: (95) exit\n".repeat(1 << 20);
        log.extend_from_slice(DIRECT);
        let expected = format!("{WORDS} | 1 | direct | ./rejected.c:18:11: if (eth->h_proto == 8)");
        check(&log, &[("direct", 0)], &expected);
    }
}
