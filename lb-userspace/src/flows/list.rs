//! Flows as people ask for them.

use std::net::IpAddr;

use lb_common::flow::Class;
use lb_common::layout::TimeoutsWord;
use lb_common::memory::Memory;
use lb_common::nat::Held;
use lb_common::service;
use lb_common::time::{TICK_NS, Tick};
use lb_common::wire::Protocol;

use super::entry::{Entry, entries};
use super::{V4, V6, memory, nat};
use crate::apply::labels::address;
use crate::maps::set::MapSet;

/// A live flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Client's address.
    pub client: IpAddr,
    /// Client's port.
    pub client_port: u16,
    /// The VIP's address.
    pub vip: IpAddr,
    /// VIP id.
    pub vip_id: u16,
    /// Destination port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Id of the service that has the port; `None` when none has.
    pub service: Option<u16>,
    /// Backend id.
    pub backend: u16,
    /// How far it has come.
    pub class: Class,
    /// Seconds without a packet, in steps of 4.3; `None` without a service.
    pub idle_s: Option<u64>,
}

/// The live flows of both families, in no order. Expired entries are left out.
pub fn list(maps: &MapSet, now: Tick) -> impl Iterator<Item = Flow> {
    let tables = memory(maps);
    let v4 = entries::<1, V4>(maps).map(|entry| (client_v4(&entry), entry));
    let v6 = entries::<3, V6>(maps).map(|entry| (client_v6(&entry), entry));
    let translated = nat::held(maps).map(|(_, held)| entry_of(&held));
    v4.chain(v6).chain(translated).filter_map(move |(client, entry)| flow(maps, &tables, client, &entry, now))
}

/// A translated flow as the flow table would have it.
fn entry_of(held: &Held) -> (IpAddr, Entry) {
    let entry = Entry {
        source: held.flow.client,
        ports: held.flow.ports,
        vip: held.flow.vip,
        protocol: held.flow.protocol,
        backend: held.backend() as u16,
        meta: held.meta(),
    };
    (if held.owner.v6 { client_v6(&entry) } else { client_v4(&entry) }, entry)
}

fn client_v4(entry: &Entry) -> IpAddr {
    IpAddr::from((entry.source.1 as u32).to_be_bytes())
}

fn client_v6(entry: &Entry) -> IpAddr {
    IpAddr::from((u128::from(entry.source.0) << 64 | u128::from(entry.source.1)).to_be_bytes())
}

fn flow(maps: &MapSet, tables: &Memory<'_>, client: IpAddr, entry: &Entry, now: Tick) -> Option<Flow> {
    entry.meta.deadline().remaining(now)?;
    let info = maps.vip_info.get(entry.vip as usize)?;
    let vip = address(info.address, info.family)?;
    let service = service::service(tables, entry.vip, entry.protocol, entry.ports.1).ok();
    let class = entry.meta.class();
    let idle_s = service.and_then(|id| maps.services.get(id as usize)).map(|service| {
        let kept = class.ticks(TimeoutsWord(service.timeouts.get()), entry.protocol.steady());
        u64::from(entry.meta.idle(now, kept)) * TICK_NS / 1_000_000_000
    });
    Some(Flow {
        client,
        client_port: entry.ports.0,
        vip,
        vip_id: entry.vip as u16,
        port: entry.ports.1,
        protocol: entry.protocol,
        service: service.map(|id| id as u16),
        backend: entry.backend,
        class,
        idle_s,
    })
}
