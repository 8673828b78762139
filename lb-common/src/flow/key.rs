//! What identifies a flow: wire fields only.
//!
//! The VIP stands for its address (an id belongs to one address until a sweep found no flow naming it), so that a key
//! is 10 bytes for IPv4 and renaming a service or adding an exact port beside an any-port one orphans nothing.

use crate::hash;
use crate::wire::Protocol;

/// Multiplier that spreads a binding over a key word; odd, so that no binding is lost.
const BINDING_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Backend id in the upper half, the flow's destination port in the lower. 0 is no binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding(pub u32);

impl Binding {
    /// Binds a flow to destination port `port` (host order) to a backend.
    #[inline(always)]
    #[must_use]
    pub const fn new(backend: u32, port: u16) -> Self {
        Self(backend << 16 | port as u32)
    }

    /// Backend id.
    #[inline(always)]
    #[must_use]
    pub const fn backend(self) -> u32 {
        self.0 >> 16
    }

    /// Destination port, host order.
    #[inline(always)]
    #[must_use]
    pub const fn port(self) -> u16 {
        self.0 as u16
    }

    /// What key words are stored XORed with.
    #[inline(always)]
    #[must_use]
    pub const fn mask(self) -> u64 {
        (self.0 as u64).wrapping_mul(BINDING_FACTOR)
    }
}

/// A flow's key: `W` words and the destination port, which entries keep in the binding.
///
/// IPv4 (`W` = 1): source address, source port, VIP id and protocol. IPv6 (`W` = 3): the source's upper half, its lower
/// half, then source port, VIP id and protocol with 32 bits of the hash above them, which tie the words together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey<const W: usize> {
    /// Key words.
    pub words: [u64; W],
    /// Destination port, host order.
    pub port: u16,
    /// Bucket hash: the lower half names the first bucket, the upper half the second.
    pub hash: u64,
}

/// Source port, VIP id and protocol in 32 bits.
#[inline(always)]
const fn ends(source_port: u16, vip: u32, protocol: Protocol) -> u64 {
    (source_port as u64) << 16 | (vip << 2 | protocol as u32) as u16 as u64
}

impl FlowKey<1> {
    /// The key of an IPv4 flow; `source` is big-endian as a number, ports are in host order.
    #[inline(always)]
    #[must_use]
    pub fn v4(secret: u64, source: u32, ports: (u16, u16), vip: u32, protocol: Protocol) -> Self {
        let word = (source as u64) << 32 | ends(ports.0, vip, protocol);
        let hash = hash::finish(hash::absorb(secret, word) ^ ports.1 as u64);
        Self { words: [word], port: ports.1, hash }
    }
}

impl FlowKey<3> {
    /// The key of an IPv6 flow; `source` holds both halves of the address, ports are in host order.
    #[inline(always)]
    #[must_use]
    pub fn v6(secret: u64, source: (u64, u64), ports: (u16, u16), vip: u32, protocol: Protocol) -> Self {
        let ends = ends(ports.0, vip, protocol);
        let state = hash::absorb(hash::absorb(secret, source.0), source.1);
        let hash = hash::finish(hash::absorb(state, ends << 16 | ports.1 as u64));
        let tag = hash::again(hash, 1) & 0xffff_ffff_0000_0000;
        Self { words: [source.0, source.1, tag | ends], port: ports.1, hash }
    }
}

impl<const W: usize> FlowKey<W> {
    /// The two candidate buckets, given the number of buckets less one.
    #[inline(always)]
    #[must_use]
    pub const fn buckets(&self, mask: u32) -> (u32, u32) {
        (self.hash as u32 & mask, (self.hash >> 32) as u32 & mask)
    }

    /// The way, 0–3, whose entry the flow takes of those worth the same: by two bits of the hash that name no bucket.
    #[inline(always)]
    #[must_use]
    pub const fn own_way(&self) -> u32 {
        self.hash as u32 >> 30
    }
}

/// The fields of a stored key: source address halves (IPv4: the address in the second), source port, VIP id, protocol.
///
/// `None` for a protocol code that does not exist, as in a torn entry.
#[must_use]
pub fn decode<const W: usize>(words: &[u64; W]) -> Option<((u64, u64), u16, u32, Protocol)> {
    let last = *words.last()?;
    let source = if W == 1 { (0, last >> 32) } else { (*words.first()?, *words.get(1)?) };
    let vip_protocol = last as u16 as u32;
    let protocol = Protocol::from_code((vip_protocol & 3) as u8)?;
    Some((source, (last >> 16) as u16, vip_protocol >> 2, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_keys_decode_to_their_fields() {
        let v4 = FlowKey::v4(7, 0xcb00_7109, (51000, 80), 16383, Protocol::Sctp);
        assert_eq!(decode(&v4.words), Some(((0, 0xcb00_7109), 51000, 16383, Protocol::Sctp)));
        let v6 = FlowKey::v6(7, (1, 2), (51000, 80), 3, Protocol::Udp);
        assert_eq!(decode(&v6.words), Some(((1, 2), 51000, 3, Protocol::Udp)));
    }

    #[test]
    fn every_field_reaches_both_bucket_numbers() {
        let base = FlowKey::v4(7, 0x0a00_0001, (1000, 80), 1, Protocol::Tcp);
        let changed = [
            FlowKey::v4(8, 0x0a00_0001, (1000, 80), 1, Protocol::Tcp),
            FlowKey::v4(7, 0x0a00_0002, (1000, 80), 1, Protocol::Tcp),
            FlowKey::v4(7, 0x0a00_0001, (1001, 80), 1, Protocol::Tcp),
            FlowKey::v4(7, 0x0a00_0001, (1000, 81), 1, Protocol::Tcp),
            FlowKey::v4(7, 0x0a00_0001, (1000, 80), 2, Protocol::Tcp),
            FlowKey::v4(7, 0x0a00_0001, (1000, 80), 1, Protocol::Udp),
        ];
        for other in changed {
            let (first, second) = (base.buckets(0xffff), other.buckets(0xffff));
            assert!(first.0 != second.0 && first.1 != second.1, "{base:?} {other:?}");
        }
    }
}
