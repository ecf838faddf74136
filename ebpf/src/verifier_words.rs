//! What the kernel's verifier means by its words: common messages, in a sentence each, and what to do.
//!
//! The messages are text for people (`kernel/bpf/verifier.c`) and change with kernels: each entry is matched by the part that has stayed
//! the same. Kernels are asked whether they still write them by `bpfd/tests/host_kernel/verifier_words.rs`. What is not known here is
//! shown as the kernel wrote it. Must never explain a message that it only half knows.

/// An explanation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Words {
    /// What the verifier objects to, as a sentence without its capital and stop; at most 150 bytes.
    pub means: &'static str,
    /// What usually mends it.
    pub advice: &'static str,
}

struct Entry {
    /// Each is in the message.
    parts: &'static [&'static str],
    words: Words,
}

const fn entry(parts: &'static [&'static str], means: &'static str, advice: &'static str) -> Entry {
    Entry { parts, words: Words { means, advice } }
}

/// The first that fits is taken: the special before the general.
const TABLE: [Entry; 31] = [
    entry(
        &["invalid access to packet"],
        "bytes of the packet are used that may be behind its end",
        "compare the end of what you use with `data_end` first, on the same pointer: `if ((void *)(eth + 1) > data_end) return XDP_PASS;`",
    ),
    entry(
        &["invalid mem access '", "_or_null'"],
        "the pointer may be NULL here, as what a lookup gives may be",
        "return early if it is NULL, before this line and on every path to it",
    ),
    entry(
        &["invalid mem access 'scalar'"],
        "a number is used as a pointer: the verifier does not know, or no longer knows, what it points to",
        "load `data` and `data_end` anew after a helper that changes the packet; read kernel memory with `bpf_probe_read_kernel` or BPF_CORE_READ",
    ),
    // Up to Linux 5.17, what is a scalar now.
    entry(
        &["invalid mem access 'inv'"],
        "a number is used as a pointer: the verifier does not know, or no longer knows, what it points to",
        "load `data` and `data_end` anew after a helper that changes the packet; read kernel memory with `bpf_probe_read_kernel` or BPF_CORE_READ",
    ),
    entry(
        &["invalid access to map value"],
        "bytes are used that may be behind the end of the map's value",
        "bound the index before this line: `if (index >= SIZE) return …;`, or `index &= SIZE - 1` where SIZE is a power of two",
    ),
    entry(
        &["unbounded memory access, make sure to bounds check"],
        "an index or offset may have any value here",
        "bound it before this line: `if (index >= SIZE) return …;`, or `index &= SIZE - 1` where SIZE is a power of two",
    ),
    entry(
        &["unbounded memory access, use 'var &= const'"],
        "a size or offset may have any value here",
        "bound it before this line with `&=` and a constant, or a comparison; keep it unsigned",
    ),
    entry(
        &["min value is negative"],
        "a size or offset may be negative here",
        "make the variable unsigned, or refuse negative values before this line",
    ),
    entry(
        &["Unreleased reference"],
        "something that was acquired, such as ring buffer space or a socket, is not given back on some path to the end",
        "submit, discard or release it on every path, also where a later call fails",
    ),
    entry(
        &["infinite loop detected"],
        "a loop comes back to where it was with nothing changed: it may never end",
        "count the loop's turns against a constant limit: `for (int i = 0; i < LIMIT; i++)`",
    ),
    entry(
        &["BPF program is too large. Processed"],
        "following all paths through the program takes more than a million instructions",
        "make loops shorter or use `bpf_loop`, and put repeated work into global functions, which are verified once",
    ),
    entry(
        &["combined stack size", "Too large"],
        "a function and those that it calls need more than 512 bytes of stack together",
        "put large variables into a per-CPU array map",
    ),
    entry(
        &["tail_calls are not allowed when call stack of previous frames"],
        "functions that a tail call is made below may use 256 bytes of stack together",
        "put large variables into a per-CPU array map, or make the tail call in the program itself",
    ),
    entry(
        &["the call stack of", "frames is too deep"],
        "functions call each other deeper than the 8 levels that the kernel allows; a program that is fused with others is one level down",
        "let the compiler put functions into their callers: `static __always_inline`",
    ),
    entry(
        &["invalid write to stack"],
        "a write goes beyond the 512 bytes of stack that a program has",
        "put large variables into a per-CPU array map, and bound what indexes arrays on the stack",
    ),
    entry(
        &["invalid", "read from stack"],
        "a helper would read bytes of the stack that were never written",
        "set the whole variable first, padding too: `struct key key = {};`",
    ),
    entry(
        &["R0 !read_ok"],
        "the function may end without a result",
        "return a value on every path, such as `return XDP_PASS;`",
    ),
    entry(&["!read_ok"], "a variable is used that may never have been set", "set it on every path before this line"),
    entry(
        &["unreachable insn"],
        "there are instructions that no path leads to",
        "compile with `clang -O2 -target bpf`; a loop or function without an end leaves such code behind it",
    ),
    // The helper that aya and libbpf put where a CO-RE relocation has no answer: 0xbad2310.
    entry(
        &["invalid func unknown#195896080"],
        "a field or type of the kernel that the program uses is not in this kernel (CO-RE)",
        "ask first: `if (bpf_core_field_exists(…))`, or build the program for this kernel's types",
    ),
    // What a call of a weak function that nobody has becomes, as in libbpf: 2002000000.
    entry(
        &["invalid func unknown#2002000000"],
        "the program calls a function that it declares `__weak` and that neither the object nor bpfd supplies",
        "ask first: `if (bpf_ksym_exists(function))`, and do without it otherwise",
    ),
    entry(
        &["invalid func unknown#"],
        "this kernel has no helper of that number",
        "use a helper that this kernel has (`bpftool feature probe` lists them), or run a newer kernel",
    ),
    entry(
        &["program of this type cannot use helper"],
        "programs of this type, or verified with this reach, may not call this helper",
        "see bpf-helpers(7) for the types that may; with reach `packet`, have the image signed to get the others",
    ),
    // The same before Linux 6.10 or so.
    entry(
        &["unknown func "],
        "programs of this type, or verified with this reach, may not call this helper",
        "see bpf-helpers(7) for the types that may; with reach `packet`, have the image signed to get the others",
    ),
    entry(
        &["cannot call GPL-restricted function"],
        "the helper may only be called by programs under a licence that is compatible with the GPL",
        "if yours is: `char LICENSE[] SEC(\"license\") = \"GPL\";` or \"Dual BSD/GPL\"; else do without the helper",
    ),
    entry(
        &["type=", "expected="],
        "a helper gets an argument of the wrong kind: the message says which it takes",
        "pass a pointer to a variable on the stack or to a map's value, and check for NULL before",
    ),
    entry(
        &["write into map forbidden"],
        "the map, or the constant, may only be read by programs",
        "write to another map; of a global, leave out `const`",
    ),
    entry(
        &["invalid bpf_context access"],
        "programs of this type have no such field in their context, or may not use it this way",
        "use the fields of the context's struct in <linux/bpf.h>, with their own sizes",
    ),
    entry(
        &["dereference of modified ctx ptr"],
        "the context is used after something was added to its pointer",
        "use `ctx->field` with the pointer as it came; copy what you index into a variable",
    ),
    entry(
        &["pointer -= pointer prohibited"],
        "two pointers are subtracted, which a program that reaches packets only may not do",
        "compare them instead; the length of the packet is `bpf_xdp_get_buff_len(ctx)`; a signed image gets reach `kernel`",
    ),
    entry(
        &["pointer ", " pointer prohibited"],
        "two pointers are calculated with in a way that gives no pointer",
        "add numbers to pointers, never pointers to each other",
    ),
];

/// What a message of the verifier means, as [`crate::verifier_log::read`] found it; `None` if it is not one of those known.
pub fn explain(message: &str) -> Option<&'static Words> {
    TABLE.iter().find(|entry| entry.parts.iter().all(|part| message.contains(part))).map(|entry| &entry.words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_linux_6_18_are_explained() {
        // As the kernel wrote them for the programs of `bpfd/tests/host_kernel/verifier_words.rs`; the eighth is of a program that
        // takes it a minute to refuse.
        for (message, means) in [
            (
                "invalid access to packet, off=0 size=4, R1(id=0,off=0,r=0); R1 offset is outside of the packet",
                "behind its end",
            ),
            ("R1 invalid mem access 'scalar'", "a number is used"),
            ("invalid access to map value, value_size=8 off=255 size=1; R0 max value is outside", "map's value"),
            ("R0 unbounded memory access, make sure to bounds check any such access", "an index"),
            ("R3 unbounded memory access, use 'var &= const' or 'if (var < const)'", "a size"),
            ("R3 min value is negative, either use unsigned or 'var &= const'", "negative"),
            (
                "Unreleased reference id=2 alloc_insn=4; BPF_EXIT instruction in main prog would lead to reference leak",
                "acquired",
            ),
            (
                "BPF program is too large. Processed 1000001 insn; (cut: the log is longer than the kernel gives)",
                "million",
            ),
            ("tail_calls are not allowed when call stack of previous frames is 328 bytes. Too large", "256 bytes"),
            ("the call stack of 9 frames is too deep !", "8 levels"),
            ("invalid write to stack R1 off=-520 size=8", "512"),
            ("R7 !read_ok", "never have been set"),
            ("R0 !read_ok", "without a result"),
            ("unreachable insn 2", "no path"),
            ("invalid func unknown#100000", "no helper"),
            ("invalid func unknown#2002000000", "declares `__weak`"),
            ("program of this type cannot use helper bpf_skb_store_bytes#9", "may not call"),
            (
                "R2 type=scalar expected=fp, pkt, pkt_meta, map_key, map_value, mem, ringbuf_mem, buf, trusted_ptr_",
                "wrong kind",
            ),
            ("write into map forbidden, value_size=8 off=0 size=8", "only be read"),
            ("invalid bpf_context access off=400 size=4", "no such field"),
            ("dereference of modified ctx ptr R1 off=8 disallowed", "added to its pointer"),
            ("R1 pointer += pointer prohibited", "gives no pointer"),
            ("R1 pointer -= pointer prohibited", "subtracted"),
            ("invalid read from stack R2 off=-4 size=4", "never written"),
        ] {
            let found = explain(message).map(|words| words.means);
            assert!(found.is_some_and(|found| found.contains(means)), "{message}: {found:?}");
        }
    }

    #[test]
    fn an_unknown_message_is_not_explained() {
        assert_eq!(explain(""), None);
        assert_eq!(explain("the verifier of tomorrow says something else"), None);
    }

    #[test]
    fn every_explanation_fits_its_place() {
        for Entry { parts, words: Words { means, advice } } in &TABLE {
            assert!((1..=150).contains(&means.len()) && advice.len() <= 250, "{parts:?}");
            assert!(!means.ends_with('.') && !advice.ends_with('.'), "{parts:?}");
        }
    }
}
