//! Server ids: what QUIC connection IDs say of the server that issued them (draft-ietf-quic-load-balancers-21).

use crate::cell::SharedU64;
use crate::hash;

/// Longest server id, in bytes: a connection ID has up to 20, of which one is the first octet and four the nonce.
pub const SERVER_ID_BYTES: usize = 15;
/// Server ids of a backend, each of another length.
pub const SERVER_IDS: usize = 3;
/// Configurations that the first octet of a connection ID can tell apart; the eighth value says that none is used.
pub const CID_CONFIGS: u32 = 7;

/// A server id, of 1 to 15 bytes: as two big-endian numbers, zero-filled, with its length in the last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId {
    /// Its first 8 bytes.
    pub high: u64,
    /// The others, and its length.
    pub low: u64,
}

impl ServerId {
    /// The server id with these bytes; `None` where there are none or too many.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() || bytes.len() > SERVER_ID_BYTES {
            return None;
        }
        let mut padded = [0; 16];
        for (to, from) in padded.iter_mut().zip(bytes) {
            *to = *from;
        }
        let number = u128::from_be_bytes(padded);
        Some(Self { high: (number >> 64) as u64, low: number as u64 | bytes.len() as u64 })
    }

    /// The first `length` (1 to 15) of 16 bytes, given as two big-endian numbers.
    #[inline(always)]
    #[must_use]
    pub const fn first_of(high: u64, low: u64, length: u32) -> Self {
        let bits = length * 8;
        // Without a length there is nothing to keep right; shifts stay below 64.
        let (high_mask, low_mask) = if bits <= 64 {
            (u64::MAX << ((64 - bits) & 63), 0)
        } else {
            (u64::MAX, u64::MAX << ((128 - bits) & 63))
        };
        Self { high: high & high_mask, low: low & low_mask | length as u64 }
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(self) -> ([u8; 16], usize) {
        let number = u128::from(self.high) << 64 | u128::from(self.low);
        (number.to_be_bytes(), self.len())
    }

    /// Its length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "there is no empty one")]
    #[must_use]
    pub const fn len(self) -> usize {
        (self.low & 0xf) as usize
    }

    /// The server index's key, for a server of this pool.
    #[inline(always)]
    #[must_use]
    pub const fn key(self, pool: u32) -> u32 {
        (hash::absorb(hash::absorb(pool as u64, self.high), self.low) >> 32) as u32
    }
}

impl core::fmt::Display for ServerId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (bytes, length) = self.bytes();
        bytes.iter().take(length).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A backend's server ids, by its id. Written before the server index names the backend.
#[repr(C, align(64))]
#[cfg_attr(not(target_arch = "bpf"), derive(Debug, Default))]
pub struct ServerIds {
    /// Its pool.
    pub pool: SharedU64,
    /// The two numbers of each [`ServerId`]; 0 where there is none.
    pub ids: [[SharedU64; 2]; SERVER_IDS],
    /// Zero.
    pub reserved: u64,
}

#[cfg(not(loom))]
const _: () = assert!(core::mem::size_of::<ServerIds>() == 64);

impl ServerIds {
    /// Whether it is a backend of `pool` with this server id.
    #[inline(always)]
    #[must_use]
    pub fn has(&self, pool: u32, id: ServerId) -> bool {
        let [first, second, third] = &self.ids;
        let is = |[high, low]: &[SharedU64; 2]| (high.get() ^ id.high) | (low.get() ^ id.low);
        self.pool.get() == pool as u64 && (is(first) == 0 || is(second) == 0 || is(third) == 0)
    }
}

/// A service's configurations of connection IDs: in each nibble, from bit 0 upwards, the length of the server ids of the
/// configuration with that number, 0 where it is not in use. 0: connection IDs are not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CidConfigs(pub u64);

impl CidConfigs {
    /// The same with one more.
    #[must_use]
    pub const fn with(self, config: u32, length: u8) -> Self {
        let shift = (config % CID_CONFIGS) * 4;
        Self(self.0 & !(0xf << shift) | (length as u64 & 0xf) << shift)
    }

    /// The length of the server ids of the configuration that a connection ID's first octet tells; 0 where that is not
    /// in use, or the octet says that the connection ID tells nothing.
    #[inline(always)]
    #[must_use]
    pub const fn length(self, first_octet: u8) -> u32 {
        (self.0 >> ((first_octet as u32 >> 5) * 4)) as u32 & 0xf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_ids_are_the_first_bytes_of_what_is_read() {
        let read: [u8; 16] = core::array::from_fn(|byte| byte as u8 + 0xa0);
        let [high, low] = [0, 8].map(|at| u64::from_be_bytes(core::array::from_fn(|byte| read[at + byte])));
        for length in 1..=SERVER_ID_BYTES {
            let id = ServerId::new(&read[..length]).expect("the length is allowed");
            assert_eq!(ServerId::first_of(high, low, length as u32), id, "{length} bytes");
            let text: String = read[..length].iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!((id.to_string(), id.len()), (text, length));
        }
        assert_eq!((ServerId::new(&[]), ServerId::new(&read)), (None, None));
        assert_ne!(ServerId::new(&[1]), ServerId::new(&[1, 0]), "a longer one is another");
    }

    #[test]
    fn a_first_octet_tells_its_configuration_and_the_last_of_them_is_none() {
        let configs = CidConfigs(0).with(0, 15).with(6, 1).with(3, 4).with(3, 8);
        for (octet, length) in [(0x1f, 15), (0x20, 0), (0x60, 8), (0x7f, 8), (0xdf, 1), (0xe0, 0), (0xff, 0)]
        {
            assert_eq!(configs.length(octet), length, "{octet:#x}");
        }
    }

    #[test]
    fn a_backend_has_its_own_ids_in_its_own_pool() {
        let id = ServerId::new(&[1, 2, 3]).expect("three bytes");
        let ids = ServerIds::default();
        ids.pool.set(7);
        assert!(!ids.has(7, id));
        ids.ids[2][0].set(id.high);
        ids.ids[2][1].set(id.low);
        assert!(ids.has(7, id) && !ids.has(8, id));
    }
}
