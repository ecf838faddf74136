//! The bytes of rtnetlink's traffic control: requests written, messages read. No socket, no judgement. A lie about a
//! length gives `EBADMSG`, never a panic and never a read past the end.
use super::tc::{BpfFilter, FilterKind, FilterPlace, IngressQdisc, TcFilter};
use super::wire::{NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST};
use super::wire::{Request, attributes, c_text, malformed, program, put, word};
use crate::bpf::Direction;
use std::io;
use std::num::{NonZeroU16, NonZeroU32};

// include/uapi/linux/rtnetlink.h.
pub(super) const RTM_NEWQDISC: u16 = 36;
pub(super) const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
pub(super) const RTM_NEWTFILTER: u16 = 44;
pub(super) const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;

// include/uapi/linux/pkt_sched.h: a clsact's parent, which is an `ingress` qdisc's too, and its handle; the parents of
// its filters (`TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)`).
const TC_H_CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const FILTERS_INGRESS: u32 = 0xffff_fff2;
const FILTERS_EGRESS: u32 = 0xffff_fff3;

// include/uapi/linux/pkt_cls.h.
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_TAG: u16 = 10;
const TCA_BPF_ID: u16 = 11;
const ACT_DIRECT: u32 = 1;

/// include/uapi/linux/if_ether.h.
const ETH_P_ALL: u16 = 3;

/// `struct tcmsg` in words; the first holds the address family.
const TCMSG: usize = 5;

/// What a filter of ours runs.
pub(super) struct Bpf<'a> {
    /// A descriptor.
    pub(super) program: i32,
    /// Without NUL.
    pub(super) name: &'a str,
}

/// The qdiscs of all devices: the kernel does not choose by device (`tc_dump_qdisc`).
pub(super) fn get_qdiscs(sequence: u32) -> Request {
    Request::begin(RTM_GETQDISC, NLM_F_REQUEST | NLM_F_DUMP, sequence, &tcmsg(0, 0, 0, 0)).finish()
}

pub(super) fn create_clsact(sequence: u32, index: u32) -> Request {
    clsact(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, sequence, index)
}

pub(super) fn delete_clsact(sequence: u32, index: u32) -> Request {
    clsact(RTM_DELQDISC, 0, sequence, index)
}

fn clsact(kind: u16, flags: u16, sequence: u32, index: u32) -> Request {
    let header = tcmsg(index, CLSACT_HANDLE, TC_H_CLSACT, 0);
    let mut request = Request::begin(kind, NLM_F_REQUEST | NLM_F_ACK | flags, sequence, &header);
    request.attribute(TCA_KIND, b"clsact\0");
    request.finish()
}

pub(super) fn get_filters(sequence: u32, index: u32, direction: Direction) -> Request {
    let header = tcmsg(index, 0, parent(direction), 0);
    Request::begin(RTM_GETTFILTER, NLM_F_REQUEST | NLM_F_DUMP, sequence, &header).finish()
}

pub(super) fn create_filter(
    sequence: u32,
    index: u32,
    direction: Direction,
    place: FilterPlace,
    bpf: Bpf<'_>,
) -> Request {
    let request = filter_request(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, sequence, index, direction, place);
    running(request, bpf)
}

/// Without `NLM_F_CREATE`, so that a filter that is gone meanwhile stays gone.
pub(super) fn replace_filter(
    sequence: u32,
    index: u32,
    direction: Direction,
    place: FilterPlace,
    bpf: Bpf<'_>,
) -> Request {
    running(filter_request(RTM_NEWTFILTER, 0, sequence, index, direction, place), bpf)
}

pub(super) fn delete_filter(sequence: u32, index: u32, direction: Direction, place: FilterPlace) -> Request {
    filter_request(RTM_DELTFILTER, 0, sequence, index, direction, place).finish()
}

fn filter_request(
    kind: u16,
    flags: u16,
    sequence: u32,
    index: u32,
    direction: Direction,
    place: FilterPlace,
) -> Request {
    let FilterPlace { preference, handle } = place;
    let info = u32::from(preference.get()) << 16 | u32::from(ETH_P_ALL.to_be());
    let header = tcmsg(index, handle.get(), parent(direction), info);
    let mut request = Request::begin(kind, NLM_F_REQUEST | NLM_F_ACK | flags, sequence, &header);
    request.attribute(TCA_KIND, b"bpf\0");
    request
}

fn running(mut request: Request, Bpf { program, name }: Bpf<'_>) -> Request {
    let mut options = Vec::new();
    put(&mut options, TCA_BPF_FD, &program.to_ne_bytes());
    put(&mut options, TCA_BPF_NAME, &[name.as_bytes(), &[0]].concat());
    put(&mut options, TCA_BPF_FLAGS, &ACT_DIRECT.to_ne_bytes());
    request.attribute(TCA_OPTIONS | NLA_F_NESTED, &options);
    request.finish()
}

fn parent(direction: Direction) -> u32 {
    match direction {
        Direction::Ingress => FILTERS_INGRESS,
        Direction::Egress => FILTERS_EGRESS,
    }
}

fn tcmsg(index: u32, handle: u32, parent: u32, info: u32) -> [[u8; 4]; TCMSG] {
    [[0; 4], index.to_ne_bytes(), handle.to_ne_bytes(), parent.to_ne_bytes(), info.to_ne_bytes()]
}

/// Device, handle, parent and info of a `struct tcmsg`, and the attributes behind it.
fn split(payload: &[u8]) -> io::Result<([u32; 4], &[u8])> {
    let (header, rest) = payload.split_first_chunk::<{ 4 * TCMSG }>().ok_or_else(malformed)?;
    let (words, _) = header.as_chunks::<4>();
    let [_family, index, handle, parent, info] = *words else { return Err(malformed()) };
    Ok(([index, handle, parent, info].map(u32::from_ne_bytes), rest))
}

/// The qdisc in a clsact's place, if the message speaks of that place of this device.
pub(super) fn ingress_qdisc(payload: &[u8], device: u32) -> io::Result<Option<IngressQdisc>> {
    let ([index, _handle, parent, _info], rest) = split(payload)?;
    if (index, parent) != (device, TC_H_CLSACT) {
        return Ok(None);
    }
    let mut kind = None;
    for attribute in attributes(rest) {
        if let (TCA_KIND, value) = attribute? {
            kind = Some(c_text(value));
        }
    }
    let kind = kind.ok_or_else(malformed)?;
    Ok(Some(if kind == "clsact" { IngressQdisc::Clsact } else { IngressQdisc::Other(kind) }))
}

/// A filter. `None` for the message about a preference, which comes before those about its filters and has no handle
/// (`tcf_chain_dump`).
pub(super) fn filter(payload: &[u8]) -> io::Result<Option<TcFilter>> {
    let ([_index, handle, _parent, info], rest) = split(payload)?;
    let Some(handle) = NonZeroU32::new(handle) else { return Ok(None) };
    let [p0, p1, protocol @ ..] = info.to_be_bytes();
    let preference = NonZeroU16::new(u16::from_be_bytes([p0, p1])).ok_or_else(malformed)?;
    let (mut kind, mut options, mut chain) = (None, None, 0);
    for attribute in attributes(rest) {
        match attribute? {
            (TCA_KIND, value) => kind = Some(c_text(value)),
            (TCA_OPTIONS, value) => options = Some(value),
            (TCA_CHAIN, value) => chain = word(value)?,
            _ => {}
        }
    }
    let kind = match kind.ok_or_else(malformed)? {
        kind if kind == "bpf" => FilterKind::Bpf(bpf(options.ok_or_else(malformed)?)?),
        kind => FilterKind::Other(kind),
    };
    let protocol = u16::from_be(u16::from_be_bytes(protocol));
    Ok(Some(TcFilter { chain, place: FilterPlace { preference, handle }, protocol, kind }))
}

fn bpf(options: &[u8]) -> io::Result<BpfFilter> {
    let mut filter = BpfFilter::default();
    for attribute in attributes(options) {
        match attribute? {
            (TCA_BPF_NAME, value) => filter.name = Some(c_text(value)),
            (TCA_BPF_ID, value) => filter.program = program(value)?,
            (TCA_BPF_TAG, value) => filter.tag = Some(*value.first_chunk().ok_or_else(malformed)?),
            (TCA_BPF_FLAGS, value) => filter.direct_action = word(value)? & ACT_DIRECT != 0,
            _ => {}
        }
    }
    Ok(filter)
}

/// The device whose clsact (or `ingress` qdisc), or a filter on a clsact, a message speaks of; `None` for all other
/// qdiscs and filters. Blocks of filters that devices share are of no device.
pub(super) fn hooked_device(payload: &[u8]) -> io::Result<Option<u32>> {
    let ([index, _handle, parent, _info], _attributes) = split(payload)?;
    Ok(matches!(parent, TC_H_CLSACT | FILTERS_INGRESS | FILTERS_EGRESS).then_some(index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::ProgId;

    const PLACE: FilterPlace =
        FilterPlace { preference: NonZeroU16::new(0x1234).unwrap(), handle: NonZeroU32::new(9).unwrap() };

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, kind, value);
        bytes
    }

    /// The message about a filter of device 7 at [`PLACE`], for IPv4.
    fn filter_message(attributes: &[Vec<u8>]) -> Vec<u8> {
        let info = 0x1234 << 16 | u32::from(0x0800_u16.to_be());
        [tcmsg(7, 9, FILTERS_INGRESS, info).as_flattened(), &attributes.concat()].concat()
    }

    fn bpf_message() -> Vec<u8> {
        let options = [
            attribute(TCA_BPF_NAME, b"count\0"),
            attribute(TCA_BPF_ID, &77_u32.to_ne_bytes()),
            attribute(TCA_BPF_TAG, &[1, 2, 3, 4, 5, 6, 7, 8]),
            attribute(TCA_BPF_FLAGS, &1_u32.to_ne_bytes()),
        ];
        filter_message(&[
            attribute(TCA_KIND, b"bpf\0"),
            attribute(TCA_CHAIN, &2_u32.to_ne_bytes()),
            attribute(TCA_OPTIONS | NLA_F_NESTED, &options.concat()),
        ])
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_new_filter_is_these_bytes() {
        let request = create_filter(5, 7, Direction::Egress, PLACE, Bpf { program: 11, name: "abc" });
        #[rustfmt::skip]
        let expected = [
            72, 0, 0, 0, 44, 0, 5, 6, 5, 0, 0, 0, 0, 0, 0, 0, // nlmsghdr: RTM_NEWTFILTER, REQUEST|ACK|EXCL|CREATE
            0, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, 0xf3, 0xff, 0xff, 0xff, // tcmsg: ifindex, handle, parent
            0, 3, 0x34, 0x12, // ETH_P_ALL in network order, preference
            8, 0, 1, 0, b'b', b'p', b'f', 0, // KIND
            28, 0, 2, 0x80, // OPTIONS, nested
            8, 0, 6, 0, 11, 0, 0, 0, // FD
            8, 0, 7, 0, b'a', b'b', b'c', 0, // NAME
            8, 0, 8, 0, 1, 0, 0, 0, // FLAGS: ACT_DIRECT
        ];
        assert_eq!(request.bytes(), expected);
    }

    #[test]
    fn a_filter_is_read_with_its_program() {
        let kind = FilterKind::Bpf(BpfFilter {
            name: Some("count".into()),
            program: Some(ProgId(77)),
            tag: Some([1, 2, 3, 4, 5, 6, 7, 8]),
            direct_action: true,
        });
        let expected = TcFilter { chain: 2, place: PLACE, protocol: 0x0800, kind };
        assert_eq!(filter(&bpf_message()).unwrap(), Some(expected));
    }

    #[test]
    fn the_options_of_other_kinds_are_not_read() {
        let message = filter_message(&[attribute(TCA_KIND, b"flower\0"), attribute(TCA_OPTIONS, &[1])]);
        let kind = FilterKind::Other("flower".into());
        assert_eq!(filter(&message).unwrap(), Some(TcFilter { chain: 0, place: PLACE, protocol: 0x0800, kind }));
    }

    #[test]
    fn a_message_about_a_preference_is_no_filter() {
        let header = tcmsg(7, 0, FILTERS_INGRESS, 0x1234 << 16);
        assert_eq!(filter(header.as_flattened()).unwrap(), None);
    }

    #[test]
    fn the_qdisc_of_the_device_and_place_is_told_from_others() {
        let read = |index, parent, kind: &[u8]| {
            let message = [tcmsg(index, 0, parent, 0).as_flattened(), &attribute(TCA_KIND, kind)].concat();
            ingress_qdisc(&message, 7).unwrap()
        };
        assert_eq!(read(7, TC_H_CLSACT, b"clsact\0"), Some(IngressQdisc::Clsact));
        assert_eq!(read(7, TC_H_CLSACT, b"ingress\0"), Some(IngressQdisc::Other("ingress".into())));
        assert_eq!(read(8, TC_H_CLSACT, b"clsact\0"), None);
        assert_eq!(read(7, u32::MAX, b"noqueue\0"), None);
    }

    #[test]
    fn what_is_missing_is_malformed() {
        assert!(filter(&filter_message(&[])).is_err(), "no kind");
        assert!(filter(&filter_message(&[attribute(TCA_KIND, b"bpf\0")])).is_err(), "no options");
        assert!(ingress_qdisc(tcmsg(7, 0, TC_H_CLSACT, 0).as_flattened(), 7).is_err(), "no kind");
        let no_preference = [tcmsg(7, 9, FILTERS_INGRESS, 3).as_flattened(), &attribute(TCA_KIND, b"u32\0")].concat();
        assert!(filter(&no_preference).is_err());
        for (kind, short) in [(TCA_BPF_ID, 3), (TCA_BPF_TAG, 7), (TCA_BPF_FLAGS, 0)] {
            let options = attribute(kind, &vec![1; short]);
            let message = filter_message(&[attribute(TCA_KIND, b"bpf\0"), attribute(TCA_OPTIONS, &options)]);
            assert!(filter(&message).is_err(), "{kind}");
        }
    }

    #[test]
    fn no_cut_and_no_flipped_byte_makes_it_panic() {
        let valid = bpf_message();
        let (mut read, mut refused) = (0, 0);
        for place in 0..valid.len() {
            assert!(split(&valid[..place]).is_err() == (place < 20), "{place}");
            for byte in 0..=255 {
                let mut bytes = valid.clone();
                bytes[place] = byte;
                if byte == 0 {
                    bytes.truncate(place);
                }
                match filter(&bytes) {
                    Ok(_) => read += 1,
                    Err(_) => refused += 1,
                }
                read += usize::from(ingress_qdisc(&bytes, 7).is_ok()) + usize::from(hooked_device(&bytes).is_ok());
            }
        }
        assert!(read > 0 && refused > 0);
    }
}
