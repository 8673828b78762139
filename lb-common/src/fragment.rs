//! The fragment table: where the first fragment of a packet went, so that the others follow.
//!
//! Only the first fragment has ports. An entry lives through the tick after its own: 4.3 to 8.6 s. A line that is full
//! gives up its oldest entry, so a flood of fragments shortens the time but never stops the table.
//!
//! Several CPUs read and write an entry without locks. Every key word is stored XORed with a multiple of the value, and
//! a look-up recomputes that, so an entry that is half of one packet and half of another matches neither.

use crate::hash;
use crate::layout::{FragmentLine, FragmentWay};
use crate::tables::Tables;
use crate::time::Tick;

/// Multiplier that spreads a value over a key word; odd, so that no value is lost.
const VALUE_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// An entry is live in its own tick and this many after it.
const TICKS: u32 = 1;

/// What identifies a packet in fragments: source, VIP, identification and, for IPv4, the protocol (RFC 791 section 2.3,
/// RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    words: [u64; 3],
    /// Of all of it.
    pub hash: u64,
}

impl Key {
    /// The key of a packet; `source` holds both halves of an IPv6 address, or an IPv4 one in the second. `protocol` is 0
    /// for IPv6, whose later fragments do not tell it. A VIP is of one family, so the two never meet.
    #[inline(always)]
    #[must_use]
    pub fn new(secret: u64, source: (u64, u64), vip: u32, id: u32, protocol: u8) -> Self {
        let last = (id as u64) << 32 | (protocol as u64) << 24 | vip as u64;
        let words = [source.0, source.1, last];
        let state = hash::absorb(hash::absorb(secret, source.0), source.1);
        Self { words, hash: hash::finish(hash::absorb(state, last)) }
    }

    /// The line that has the packet's entry, if any has.
    #[inline(always)]
    pub fn line<'a, T: Tables>(&self, tables: &'a T) -> Option<&'a FragmentLine> {
        tables.fragments((self.hash >> 32) as u32 & tables.fragments_mask())
    }

    #[inline(always)]
    fn is_in(&self, way: &FragmentWay, value: Value) -> bool {
        let mut difference = 0;
        for (stored, word) in way.key.iter().zip(&self.words) {
            difference |= stored.get() ^ value.mask() ^ word;
        }
        difference == 0 && value.0 != 0
    }
}

/// Where a packet's fragments go: bits 0–15 backend id, 16–31 service id, 32–51 tick of the first fragment, 52–59
/// generation of the backend id, bit 63 set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value(pub u64);

impl Value {
    /// A value with these parts.
    #[inline(always)]
    #[must_use]
    pub const fn new(backend: u32, generation: u8, service: u32, now: Tick) -> Self {
        Self(
            backend as u16 as u64
                | (service as u16 as u64) << 16
                | (now.bits() as u64) << 32
                | (generation as u64) << 52
                | 1 << 63,
        )
    }

    /// Backend id.
    #[inline(always)]
    #[must_use]
    pub const fn backend(self) -> u32 {
        self.0 as u16 as u32
    }

    /// Service id.
    #[inline(always)]
    #[must_use]
    pub const fn service(self) -> u32 {
        (self.0 >> 16) as u16 as u32
    }

    /// Generation of the backend id when the first fragment was sent.
    #[inline(always)]
    #[must_use]
    pub const fn generation(self) -> u8 {
        (self.0 >> 52) as u8
    }

    /// Ticks since the first fragment.
    #[inline(always)]
    const fn age(self, now: Tick) -> u32 {
        now.since(Tick::from_bits((self.0 >> 32) as u32))
    }

    #[inline(always)]
    const fn mask(self) -> u64 {
        self.0.wrapping_mul(VALUE_FACTOR)
    }
}

/// Where the first fragment went, given the key's line; `None` where none came lately.
#[inline(always)]
#[must_use]
pub fn find(line: &FragmentLine, key: &Key, now: Tick) -> Option<Value> {
    for way in &line.ways {
        let value = Value(way.value.get());
        if key.is_in(way, value) && value.age(now) <= TICKS {
            return Some(value);
        }
    }
    None
}

/// Remembers where the first fragment goes: in the packet's own entry, else in place of the oldest of its line.
#[inline(always)]
pub fn remember(line: &FragmentLine, key: &Key, value: Value, now: Tick) {
    let [first, second] = &line.ways;
    let (one, two) = (Value(first.value.get()), Value(second.value.get()));
    // An empty way's age is that of tick 0; it is taken before a live one all the same.
    let older = one.0 == 0 || (two.0 != 0 && one.age(now) >= two.age(now));
    let way = if key.is_in(second, two) || (!key.is_in(first, one) && !older) { second } else { first };
    for (stored, word) in way.key.iter().zip(&key.words) {
        stored.set(word ^ value.mask());
    }
    way.value.set(value.0);
}
