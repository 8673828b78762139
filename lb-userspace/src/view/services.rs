//! Services as lists show them.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::table::{Align, Cell, Table, Tone};
use super::{Api, Render, bytes, number};

/// The document of `weir services`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Services {
    /// Version mark.
    pub api: Api,
    /// By name.
    pub services: Vec<Service>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Name.
    pub name: String,
    /// Name of the VIP: an address where the config names one directly.
    pub vip: String,
    /// Addresses of the VIP.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Ports as in the config: `80`, `80,443,8000-8100`, `any`.
    pub port: String,
    /// Protocols: `tcp`, `tcp,udp`.
    pub protocol: String,
    /// How packets reach a backend.
    pub mode: String,
    /// How a backend is picked.
    pub scheduler: String,
    /// Name of the pool.
    pub pool: String,
    /// Tier that serves.
    pub active_tier: u8,
    /// Backends of the pool whose checks all pass.
    pub backends_up: u64,
    /// Backends of the pool.
    pub backends_total: u64,
    /// Backends of the pool that take new flows.
    #[serde(default)]
    pub backends_usable: u64,
    /// Live flow entries.
    pub flows: u64,
    /// Packets since the maps were made.
    pub packets: u64,
    /// Bytes of the frames, as they arrived.
    pub bytes: u64,
}

impl Service {
    fn tone(&self) -> Tone {
        match (self.backends_usable, self.backends_up) {
            (0, _) => Tone::Bad,
            (_, up) if up < self.backends_total => Tone::Notice,
            _ => Tone::Good,
        }
    }
}

impl Render for Services {
    fn render(&self, _now: Timestamp) -> String {
        let mut table = Table::new(&[
            ("SERVICE", Align::Left),
            ("VIP", Align::Left),
            ("PORT", Align::Left),
            ("PROTOCOL", Align::Left),
            ("MODE", Align::Left),
            ("POOL", Align::Left),
            ("UP", Align::Right),
            ("FLOWS", Align::Right),
            ("PACKETS", Align::Right),
            ("BYTES", Align::Right),
        ]);
        for service in &self.services {
            table.row([
                service.name.as_str().into(),
                service.vip.as_str().into(),
                service.port.as_str().into(),
                service.protocol.as_str().into(),
                service.mode.as_str().into(),
                service.pool.as_str().into(),
                Cell::toned(format!("{}/{}", service.backends_up, service.backends_total), service.tone()),
                number(service.flows).into(),
                number(service.packets).into(),
                bytes(service.bytes).into(),
            ]);
        }
        table.render()
    }
}
