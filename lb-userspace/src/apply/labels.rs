//! Records that say what ids stand for.

use std::net::IpAddr;

use lb_common::layout::{BackendInfo, Family, PoolInfo, ServiceInfo, Text, VipInfo};

use crate::desired::{BackendRecord, PoolRecord, ServiceRecord, VipRecord};

/// An address as records have it: IPv4 in the first four bytes.
pub(super) fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address in a record, whose family is 4 or 6.
pub(crate) fn address(bytes: [u8; 16], family: u8) -> Option<IpAddr> {
    let [a, b, c, d, ..] = bytes;
    match family {
        4 => Some(IpAddr::from([a, b, c, d])),
        6 => Some(IpAddr::from(bytes)),
        _ => None,
    }
}

pub(super) fn family(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

fn family_number(address: IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}

/// A backend's labels; `live` has those that the slot writer keeps.
pub(super) fn backend(
    name: &str,
    record: &BackendRecord,
    pool: u16,
    live: Option<&BackendInfo>,
) -> BackendInfo {
    let (since_ms, why) = live.map_or_else(
        || (record.view.since_ms, Text::new(&record.view.why)),
        |live| (live.since_ms, live.why),
    );
    BackendInfo {
        name: Text::new(name),
        host: Text::new(record.host.as_deref().unwrap_or("")),
        address: bytes(record.address),
        family: family_number(record.address),
        tier: record.tier,
        pool,
        weight: record.weight,
        removed: 0,
        reserved: 0,
        since_ms,
        why,
    }
}

pub(super) fn service(record: &ServiceRecord, pool: u16, table_size: u32) -> ServiceInfo {
    let bit = |protocol: &crate::config::model::Protocol| match protocol {
        crate::config::model::Protocol::Tcp => 1,
        crate::config::model::Protocol::Udp => 2,
        crate::config::model::Protocol::Sctp => 4,
    };
    ServiceInfo {
        name: Text::new(&record.name),
        vip: Text::new(&record.vip),
        ports: Text::new(&record.ports.to_string()),
        protocols: record.protocols.iter().map(bit).sum(),
        scheduler: record.scheduler as u8,
        pool,
        table_size,
    }
}

pub(super) fn pool(record: &PoolRecord) -> PoolInfo {
    PoolInfo { name: Text::new(&record.name), active_tier: record.active_tier, reserved: [0; 7] }
}

pub(super) fn vip(record: &VipRecord, address: IpAddr) -> VipInfo {
    VipInfo {
        name: Text::new(&record.name),
        address: bytes(address),
        family: family_number(address),
        reserved: [0; 7],
    }
}
