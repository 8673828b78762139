//! Which service claims which ports of which VIP.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::layout::{RangeWord, VipPorts};
use lb_common::service::port_key;
use lb_common::wire;

use crate::config::model::{Ports, Protocol};
use crate::desired::{Desired, ServiceRecord};

/// Ports of one VIP that are not exact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct VipClaims {
    any: [u16; 3],
    pub(super) ranges: Vec<Range>,
}

/// Ports `first..=last` of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Range {
    pub(super) protocol: u8,
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) service: u16,
}

/// All claims.
#[derive(Default)]
pub(super) struct Claims {
    /// Service by the port index's key.
    pub(super) exact: HashMap<u32, u32>,
    /// By VIP id.
    pub(super) vips: HashMap<u16, VipClaims>,
}

pub(super) fn wire_protocol(protocol: Protocol) -> wire::Protocol {
    match protocol {
        Protocol::Tcp => wire::Protocol::Tcp,
        Protocol::Udp => wire::Protocol::Udp,
        Protocol::Sctp => wire::Protocol::Sctp,
    }
}

impl Claims {
    pub(super) fn add(&mut self, vip: u16, service: u16, record: &ServiceRecord) {
        for protocol in record.protocols.iter().map(|protocol| wire_protocol(*protocol)) {
            let claims = self.vips.entry(vip).or_default();
            match &record.ports {
                Ports::Any => claims.any[protocol as usize - 1] = service,
                Ports::Ranges(ranges) => {
                    for &(first, last) in ranges {
                        if first == last {
                            let key = port_key(vip.into(), protocol, first);
                            self.exact.insert(key, service.into());
                        } else {
                            claims.ranges.push(Range { protocol: protocol as u8, first, last, service });
                        }
                    }
                }
            }
        }
    }
}

impl VipClaims {
    pub(super) fn any(&self) -> VipPorts {
        let [tcp, udp, sctp] = self.any;
        VipPorts::new(tcp, udp, sctp)
    }

    /// The any-port services with those of `old` where there is none.
    pub(super) fn any_or(&self, old: VipPorts) -> VipPorts {
        let old = [old.0 as u16, (old.0 >> 16) as u16, (old.0 >> 32) as u16];
        let [tcp, udp, sctp] =
            std::array::from_fn(|index| if self.any[index] == 0 { old[index] } else { self.any[index] });
        VipPorts::new(tcp, udp, sctp)
    }

    /// The ranges with the parts of `old` that none of them covers.
    pub(super) fn ranges_or(&self, old: &[Range]) -> Vec<Range> {
        let mut union = self.ranges.clone();
        for range in old {
            let mut left = vec![*range];
            for new in self.ranges.iter().filter(|new| new.protocol == range.protocol) {
                left = left.into_iter().flat_map(|part| part.without(*new)).collect();
            }
            union.extend(left);
        }
        union
    }
}

impl Range {
    pub(super) fn from_word(word: u64) -> Option<Self> {
        let (service, protocol) = (word as u16, (word >> 16) as u16);
        let protocol = u8::try_from(protocol).ok()?;
        (service != 0).then_some(Self {
            protocol,
            first: (word >> 32) as u16,
            last: (word >> 48) as u16,
            service,
        })
    }

    pub(super) fn word(self) -> u64 {
        wire::Protocol::from_code(self.protocol)
            .map_or(0, |protocol| RangeWord::new(protocol, self.first, self.last, self.service).0)
    }

    /// What is left of this range outside of `other`.
    fn without(self, other: Self) -> Vec<Self> {
        if other.last < self.first || self.last < other.first {
            return vec![self];
        }
        let mut left = Vec::new();
        if self.first < other.first {
            left.push(Self { last: other.first - 1, ..self });
        }
        if other.last < self.last {
            left.push(Self { first: other.last + 1, ..self });
        }
        left
    }
}

/// Addresses of which some port changes hands between two desired states.
pub(super) fn changed_addresses(before: Option<&Desired>, after: &Desired) -> HashSet<IpAddr> {
    let mut changed = HashSet::new();
    let Some(before) = before else {
        changed.extend(after.vips.keys());
        return changed;
    };
    let same = |one: &ServiceRecord, two: &ServiceRecord| {
        one.addresses == two.addresses && one.ports == two.ports && one.protocols == two.protocols
    };
    let mut compare = |one: &Desired, two: &Desired| {
        for (name, record) in &*one.services {
            let other: Option<&Arc<ServiceRecord>> = two.services.get(name);
            if !other.is_some_and(|other| Arc::ptr_eq(other, record) || same(other, record)) {
                changed.extend(record.addresses.iter().copied());
            }
        }
    };
    compare(before, after);
    compare(after, before);
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_union_of_ranges_keeps_what_the_new_ones_leave_of_the_old() {
        let range = |protocol, first, last, service| Range { protocol, first, last, service };
        let new =
            VipClaims { ranges: vec![range(1, 100, 200, 5), range(2, 1, 9, 5)], ..VipClaims::default() };
        let old = [range(1, 50, 300, 4), range(1, 120, 130, 4), range(2, 5, 20, 4), range(3, 1, 2, 4)];
        assert_eq!(
            new.ranges_or(&old),
            [
                range(1, 100, 200, 5),
                range(2, 1, 9, 5),
                range(1, 50, 99, 4),
                range(1, 201, 300, 4),
                range(2, 10, 20, 4),
                range(3, 1, 2, 4),
            ]
        );
    }

    #[test]
    fn ranges_survive_their_word() {
        let range = Range { protocol: 3, first: 1, last: 65535, service: 65535 };
        assert_eq!(Range::from_word(range.word()), Some(range));
        assert_eq!(Range::from_word(0), None);
    }
}
