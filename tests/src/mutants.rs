//! Broken bytes and texts, made of good ones by a seeded generator: what tests feed to everything that reads what others wrote.
//!
//! The tests of other crates include this file by its path, so it needs nothing but the standard library. Must never draw from anything
//! but its seed: a failure repeats.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what tests are made of may stop them")]

/// Pieces at which readers of JSON, TOML and names go wrong.
const PIECES: [&str; 30] = [
    "\0",
    "\u{1b}[2J",
    "\r\n",
    "\u{202e}",
    "\u{feff}",
    "é",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "{",
    "}",
    "[",
    "]",
    "[[",
    ",",
    ":",
    "/",
    "//",
    "@",
    "..",
    "**",
    "-1",
    "1e999",
    "99999999999999999999",
    "null",
    "true",
    "sha256:",
    "#",
    "=",
];

/// xorshift64*: small, repeatable, good enough to choose bytes. The seed is not 0.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One of `0..limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.draw() % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }

    /// Any byte.
    pub fn byte(&mut self) -> u8 {
        u8::try_from(self.draw() % 256).unwrap()
    }

    /// Numbers at which arithmetic goes wrong, and small ones that may be indices.
    fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => u64::MAX,
            1 => u64::MAX >> 1,
            2 => 1 << self.below(64),
            3 => self.draw() % 64,
            4 => u64::from(u32::MAX),
            _ => self.draw(),
        }
    }

    /// One of these, of a format whose numbers are aligned and whose headers are at either end, with one to five changes.
    pub fn binary(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(8) {
                // Most changes are where they hurt: an aligned number.
                0..=2 => {
                    let at = at & !3;
                    let value = self.number().to_le_bytes();
                    let width = [1, 2, 4, 8][self.below(4)];
                    for (byte, new) in bytes.iter_mut().skip(at).zip(value.iter().take(width)) {
                        *byte = *new;
                    }
                }
                3 => bytes[at] ^= 1 << self.below(8),
                // The section headers are at the end; the file header at the start.
                4 => {
                    let tail = bytes.len().min(1024);
                    let at = bytes.len() - 1 - self.below(tail);
                    bytes[at] = self.byte();
                }
                5 => {
                    let at = self.below(bytes.len().min(64));
                    bytes[at] = self.byte();
                }
                6 => {
                    let (from, len) = (self.below(bytes.len()), self.below(64));
                    let piece: Vec<u8> = bytes.iter().skip(from).take(len).copied().collect();
                    for (byte, new) in bytes.iter_mut().skip(at).zip(piece) {
                        *byte = new;
                    }
                }
                _ => bytes.truncate(at.max(64)),
            }
            if bytes.is_empty() {
                bytes.push(0);
            }
        }
        bytes
    }

    /// One of these texts with one to four changes, which may leave no text.
    pub fn text(&mut self, seeds: &[String]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone().into_bytes();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len());
            let end = (at + self.below(24)).min(bytes.len());
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] = self.byte(),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let piece = bytes[at..end].to_vec();
                    let to = self.below(bytes.len());
                    drop(bytes.splice(to..to, piece));
                }
                3 => {
                    let other = seeds[self.below(seeds.len())].as_bytes();
                    let from = self.below(other.len());
                    let until = (from + self.below(48)).min(other.len());
                    drop(bytes.splice(at..end, other[from..until].iter().copied()));
                }
                4 => bytes.truncate(at),
                _ => {
                    let piece = PIECES[self.below(PIECES.len())].bytes();
                    drop(bytes.splice(at..at, piece));
                }
            }
        }
        bytes
    }
}
