//! Fusing in call form: several finished XDP programs become one, which runs them in order with libxdp's semantics.
//!
//! Owns the glue and the decision whether a program can be a member. It must never change a member's instructions: BPF
//! calls within a program are relative, so members move as they are, and what the verifier said of one alone holds.
//!
//! The glue, for members `P0..Pn` with masks `m0..mn`:
//! ```text
//!     r2 = map[chain record]        keeps the record alive as long as the program; nothing reads it
//!     r6 = r1                       the context
//!     r1 = r6; call Pi              for each member
//!     w2 = w0; w1 = mi | 1 << 31; r1 >>= r2; r1 &= 1; if r1 == 0 goto exit
//!     r0 = XDP_PASS                 the last member asked to go on, and nothing follows
//! exit:
//!     exit
//! ```
//! The test is what clang makes of libxdp's `(1U << ret) & actions` in Debian's `xdp-dispatcher.o`, so that verdicts
//! that are no XDP action end alike. A single member is called and its verdict returned raw, as libxdp has one program
//! replace the dispatcher's main function.
//!
//! The whole gets types of its own: a static function for each one of the members, `int f(void)`. Static ones are checked at
//! their calls, whatever their signatures say, with what the caller knows; with types, and not without, the kernel takes tail
//! calls and callbacks in them (`kernel/bpf/verifier.c`, `check_btf_func`, `check_ld_imm`).
//!
//! A tail call in a member ends that member: what it leads to returns to the glue. Kernels before 6.18 forget this: their verifier
//! takes the verdict of the path on which the tail call fails for the only one, and removes the glue that other verdicts lead to.
//! So a member with tail calls is a global function, `int f(struct xdp_md *ctx)`: its verdict may be anything to its caller.
//!
//! Over 400 lines with its tests, which run what they assemble on a small interpreter.
//!
//! Long because half are tests: the interpreter that checks the glue reads best beside it.

use std::collections::BTreeSet;
use std::os::fd::RawFd;

use crate::actions::XDP_PASS;
use crate::assembler::Assembler;
use crate::btf_build::{BtfBuilder, Linkage, TypeId, func_info};
use crate::bytes::{count, index};
use crate::chain_record::{ChainEntry, ChainPlace, ChainRecord, EncodeError};
use crate::guard;
use crate::insn::{Insn, LD_IMM64, PSEUDO_KFUNC_CALL, PSEUDO_MAP_FD, PSEUDO_MAP_VALUE, Reg};
use crate::license::is_gpl_compatible;
use crate::load_type::LoadType;
use crate::relocate::Finished;
use crate::verifier_log::LinkedFunction;

/// The kernel's name of a fused program.
pub const FUSED_NAME: &str = "bpfd_fused";
/// Functions in one program, main included (BPF_MAX_SUBPROGS in `include/linux/bpf_verifier.h`).
pub const MAX_FUNCTIONS: usize = 256;
/// Different maps in one program (MAX_USED_MAPS in `include/linux/bpf_verifier.h`), the chain's record included.
pub const MAX_MAPS: usize = 64;
/// Instructions in one program, and steps that the verifier takes through one (BPF_COMPLEXITY_LIMIT_INSNS).
pub const MAX_INSNS: usize = 1_000_000;

/// A program that is to run in a fused one, with its place in the chain.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    /// What the chain's record says of it.
    pub entry: ChainEntry,
    /// The program, linked against its own maps, whose fds must stay open until the fused program is loaded.
    pub program: &'a Finished,
}

/// Why programs cannot be fused in call form. `member` is a function's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotFuse {
    /// No programs.
    #[error("a chain without programs cannot be fused")]
    Empty,
    /// A member is not an XDP program for an interface.
    #[error("`{member}` is not an XDP program for an interface")]
    NotXdp {
        /// The member.
        member: String,
    },
    /// A member calls a kernel function by its BTF id, which means something beside the member's own descriptors only.
    #[error("`{member}` cannot run fused: it calls a kernel function")]
    KernelFunction {
        /// The member.
        member: String,
    },
    /// GPL-compatible programs beside others: no licence of the whole is true.
    #[error(
        "`{gpl}` is under a GPL-compatible licence and `{other}` {}: they cannot be one program",
        licensed(license)
    )]
    MixedLicences {
        /// The first member under a GPL-compatible licence.
        gpl: String,
        /// The first member under another one.
        other: String,
        /// That one's licence.
        license: String,
    },
    /// More of something than one program can have.
    #[error("fused, the programs have {found} {what}, more than the {limit} one program can have")]
    TooMany {
        /// `functions`, `maps` or `instructions`.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A member names something outside itself; what `relocate` finished never does.
    #[error("`{member}` is damaged")]
    Damaged {
        /// The member.
        member: String,
    },
    /// The chain cannot be recorded.
    #[error("cannot record the chain")]
    Record(#[from] EncodeError),
}

impl CannotFuse {
    /// Which of the members it is about, by its place: two may have one name. `None` if no single one is to blame.
    pub fn place_in(&self, members: &[Member<'_>]) -> Option<usize> {
        match self {
            Self::NotXdp { .. } | Self::KernelFunction { .. } | Self::Damaged { .. } => {
                members.iter().position(|member| check_member(member.program).is_err())
            }
            Self::MixedLicences { .. } => members.iter().position(|member| !is_gpl_compatible(&member.program.license)),
            Self::Empty | Self::TooMany { .. } | Self::Record(_) => None,
        }
    }
}

/// A fused program without the fd of its chain's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fused {
    record: Vec<u8>,
    btf: Vec<u8>,
    program: Finished,
}

impl Fused {
    /// The only value of the chain's map: an array of one entry under [`crate::chain_record::CHAIN_MAP_NAME`], with
    /// BPF_F_RDONLY_PROG, to be frozen once this is written.
    pub fn record(&self) -> &[u8] {
        &self.record
    }

    /// The program's types, for BPF_BTF_LOAD.
    pub fn btf(&self) -> &[u8] {
        &self.btf
    }

    /// The program, to be loaded with those types.
    pub fn link(mut self, record_fd: RawFd) -> Finished {
        // The program's first instruction loads the record's address.
        if let Some(load) = self.program.insns.first_mut() {
            load.imm = record_fd;
        }
        self.program
    }
}

/// Fuses programs in the order given, which is the order they run in, for the chain at `place`.
pub fn fuse(place: ChainPlace, members: &[Member<'_>]) -> Result<Fused, CannotFuse> {
    if members.is_empty() {
        return Err(CannotFuse::Empty);
    }
    for member in members {
        check_member(member.program)?;
    }
    let license = common_license(members)?;
    check_sizes(members)?;
    let record =
        ChainRecord { place, entries: members.iter().map(|member| member.entry.clone()).collect() }.encode()?;
    let insns = assemble(members)?;
    // Multi-buffer packets only if every member takes them: otherwise the kernel must refuse the attachment.
    let frags = members.iter().all(|member| member.program.load.has_frags());
    let load = if frags { LoadType::XDP.with_frags() } else { LoadType::XDP };
    let tail_calls = insns.iter().any(Insn::is_tail_call);
    let functions = functions(members);
    let global: BTreeSet<u32> = members
        .iter()
        .zip(member_starts(members))
        .filter(|(member, _)| member.program.insns.iter().any(Insn::is_tail_call))
        .map(|(_, start)| count(start))
        .collect();
    let (btf, func_info) = types(&functions, &global);
    let program = Finished {
        function: FUSED_NAME.to_owned(),
        name: FUSED_NAME.to_owned(),
        load: if tail_calls { load.for_tail_calls() } else { load },
        insns,
        license,
        kernel_version: None,
        func_info,
        line_info: Vec::new(),
        functions,
    };
    Ok(Fused { record, btf, program })
}

fn check_member(program: &Finished) -> Result<(), CannotFuse> {
    let member = || program.function.clone();
    if !program.load.is_xdp() {
        return Err(CannotFuse::NotXdp { member: member() });
    }
    if program.insns.iter().any(|insn| insn.is_call() && insn.src == PSEUDO_KFUNC_CALL) {
        return Err(CannotFuse::KernelFunction { member: member() });
    }
    guard::check_finished(&program.function, &program.insns, &maps_of(program))
        .map_err(|_outside| CannotFuse::Damaged { member: member() })
}

/// The fds that a finished program names.
fn maps_of(program: &Finished) -> BTreeSet<RawFd> {
    let names_map = |insn: &&Insn| insn.code == LD_IMM64 && matches!(insn.src, PSEUDO_MAP_FD | PSEUDO_MAP_VALUE);
    program.insns.iter().filter(names_map).map(|insn| insn.imm).collect()
}

/// How much members take of what one program may have, the glue included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Size {
    /// Of [`MAX_MAPS`].
    pub maps: usize,
    /// Of [`MAX_FUNCTIONS`].
    pub functions: usize,
    /// Of [`MAX_INSNS`].
    pub insns: usize,
}

impl Size {
    /// Of these members, fused.
    pub fn of(members: &[Member<'_>]) -> Self {
        let maps: BTreeSet<RawFd> = members.iter().flat_map(|member| maps_of(member.program)).collect();
        let functions: usize = members.iter().map(|member| guard::function_starts(&member.program.insns).len()).sum();
        let insns: usize = members.iter().map(|member| member.program.insns.len()).sum();
        let glue = members.len().saturating_mul(GLUE_PER_MEMBER).saturating_add(GLUE_FIXED);
        Self {
            maps: maps.len().saturating_add(1),
            functions: functions.saturating_add(1),
            insns: insns.saturating_add(glue),
        }
    }
}

fn check_sizes(members: &[Member<'_>]) -> Result<(), CannotFuse> {
    let Size { maps, functions, insns } = Size::of(members);
    for (what, found, limit) in
        [("maps", maps, MAX_MAPS), ("functions", functions, MAX_FUNCTIONS), ("instructions", insns, MAX_INSNS)]
    {
        if found > limit {
            return Err(CannotFuse::TooMany { what, found, limit });
        }
    }
    Ok(())
}

/// Where each member's instructions begin, in order; the last is where the program ends.
fn member_starts(members: &[Member<'_>]) -> Vec<usize> {
    let lengths = members.iter().map(|member| member.program.insns.len());
    let glue = match members.len() {
        1 => GLUE_OF_ONE,
        several => several.saturating_mul(GLUE_PER_MEMBER).saturating_add(GLUE_FIXED),
    };
    let ends = lengths.scan(glue, |at, length| {
        *at = at.saturating_add(length);
        Some(*at)
    });
    std::iter::once(glue).chain(ends).collect()
}

/// Where the functions of a fused program begin; its own is called as the program is.
fn functions(members: &[Member<'_>]) -> Vec<LinkedFunction> {
    let own = LinkedFunction { name: FUSED_NAME.to_owned(), start: 0 };
    let moved = members.iter().zip(member_starts(members)).flat_map(|(member, at)| {
        member.program.functions.iter().map(move |LinkedFunction { name, start }| LinkedFunction {
            name: name.clone(),
            start: start.saturating_add(count(at)),
        })
    });
    std::iter::once(own).chain(moved).collect()
}

/// Types and records of functions: the first is the program's own, those that start in `global` are global, all others are static. One
/// that has no name, or one that the kernel would not take, is called by its place.
fn types(functions: &[LinkedFunction], global: &BTreeSet<u32>) -> (Vec<u8>, Vec<u8>) {
    let mut btf = BtfBuilder::new();
    let int = btf.signed("int", 4);
    let unsigned = btf.unsigned("unsigned int", 4);
    let context = btf.structure("xdp_md", 4, &[("data", unsigned, 0)]);
    let pointer = btf.pointer(context);
    let (of_context, of_nothing) = (btf.signature(int, &[("ctx", pointer)]), btf.signature(int, &[]));
    let records: Vec<(u32, TypeId)> = functions
        .iter()
        .map(|LinkedFunction { name, start }| {
            let (signature, linkage) = match *start == 0 || global.contains(start) {
                true => (of_context, Linkage::Global),
                false => (of_nothing, Linkage::Static),
            };
            let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            let is_name = is_name && name.starts_with(|first: char| !first.is_ascii_digit());
            let place = format!("at_{start}");
            (*start, btf.function(if is_name { name } else { &place }, signature, linkage))
        })
        .collect();
    (btf.finish(), func_info(&records))
}

/// The place of the member that an instruction of a fused program is of; `None` for the glue.
pub fn member_at(members: &[Member<'_>], instruction: u32) -> Option<usize> {
    member_starts(members)
        .windows(2)
        .position(|span| matches!(span, [from, to] if (*from..*to).contains(&index(instruction))))
}

/// Slots of glue for a single member.
const GLUE_OF_ONE: usize = 4;
/// Slots of glue for one member of several, and for the program.
const GLUE_PER_MEMBER: usize = 7;
const GLUE_FIXED: usize = 5;

fn assemble(members: &[Member<'_>]) -> Result<Vec<Insn>, CannotFuse> {
    let mut asm = Assembler::new();
    let starts: Vec<_> = members.iter().map(|_| asm.label()).collect();
    let exit = asm.label();
    asm.extend(Insn::load_map(Reg::R2, 0));
    if let ([only], [start]) = (members, starts.as_slice()) {
        asm.call(*start);
        asm.push(Insn::exit());
        asm.place(*start);
        asm.extend(only.program.insns.iter().copied());
    } else {
        asm.push(Insn::mov_reg(Reg::R6, Reg::R1));
        for (member, start) in members.iter().zip(&starts) {
            asm.push(Insn::mov_reg(Reg::R1, Reg::R6));
            asm.call(*start);
            asm.extend([
                Insn::mov32_reg(Reg::R2, Reg::R0),
                Insn::mov32(Reg::R1, member.entry.actions.with_empty_slot()),
                Insn::shr_reg(Reg::R1, Reg::R2),
                Insn::and(Reg::R1, 1),
            ]);
            asm.jump_if_equal(Reg::R1, 0, exit);
        }
        asm.push(Insn::mov(Reg::R0, XDP_PASS));
        asm.place(exit);
        asm.push(Insn::exit());
        for (member, start) in members.iter().zip(&starts) {
            asm.place(*start);
            asm.extend(member.program.insns.iter().copied());
        }
    }
    // Distances in the glue are bounded by the sizes checked before, 255 members of 7 slots.
    asm.finish().map_err(|_too_far| CannotFuse::TooMany {
        what: "instructions",
        found: members.iter().map(|member| member.program.insns.len()).sum(),
        limit: MAX_INSNS,
    })
}

/// The licence of the whole: that of all members if they agree; GPL if all are compatible with it; if none is, one
/// that grants nothing.
fn licensed(license: &str) -> String {
    match license {
        "" => "has an empty licence".to_owned(),
        license => format!("is under `{license}`"),
    }
}

fn common_license(members: &[Member<'_>]) -> Result<String, CannotFuse> {
    let programs = || members.iter().map(|member| member.program);
    let gpl = programs().find(|program| is_gpl_compatible(&program.license));
    let other = programs().find(|program| !is_gpl_compatible(&program.license));
    let whole = match (gpl, other) {
        (Some(gpl), Some(other)) => {
            return Err(CannotFuse::MixedLicences {
                gpl: gpl.function.clone(),
                other: other.function.clone(),
                license: other.license.clone(),
            });
        }
        (Some(_), None) => "GPL",
        (None, _) => "Proprietary",
    };
    let first = programs().next().map(|program| program.license.as_str()).unwrap_or(whole);
    let agreed = programs().all(|program| program.license == first);
    Ok(if agreed { first } else { whole }.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actions::ActionMask;
    use crate::btf::Btf;
    use crate::chain_record::ChainHook;
    use crate::insn::{CALL, PSEUDO_CALL, PSEUDO_FUNC};
    use crate::kind::ProgramKind;

    fn program(function: &str, insns: Vec<Insn>) -> Finished {
        Finished {
            function: function.to_owned(),
            name: function.to_owned(),
            load: LoadType::XDP,
            insns,
            license: "GPL".to_owned(),
            kernel_version: None,
            func_info: vec![0; 8],
            line_info: vec![],
            functions: vec![LinkedFunction { name: function.to_owned(), start: 0 }],
        }
    }

    fn verdict(function: &str, verdict: i32) -> Finished {
        program(function, vec![Insn::mov(Reg::R0, verdict), Insn::exit()])
    }

    const PLACE: ChainPlace = ChainPlace { generation: [3; 16], netns_cookie: 4, ifindex: 5, hook: ChainHook::Xdp };

    fn entry(function: &str, actions: ActionMask) -> ChainEntry {
        ChainEntry {
            link: [1; 16],
            app: [2; 16],
            priority: 50,
            effective: 50,
            actions,
            flags: 0,
            function: function.to_owned(),
        }
    }

    fn members(programs: &[Finished]) -> Vec<Member<'_>> {
        programs.iter().map(|program| Member { entry: entry(&program.function, ActionMask::PASS), program }).collect()
    }

    /// Runs the few instructions that glue and test members consist of.
    fn run(insns: &[Insn]) -> u64 {
        let (mut regs, mut at, mut returns, mut steps) = ([0_u64; 11], 0_usize, Vec::new(), 0);
        loop {
            steps += 1;
            assert!(steps < 10_000, "a chain runs forward only");
            let insn = insns[at];
            let (dst, src) = (usize::from(insn.dst), usize::from(insn.src));
            at += 1;
            match insn.code {
                LD_IMM64 => at += 1,
                0xb7 => regs[dst] = i64::from(insn.imm).cast_unsigned(),
                0xb4 => regs[dst] = u64::from(insn.imm.cast_unsigned()),
                0xbf => regs[dst] = regs[src],
                0xbc => regs[dst] = regs[src] & 0xffff_ffff,
                0x7f => regs[dst] >>= regs[src] % 64,
                0x57 => regs[dst] &= i64::from(insn.imm).cast_unsigned(),
                0x15 if regs[dst] == i64::from(insn.imm).cast_unsigned() => {
                    at = at.checked_add_signed(isize::from(insn.off)).unwrap();
                }
                0x15 => {}
                CALL => {
                    assert_eq!(insn.src, PSEUDO_CALL);
                    returns.push((at, [regs[6], regs[7], regs[8], regs[9]]));
                    at = at.checked_add_signed(isize::try_from(insn.imm).unwrap()).unwrap();
                    for scratch in 1..=5 {
                        regs[scratch] = if scratch == 1 { regs[1] } else { 0xdead };
                    }
                }
                0x95 => match returns.pop() {
                    None => return regs[0],
                    Some((back, saved)) => {
                        at = back;
                        regs[6..10].copy_from_slice(&saved);
                        regs[1..6].fill(0xdead);
                    }
                },
                other => panic!("instruction {other:#x} is not in the glue"),
            }
        }
    }

    fn check(chain: &[(i32, u32)], expected: u32) {
        let programs: Vec<_> = chain.iter().map(|(code, _)| verdict("member", *code)).collect();
        let members: Vec<_> = programs
            .iter()
            .zip(chain)
            .map(|(program, (_, mask))| Member { entry: entry("member", ActionMask::from_bits(*mask)), program })
            .collect();
        let linked = fuse(PLACE, &members).unwrap().link(9);
        assert_eq!(run(&linked.insns) & 0xffff_ffff, u64::from(expected), "{chain:?}");
    }

    #[test]
    fn each_member_is_found_by_its_instructions() {
        let programs = [verdict("a", 2), verdict("b", 1), verdict("c", 2)];
        for several in 1..=3 {
            let members = members(&programs[..several]);
            let fused = fuse(PLACE, &members).unwrap().program;
            let starts: Vec<usize> = guard::function_starts(&fused.insns).into_iter().skip(1).collect();
            let found: Vec<_> = starts.iter().map(|at| member_at(&members, count(*at)).unwrap()).collect();
            assert_eq!(found, (0..several).collect::<Vec<_>>());
            assert_eq!(member_at(&members, count(starts[0]) - 1), None);
            assert_eq!(member_at(&members, count(fused.insns.len())), None);
            let named: Vec<_> = fused.functions.iter().map(|f| (f.name.as_str(), index(f.start))).collect();
            let expected = std::iter::once((FUSED_NAME, 0)).chain(["a", "b", "c"].into_iter().zip(starts));
            assert_eq!(named, expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_verdict_outside_its_mask_wins() {
        check(&[(2, 4), (1, 4), (3, 4)], 1);
        check(&[(1, 4), (2, 4)], 1);
        check(&[(2, 4), (2, 4), (3, 4)], 3);
        check(&[(1, 2), (0, 2)], 0);
    }

    #[test]
    fn a_last_verdict_inside_its_mask_becomes_pass() {
        check(&[(2, 4), (2, 4)], 2);
        check(&[(2, 4), (1, 2)], 2);
        check(&[(1, 0b11111), (4, 0b11111)], 2);
    }

    #[test]
    fn one_program_has_its_raw_verdict_whatever_its_mask() {
        check(&[(1, 2)], 1);
        check(&[(31, 4)], 31);
        check(&[(-1, 4)], u32::MAX);
    }

    #[test]
    fn verdicts_that_are_no_action_end_as_in_libxdp() {
        check(&[(31, 4), (1, 4)], 1);
        check(&[(32, 4), (1, 4)], 32);
        check(&[(34, 4), (1, 4)], 34);
        check(&[(66, 4), (1, 4)], 1);
        check(&[(-1, 4), (1, 4)], u32::MAX);
        check(&[(5, 1 << 5), (1, 4)], 1);
    }

    #[test]
    fn every_verdict_and_mask_agrees_with_the_mask_type() {
        for mask in 0..32 {
            for code in 0..70 {
                let verdict = u32::try_from(code).unwrap();
                let goes_on = ActionMask::from_bits(mask).continues_after(verdict);
                check(&[(code, mask), (1, 0)], if goes_on { 1 } else { verdict });
            }
        }
    }

    #[test]
    fn members_keep_their_instructions_and_their_own_functions() {
        let call = Insn { code: CALL, dst: 0, src: PSEUDO_CALL, off: 0, imm: 1 };
        let body = vec![call, Insn::exit(), Insn::mov(Reg::R0, 2), Insn::exit()];
        let programs = [program("a", body.clone()), verdict("b", 3)];
        let linked = fuse(PLACE, &members(&programs)).unwrap().link(9);
        assert_eq!(run(&linked.insns), 3);
        assert!(linked.insns.windows(body.len()).any(|window| window == body));
    }

    #[test]
    fn the_program_names_its_chains_record_and_carries_the_members() {
        let programs = [verdict("a", 2), verdict("b", 2)];
        let fused = fuse(PLACE, &members(&programs)).unwrap();
        let names: Vec<_> =
            ChainRecord::decode(fused.record()).unwrap().entries.into_iter().map(|entry| entry.function).collect();
        assert_eq!(names, ["a", "b"]);
        let linked = fused.link(9);
        assert_eq!(linked.insns[..2], Insn::load_map(Reg::R2, 9));
        guard::check_finished("fused", &linked.insns, &BTreeSet::from([9])).unwrap();
        // A record a function, at its start; the names are those that the members gave them.
        let starts: Vec<_> = linked.func_info.chunks(8).map(|record| record[0]).collect();
        assert_eq!(starts, linked.functions.iter().map(|f| u8::try_from(f.start).unwrap()).collect::<Vec<_>>());
    }

    #[test]
    fn tail_calls_and_callbacks_run_fused_and_kernel_functions_do_not() {
        let fused =
            |insns| fuse(PLACE, &members(&[verdict("fine", 2), program("other", insns)])).map(|fused| fused.link(9));
        let address = Insn { code: LD_IMM64, dst: 2, src: PSEUDO_FUNC, off: 0, imm: 1 };
        let callback = fused(vec![address, Insn::default(), Insn::exit()]).unwrap();
        assert_eq!(callback.load, LoadType::XDP);
        // What shares a program array has no expected attach type.
        let tail_call = fused(vec![Insn::call_helper(12), Insn::exit()]).unwrap();
        assert_eq!(tail_call.load, LoadType::XDP.for_tail_calls());
        let kernel = Insn { code: CALL, dst: 0, src: PSEUDO_KFUNC_CALL, off: 0, imm: 77 };
        assert_eq!(fused(vec![kernel, Insn::exit()]), Err(CannotFuse::KernelFunction { member: "other".into() }));
    }

    #[test]
    fn a_function_without_a_name_is_called_by_its_place() {
        let functions = [("", 0), ("", 4), ("a", 6), ("core::fmt", 8), ("1st", 9)];
        let functions = functions.map(|(name, start)| LinkedFunction { name: name.to_owned(), start });
        let (btf, info) = types(&functions, &BTreeSet::new());
        let (btf, ids) = (Btf::open(&btf).unwrap(), info.chunks(8).map(|record| u32::from(record[4])));
        assert_eq!(ids.map(|id| btf.name(id)).collect::<Vec<_>>(), ["at_0", "at_4", "a", "at_8", "at_9"]);
    }

    #[test]
    fn who_is_to_blame_is_told_by_its_place() {
        let pass = || verdict("pass", 2);
        let kernel = Insn { code: CALL, dst: 0, src: PSEUDO_KFUNC_CALL, off: 0, imm: 77 };
        let calls = program("pass", vec![kernel, Insn::exit()]);
        let closed = Finished { license: "Proprietary".to_owned(), ..pass() };
        for programs in [[pass(), calls, pass()], [pass(), closed, pass()]] {
            let members = members(&programs);
            let error = fuse(PLACE, &members).unwrap_err();
            assert_eq!(error.place_in(&members), Some(1), "{error}");
        }
        assert_eq!(CannotFuse::Empty.place_in(&[]), None);
    }

    fn check_licences(licences: &[&str], expected: Result<&str, (usize, usize)>) {
        let names = ["a", "b", "c"];
        let programs: Vec<_> = licences
            .iter()
            .zip(names)
            .map(|(license, name)| Finished { license: (*license).to_owned(), ..verdict(name, 2) })
            .collect();
        let found = fuse(PLACE, &members(&programs)).map(|fused| fused.link(9).license);
        let expected = expected.map(str::to_owned).map_err(|(gpl, other)| CannotFuse::MixedLicences {
            gpl: names[gpl].into(),
            other: names[other].into(),
            license: licences[other].to_owned(),
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn gpl_is_never_claimed_for_a_program_that_is_not() {
        check_licences(&["GPL", "GPL"], Ok("GPL"));
        check_licences(&["Dual BSD/GPL", "Dual BSD/GPL"], Ok("Dual BSD/GPL"));
        check_licences(&["Dual BSD/GPL", "GPL v2", "GPL"], Ok("GPL"));
        check_licences(&["MIT", "MIT"], Ok("MIT"));
        check_licences(&["MIT", "Proprietary!"], Ok("Proprietary"));
        check_licences(&["GPL", "MIT"], Err((0, 1)));
        check_licences(&["MIT", "MIT", "Dual MIT/GPL"], Err((2, 0)));
        check_licences(&["gpl", "GPL"], Err((1, 0)));
    }

    #[test]
    fn limits_of_one_program_are_errors_that_say_so() {
        let many: Vec<_> = (0..64)
            .map(|fd| program("m", [Insn::load_map(Reg::R1, fd), [Insn::mov(Reg::R0, 2), Insn::exit()]].concat()))
            .collect();
        assert_eq!(fuse(PLACE, &members(&many)), Err(CannotFuse::TooMany { what: "maps", found: 65, limit: 64 }));
        let many: Vec<_> = (0..256).map(|_| verdict("m", 2)).collect();
        assert_eq!(
            fuse(PLACE, &members(&many)),
            Err(CannotFuse::TooMany { what: "functions", found: 257, limit: 256 })
        );
        let long = [program("long", vec![Insn::exit(); 999_990])];
        assert_eq!(
            fuse(PLACE, &members(&long)),
            Err(CannotFuse::TooMany { what: "instructions", found: 1_000_002, limit: 1_000_000 })
        );
    }

    #[test]
    fn frags_hold_only_if_all_members_take_them() {
        let with = Finished { load: LoadType::XDP.with_frags(), ..verdict("with", 2) };
        let both = [with.clone(), with.clone()];
        assert!(fuse(PLACE, &members(&both)).unwrap().link(9).load.has_frags());
        let mixed = [with, verdict("without", 2)];
        assert!(!fuse(PLACE, &members(&mixed)).unwrap().link(9).load.has_frags());
    }

    #[test]
    fn other_kinds_and_empty_chains_are_refused() {
        assert_eq!(fuse(PLACE, &[]), Err(CannotFuse::Empty));
        let tc = [Finished { load: ProgramKind::Tc.load(), ..verdict("tc", 0) }];
        assert_eq!(fuse(PLACE, &members(&tc)), Err(CannotFuse::NotXdp { member: "tc".into() }));
        let damaged = [program("wild", vec![Insn { code: CALL, dst: 0, src: 1, off: 0, imm: 40 }, Insn::exit()])];
        assert_eq!(fuse(PLACE, &members(&damaged)), Err(CannotFuse::Damaged { member: "wild".into() }));
    }
}
