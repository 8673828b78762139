//! Hashes of the data plane: multiply and shift, since BPF has neither 128-bit products nor rotates.
//!
//! Neither is cryptographic. The bucket hash is keyed by a secret drawn when the maps are made, so that its
//! collisions cannot be computed from outside; the selection hash is keyed by the config's `hash_seed`, equal on all
//! instances. Constants: odd 64-bit numbers of the splitmix64 and murmur3 finalisers (public domain).

const K1: u64 = 0xbf58_476d_1ce4_e5b9;
const K2: u64 = 0x94d0_49bb_1331_11eb;
const K3: u64 = 0xff51_afd7_ed55_8ccd;

/// Mixes `word` into `state`; every input bit reaches the upper half of the product.
#[inline(always)]
#[must_use]
pub const fn absorb(state: u64, word: u64) -> u64 {
    let product = (state ^ word).wrapping_mul(K1);
    product ^ (product >> 32)
}

/// Spreads `state` over all 64 bits.
#[inline(always)]
#[must_use]
pub const fn finish(state: u64) -> u64 {
    let product = state.wrapping_mul(K2);
    product ^ (product >> 29)
}

/// A further, independent-looking value from a finished hash: `n` = 1, 2, … gives the n-th.
#[inline(always)]
#[must_use]
pub const fn again(hash: u64, n: u64) -> u64 {
    finish(absorb(hash, n.wrapping_mul(K3)))
}

/// Maps the upper half of `hash` evenly to `0..size` (Lemire's multiply-shift).
#[inline(always)]
#[must_use]
pub const fn scale(hash: u64, size: u32) -> u32 {
    (((hash >> 32) * size as u64) >> 32) as u32
}

/// The 32-bit hash of a 32-bit key for the service indexes.
#[inline(always)]
#[must_use]
pub const fn index(key: u32) -> u32 {
    ((key as u64).wrapping_mul(K3) >> 32) as u32
}

/// The 32-bit hash of an IPv6 address for the VIP index.
#[inline(always)]
#[must_use]
pub const fn index_v6(high: u64, low: u64) -> u32 {
    (absorb(high, low.wrapping_mul(K2)).wrapping_mul(K3) >> 32) as u32
}
