//! Flows in mode `nat`, from outside: list, counts, ports given back.

use std::net::IpAddr;

use lb_common::flow::{Class, Meta};
use lb_common::layout::{NatAddress, NatPort, NatRange};
use lb_common::nat::{self, Held};
use lb_common::time::Tick;
use lb_common::wire::Protocol;

use crate::apply::labels;
use crate::maps::set::MapSet;

/// Bit of [`NatAddress::facts`].
const V6: u64 = 1 << 16;

/// The address of a record that is in use.
pub(crate) fn address(snat: &NatAddress) -> Option<IpAddr> {
    let family = if snat.facts.get() & V6 == 0 { 4 } else { 6 };
    labels::address(snat.address, family).filter(|_| snat.range.get() != 0)
}

/// Use of the ports of an address and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortUse {
    /// The address.
    pub address: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Ports that flows have, those included that are kept for a while after their end.
    pub used: u32,
    /// All ports.
    pub size: u32,
}

/// Use of every address's ports.
pub fn ports(maps: &MapSet) -> impl Iterator<Item = PortUse> {
    let used = maps.nat_addresses.iter().filter_map(|snat| address(snat).map(|address| (address, snat)));
    used.flat_map(|(address, snat)| {
        let size = NatRange(snat.range.get()).size();
        [Protocol::Tcp, Protocol::Udp].into_iter().zip(&snat.queues).map(move |(protocol, queue)| {
            let free = u32::try_from(nat::free(queue)).unwrap_or(u32::MAX).min(size);
            PortUse { address, protocol, used: size - free, size }
        })
    })
}

/// Every port that a flow has, with its record.
pub(super) fn held(maps: &MapSet) -> impl Iterator<Item = (&NatPort, Held)> {
    let ranges =
        maps.nat_addresses.iter().map(|snat| NatRange(snat.range.get())).filter(|range| range.0 != 0);
    ranges.flat_map(|range| {
        let records = maps.nat_ports.iter().skip(range.record() as usize).take(2 * range.size() as usize);
        records
            .filter(|record| Meta(record.state.get() as u32).class() != Class::Empty)
            .filter_map(|record| Some((record, nat::read(record)?)))
    })
}

/// Gives back the ports of flows that are over, so that the longest free is the next to be taken, and what is left is
/// known. The data plane does that too, a few for each that it takes.
pub fn give_back(maps: &MapSet, now: Tick) {
    let memory = super::memory(maps);
    for snat in maps.nat_addresses.iter().filter(|snat| snat.range.get() != 0) {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            nat::give_back(&memory, snat, protocol, now);
        }
    }
}
