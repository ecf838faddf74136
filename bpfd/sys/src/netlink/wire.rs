//! The bytes of rtnetlink: requests written, messages read. No socket, no judgement. Every length in what is read is
//! checked against what is there; a lie gives `EBADMSG`, never a panic and never a read past the end.
//!
//! Long because more than half are the tests with hostile bytes, which belong beside the parser.
use super::{LinkRow, MovedTo, XdpAttachment, XdpMode};
use crate::bpf::ProgId;
use std::io;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
pub(super) const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP_INTR: u16 = 0x10;
pub(super) const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
pub(super) const RTM_NEWNSID: u16 = 88;
pub(super) const RTM_DELNSID: u16 = 89;
const RTM_GETNSID: u16 = 90;

const IFF_UP: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_XDP: u16 = 43;
/// Where a device went that was moved, in the news of it.
const IFLA_NEW_NETNSID: u16 = 45;
const IFLA_NEW_IFINDEX: u16 = 49;
/// Of the namespace that is asked about, by its number in that of the socket (Linux 4.15).
const IFLA_TARGET_NETNSID: u16 = 46;
/// `RTEXT_FILTER_SKIP_STATS`: answers without counters are half as long.
const SKIP_STATS: u32 = 1 << 3;
pub(super) const NLA_F_NESTED: u16 = 1 << 15;
/// Without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const NLA_TYPE_MASK: u16 = 0x3fff;

const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_FLAGS: u16 = 3;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;
const IFLA_XDP_EXPECTED_FD: u16 = 8;

/// `NETNSA_*` of include/uapi/linux/net_namespace.h.
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

/// `struct nlmsghdr` and `struct ifinfomsg`.
const HEADER: usize = 16;
const IFINFO: usize = 16;

pub(super) fn malformed() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADMSG)
}

/// One request, ready to send.
#[derive(Debug)]
pub(super) struct Request {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Request {
    /// All devices.
    pub(super) fn get_links(sequence: u32) -> Self {
        let mut request = Self::begin(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, sequence, &ifinfo(0));
        request.attribute(IFLA_EXT_MASK, &SKIP_STATS.to_ne_bytes());
        request.finish()
    }

    /// One device by its number.
    pub(super) fn get_link(sequence: u32, index: u32) -> Self {
        let mut request = Self::begin(RTM_GETLINK, NLM_F_REQUEST | NLM_F_ACK, sequence, &ifinfo(index));
        request.attribute(IFLA_EXT_MASK, &SKIP_STATS.to_ne_bytes());
        request.finish()
    }

    /// One device by its name.
    pub(super) fn get_link_named(sequence: u32, name: &str) -> Self {
        let mut request = Self::begin(RTM_GETLINK, NLM_F_REQUEST | NLM_F_ACK, sequence, &ifinfo(0));
        request.attribute(IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
        request.attribute(IFLA_EXT_MASK, &SKIP_STATS.to_ne_bytes());
        request.finish()
    }

    /// All devices of the namespace that has this number in the socket's.
    pub(super) fn get_links_of(sequence: u32, namespace: u32) -> Self {
        let mut request = Self::begin(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, sequence, &ifinfo(0));
        request.attribute(IFLA_EXT_MASK, &SKIP_STATS.to_ne_bytes());
        request.attribute(IFLA_TARGET_NETNSID, &namespace.to_ne_bytes());
        request.finish()
    }

    /// The numbers that other namespaces have in the socket's.
    pub(super) fn get_numbers(sequence: u32) -> Self {
        Self::begin(RTM_GETNSID, NLM_F_REQUEST | NLM_F_DUMP, sequence, &[[0; 4]]).finish()
    }

    /// The number that the namespace of this descriptor has in the socket's.
    pub(super) fn get_number(sequence: u32, namespace: i32) -> Self {
        let mut request = Self::begin(RTM_GETNSID, NLM_F_REQUEST | NLM_F_ACK, sequence, &[[0; 4]]);
        request.attribute(NETNSA_FD, &namespace.to_ne_bytes());
        request.finish()
    }

    /// This number for the namespace of this descriptor.
    pub(super) fn new_number(sequence: u32, namespace: i32, number: u32) -> Self {
        let mut request = Self::begin(RTM_NEWNSID, NLM_F_REQUEST | NLM_F_ACK, sequence, &[[0; 4]]);
        request.attribute(NETNSA_NSID, &number.to_ne_bytes());
        request.attribute(NETNSA_FD, &namespace.to_ne_bytes());
        request.finish()
    }

    /// A change of a device's XDP program; `program` -1 for none.
    pub(super) fn set_xdp(sequence: u32, index: u32, program: i32, expected: Option<i32>, flags: u32) -> Self {
        let mut xdp = Vec::new();
        put(&mut xdp, IFLA_XDP_FD, &program.to_ne_bytes());
        if let Some(expected) = expected {
            put(&mut xdp, IFLA_XDP_EXPECTED_FD, &expected.to_ne_bytes());
        }
        put(&mut xdp, IFLA_XDP_FLAGS, &flags.to_ne_bytes());
        let mut request = Self::begin(RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK, sequence, &ifinfo(index));
        request.attribute(IFLA_XDP | NLA_F_NESTED, &xdp);
        request.finish()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn sequence(&self) -> u32 {
        self.sequence
    }

    /// The header that all requests have, with the length still open, and the one of this `kind`: whole words.
    pub(super) fn begin(kind: u16, flags: u16, sequence: u32, words: &[[u8; 4]]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(words.as_flattened());
        Self { bytes, sequence }
    }

    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        put(&mut self.bytes, kind, value);
    }

    pub(super) fn finish(mut self) -> Self {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        if let Some(field) = self.bytes.first_chunk_mut() {
            *field = length.to_ne_bytes();
        }
        self
    }
}

/// `struct ifinfomsg` that names a device.
fn ifinfo(index: u32) -> [[u8; 4]; 4] {
    [[0; 4], index.to_ne_bytes(), [0; 4], [0; 4]]
}

/// Appends an attribute, padded to four bytes. Ours are all shorter than 64 KiB.
pub(super) fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// One message of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    flags: u16,
    pub(super) sequence: u32,
    pub(super) payload: &'a [u8],
}

/// The end of an answer: errno 0 for success, with the kernel's words if it has any.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) errno: i32,
    pub(super) message: Option<String>,
}

impl Message<'_> {
    /// The list changed while it was dumped.
    pub(super) fn is_interrupted(&self) -> bool {
        self.flags & NLM_F_DUMP_INTR != 0
    }

    /// What this message says of the end of the answer; `None` if it is part of the answer.
    pub(super) fn end(&self) -> io::Result<Option<End>> {
        match self.kind {
            NLMSG_ERROR => {
                let (errno, rest) = self.payload.split_first_chunk().ok_or_else(malformed)?;
                let message = if self.flags & NLM_F_ACK_TLVS == 0 { None } else { self.words(rest)? };
                Ok(Some(End { errno: i32::from_ne_bytes(*errno).saturating_neg(), message }))
            }
            // The errno of a dump that failed at its end; absent from old kernels.
            NLMSG_DONE => {
                let errno = self.payload.first_chunk().map_or(0, |errno| i32::from_ne_bytes(*errno));
                Ok(Some(End { errno: errno.saturating_neg(), message: None }))
            }
            _ => Ok(None),
        }
    }

    /// `NLMSGERR_ATTR_MSG`, behind the copy of the request: its header alone if the answer is capped.
    fn words(&self, after_errno: &[u8]) -> io::Result<Option<String>> {
        let copied = if self.flags & NLM_F_CAPPED == 0 {
            let length = after_errno.first_chunk().ok_or_else(malformed)?;
            usize::try_from(u32::from_ne_bytes(*length)).map_err(io::Error::other)?.next_multiple_of(4)
        } else {
            HEADER
        };
        for attribute in attributes(after_errno.get(copied..).ok_or_else(malformed)?) {
            let (kind, value) = attribute?;
            if kind == NLMSGERR_ATTR_MSG {
                return Ok(Some(c_text(value)));
            }
        }
        Ok(None)
    }
}

/// The messages of one datagram. After an error there is no further item.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = io::Result<Message<'_>>> {
    pieces(datagram, |rest| {
        let (header, _) = rest.split_first_chunk::<HEADER>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let message = Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            payload: rest.get(HEADER..length)?,
        };
        Some((message, length))
    })
}

/// The attributes in `bytes`, by type without its flags. After an error there is no further item.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = io::Result<(u16, &[u8])>> {
    pieces(bytes, |rest| {
        let ([l0, l1, k0, k1], _) = rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        Some(((u16::from_ne_bytes([*k0, *k1]) & NLA_TYPE_MASK, rest.get(4..length)?), length))
    })
}

/// Splits what is made of pieces that tell their own length, each padded to four bytes. `read` gives the piece and its
/// length, which is at least its header's, so the walk always ends.
fn pieces<'a, T>(
    mut rest: &'a [u8],
    read: impl Fn(&'a [u8]) -> Option<(T, usize)>,
) -> impl Iterator<Item = io::Result<T>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let piece = read(rest);
        let used = piece.as_ref().map_or(usize::MAX, |(_, length)| length.next_multiple_of(4));
        rest = rest.get(used..).unwrap_or_default();
        Some(piece.map(|(piece, _)| piece).ok_or_else(malformed))
    })
}

/// The device an `RTM_NEWLINK` or `RTM_DELLINK` speaks of; `None` for other address families (a bridge speaks of its
/// ports in the same messages, and a port that leaves it is not a device that goes).
pub(super) fn link_row(payload: &[u8]) -> io::Result<Option<LinkRow>> {
    let (header, rest) = payload.split_first_chunk::<IFINFO>().ok_or_else(malformed)?;
    let [family, _, _, _, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *header;
    if i32::from(family) != libc::AF_UNSPEC {
        return Ok(None);
    }
    let mut row = LinkRow {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        name: String::new(),
        up: u32::from_ne_bytes([f0, f1, f2, f3]) & IFF_UP != 0,
        mtu: 0,
        xdp: XdpAttachment::None,
    };
    for attribute in attributes(rest) {
        match attribute? {
            (IFLA_IFNAME, value) => row.name = c_text(value),
            (IFLA_MTU, value) => row.mtu = word(value)?,
            (IFLA_XDP, value) => row.xdp = xdp(value)?,
            _ => {}
        }
    }
    Ok(Some(row))
}

/// Where the device of an `RTM_DELLINK` went.
pub(super) fn moved_to(payload: &[u8]) -> io::Result<Option<MovedTo>> {
    let (_, rest) = payload.split_first_chunk::<IFINFO>().ok_or_else(malformed)?;
    let (mut namespace, mut index): (Option<u32>, Option<u32>) = (None, None);
    for attribute in attributes(rest) {
        match attribute? {
            (IFLA_NEW_NETNSID, value) => namespace = word(value)?.cast_signed().try_into().ok(),
            (IFLA_NEW_IFINDEX, value) => index = Some(word(value)?),
            _ => {}
        }
    }
    Ok(namespace.zip(index).map(|(namespace, index)| MovedTo { namespace, index }))
}

/// The number in an `RTM_NEWNSID`: behind `struct rtgenmsg`, padded.
pub(super) fn number(payload: &[u8]) -> io::Result<Option<u32>> {
    let (_, rest) = payload.split_first_chunk::<4>().ok_or_else(malformed)?;
    for attribute in attributes(rest) {
        if let (NETNSA_NSID, value) = attribute? {
            // A negative one is none.
            return Ok(word(value)?.cast_signed().try_into().ok());
        }
    }
    Ok(None)
}

fn xdp(bytes: &[u8]) -> io::Result<XdpAttachment> {
    let (mut attached, mut any, mut native, mut generic, mut hardware) = (0, None, None, None, None);
    for attribute in attributes(bytes) {
        match attribute? {
            (IFLA_XDP_ATTACHED, value) => attached = *value.first().ok_or_else(malformed)?,
            (IFLA_XDP_PROG_ID, value) => any = program(value)?,
            (IFLA_XDP_DRV_PROG_ID, value) => native = program(value)?,
            (IFLA_XDP_SKB_PROG_ID, value) => generic = program(value)?,
            (IFLA_XDP_HW_PROG_ID, value) => hardware = program(value)?,
            _ => {}
        }
    }
    let one = |mode, own: Option<ProgId>| {
        let program = own.or(any).ok_or_else(malformed)?;
        Ok(XdpAttachment::One { mode, program })
    };
    match attached {
        0 => Ok(XdpAttachment::None),
        1 => one(XdpMode::Native, native),
        2 => one(XdpMode::Generic, generic),
        3 => one(XdpMode::Hardware, hardware),
        4 => Ok(XdpAttachment::Several { native, generic, hardware }),
        _ => Err(malformed()),
    }
}

pub(super) fn program(value: &[u8]) -> io::Result<Option<ProgId>> {
    word(value).map(|id| (id != 0).then_some(ProgId(id)))
}

pub(super) fn word(value: &[u8]) -> io::Result<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)).ok_or_else(malformed)
}

/// Text up to the first NUL. Device names may hold any byte but `/`, blanks and NUL.
pub(super) fn c_text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An `RTM_NEWLINK` of family AF_UNSPEC, up, with these attributes.
    fn new_link(family: u8, attributes: &[u8]) -> Vec<u8> {
        let mut payload = vec![family, 0, 1, 0, 7, 0, 0, 0, 0x43, 0x10, 0, 0, 0, 0, 0, 0];
        payload.extend(attributes);
        payload
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, kind, value);
        bytes
    }

    fn datagram(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(HEADER + payload.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([9, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(payload);
        bytes
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_swap_is_these_bytes() {
        let request = Request::set_xdp(5, 7, 11, Some(10), 1 << 2 | 1 << 4);
        #[rustfmt::skip]
        let expected = [
            60, 0, 0, 0, 19, 0, 5, 0, 5, 0, 0, 0, 0, 0, 0, 0, // nlmsghdr: RTM_SETLINK, REQUEST|ACK
            0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // ifinfomsg: ifindex 7
            28, 0, 43, 0x80, // IFLA_XDP, nested
            8, 0, 1, 0, 11, 0, 0, 0, // FD
            8, 0, 8, 0, 10, 0, 0, 0, // EXPECTED_FD
            8, 0, 3, 0, 20, 0, 0, 0, // FLAGS: DRV_MODE|REPLACE
        ];
        assert_eq!(request.bytes(), expected);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_name_is_closed_and_padded() {
        let request = Request::get_link_named(1, "veth0");
        assert_eq!(request.bytes()[32..], *b"\x0a\0\x03\0veth0\0\0\0\x08\0\x1d\0\x08\0\0\0");
        assert_eq!(request.bytes()[0], 52);
    }

    #[test]
    fn a_device_is_read_with_its_program() {
        let xdp = [
            attribute(IFLA_XDP_ATTACHED, &[2]),
            attribute(IFLA_XDP_PROG_ID, &77_u32.to_ne_bytes()),
            attribute(IFLA_XDP_SKB_PROG_ID, &77_u32.to_ne_bytes()),
        ];
        let payload = new_link(
            0,
            &[
                attribute(IFLA_IFNAME, b"eth0\0"),
                attribute(IFLA_MTU, &1500_u32.to_ne_bytes()),
                attribute(IFLA_XDP | NLA_F_NESTED, &xdp.concat()),
            ]
            .concat(),
        );
        let row = link_row(&payload).unwrap().unwrap();
        let xdp = XdpAttachment::One { mode: XdpMode::Generic, program: ProgId(77) };
        assert_eq!(row, LinkRow { index: 7, name: "eth0".into(), up: true, mtu: 1500, xdp });
    }

    #[test]
    fn the_driver_s_program_counts_before_the_stack_s() {
        let several = [
            attribute(IFLA_XDP_ATTACHED, &[4]),
            attribute(IFLA_XDP_DRV_PROG_ID, &5_u32.to_ne_bytes()),
            attribute(IFLA_XDP_SKB_PROG_ID, &6_u32.to_ne_bytes()),
        ];
        assert_eq!(xdp(&several.concat()).unwrap().program(), Some((XdpMode::Native, ProgId(5))));
    }

    #[test]
    fn a_bridge_s_word_about_a_port_is_no_device() {
        let bridge = u8::try_from(libc::AF_BRIDGE).unwrap();
        assert_eq!(link_row(&new_link(bridge, &[])).unwrap(), None);
    }

    #[test]
    fn a_refusal_carries_the_kernel_s_words_capped_or_not() {
        let words = attribute(NLMSGERR_ATTR_MSG, b"Active program does not match expected\0");
        let request = Request::set_xdp(9, 7, 11, Some(10), 20);
        for (flags, copied) in
            [(NLM_F_ACK_TLVS | NLM_F_CAPPED, &request.bytes()[..16]), (NLM_F_ACK_TLVS, request.bytes())]
        {
            let bytes = datagram(NLMSG_ERROR, flags, &[&(-17_i32).to_ne_bytes(), copied, &words].concat());
            let message = messages(&bytes).next().unwrap().unwrap();
            let end = message.end().unwrap().unwrap();
            assert_eq!(end, End { errno: 17, message: Some("Active program does not match expected".into()) });
        }
    }

    #[test]
    fn lying_lengths_end_the_reading_with_an_error() {
        let valid = datagram(RTM_NEWLINK, 0, &new_link(0, &attribute(IFLA_MTU, &[1, 0, 0, 0])));
        for length in [0_u32, 1, 15, 47, u32::MAX, u32::MAX - 3] {
            let mut bytes = valid.clone();
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            let read: Vec<_> = messages(&bytes).collect();
            let whole =
                read.iter().all(|message| message.as_ref().is_ok_and(|message| link_row(message.payload).is_ok()));
            assert!(!whole, "{length}");
        }
        for length in [0_u16, 3, 5, 9, u16::MAX] {
            let mut value = attribute(IFLA_MTU, &[1, 0, 0, 0]);
            value[..2].copy_from_slice(&length.to_ne_bytes());
            assert!(link_row(&new_link(0, &value)).is_err(), "{length}");
            assert!(link_row(&new_link(0, &attribute(IFLA_XDP, &value))).is_err() || length == 5, "{length}");
        }
    }

    #[test]
    fn no_cut_and_no_flipped_byte_makes_it_panic() {
        let xdp = [attribute(IFLA_XDP_ATTACHED, &[1]), attribute(IFLA_XDP_PROG_ID, &[1, 2, 3, 4])].concat();
        let link = new_link(0, &[attribute(IFLA_IFNAME, b"x\0"), attribute(IFLA_XDP, &xdp)].concat());
        let error = [&(-1_i32).to_ne_bytes()[..], &[0; 16], &attribute(NLMSGERR_ATTR_MSG, b"no\0")].concat();
        let both = [datagram(RTM_NEWLINK, 0, &link), datagram(NLMSG_ERROR, NLM_F_ACK_TLVS, &error)].concat();
        let mut read = 0;
        for place in 0..both.len() {
            for byte in 0..=255 {
                let mut bytes = both.clone();
                bytes[place] = byte;
                if byte == 0 {
                    bytes.truncate(place);
                }
                for message in messages(&bytes).flatten() {
                    read += usize::from(message.end().is_ok());
                    read += usize::from(link_row(message.payload).is_ok());
                }
            }
        }
        assert!(read > 0);
    }
}
