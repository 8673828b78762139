//! Decapsulation's traits over plain memory, for tests and fuzzers.

use super::mss::{self, Finding, Outgoing, Replacement};
use super::{Prefix, Reason, Settings, Tables, ip};
use crate::layout::Family;
use crate::memory::Frame;
use crate::packet::Packet as _;

/// VIPs, sources and settings, and who is told of counts.
pub struct Memory<'a> {
    /// Addresses that this host serves.
    pub vips: &'a [Prefix],
    /// Outer sources whose packets are opened.
    pub sources: &'a [Prefix],
    /// Numbers.
    pub settings: Settings,
    /// Called with every frame that came in: its reason and length.
    pub on_count: &'a dyn Fn(Reason, u64),
    /// Called with every SYN-ACK of a VIP: what was found and its length.
    pub on_answer: &'a dyn Fn(Finding, u64),
}

impl Tables for Memory<'_> {
    fn is_vip(&self, address: &Prefix) -> bool {
        self.vips.contains(address)
    }

    fn is_source(&self, address: &Prefix) -> bool {
        self.sources.iter().any(|prefix| prefix.covers(*address))
    }

    fn gue_port(&self) -> u16 {
        self.settings.gue_port
    }

    fn count(&self, reason: Reason, bytes: u64) {
        (self.on_count)(reason, bytes);
    }
}

impl mss::Tables for Memory<'_> {
    fn is_vip(&self, address: &Prefix) -> bool {
        self.vips.contains(address)
    }

    fn limit(&self, family: Family) -> u16 {
        match family {
            Family::V4 => self.settings.mss_v4,
            Family::V6 => self.settings.mss_v6,
        }
    }

    fn count(&self, finding: Finding, bytes: u64) {
        (self.on_answer)(finding, bytes);
    }
}

impl Outgoing for Frame<'_> {
    fn replace(&mut self, replacement: Replacement) {
        let Replacement { value_at, value, checksum_at, old, new } = replacement;
        if let Some(checksum) = self.header_mut::<[u8; 2]>(checksum_at) {
            *checksum = ip::updated(*checksum, old, new);
        }
        if let Some(announced) = self.header_mut::<[u8; 2]>(value_at) {
            *announced = value;
        }
    }
}
