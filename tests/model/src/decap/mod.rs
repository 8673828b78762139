//! The backend's packet logic: a scene of VIPs and sources, frames for it, and what must hold of each.

mod check;
mod generate;
mod replay;

pub use check::{check_answer, check_incoming};
pub use generate::{Outer, answer, incoming, internet_sum};
pub use replay::replay_decap;

use std::cell::RefCell;
use std::net::IpAddr;

use lb_common::decap::memory::Memory;
use lb_common::decap::mss::{self, Finding};
use lb_common::decap::{self, Prefix, Reason, Settings};
use lb_common::layout::Counter;
use lb_common::memory::Frame;

/// Addresses that the backend serves.
pub const VIPS: [&str; 3] = ["198.51.100.10", "198.51.100.11", "2001:db8::10"];
/// Outer sources that it opens tunnels of.
pub const SOURCES: [&str; 3] = ["10.0.0.1/32", "10.0.8.0/21", "fd00::/64"];
/// Its numbers.
pub const SETTINGS: Settings = Settings { gue_port: 6080, mss_v4: 1408, mss_v6: 1388, reserved: 0 };

/// An address as a key of the maps.
#[must_use]
pub fn key(address: IpAddr) -> Prefix {
    match address {
        IpAddr::V4(address) => Prefix::v4(address.octets()),
        IpAddr::V6(address) => {
            let [high, low] = [0, 8].map(|at| std::array::from_fn(|byte| address.octets()[at + byte]));
            Prefix::v6([high, low])
        }
    }
}

fn vips() -> Vec<Prefix> {
    VIPS.iter().filter_map(|vip| vip.parse().ok()).map(key).collect()
}

fn sources() -> Vec<Prefix> {
    let prefix = |text: &&str| {
        let (address, length) = text.split_once('/')?;
        Some(key(address.parse().ok()?).of_length(length.parse().ok()?))
    };
    SOURCES.iter().filter_map(prefix).collect()
}

/// The backend's packet logic over the scene, and what it counted.
#[derive(Default)]
pub struct Backend {
    reasons: RefCell<Vec<Counter>>,
    findings: RefCell<Vec<Counter>>,
}

fn add(counters: &RefCell<Vec<Counter>>, index: usize, count: usize, bytes: u64) {
    let mut counters = counters.borrow_mut();
    counters.resize(count, Counter::default());
    counters[index].packets += 1;
    counters[index].bytes += bytes;
}

impl Backend {
    /// Runs a frame that comes in; how it left, and its bytes then.
    #[must_use]
    pub fn incoming(&self, frame: &[u8]) -> (Reason, Vec<u8>) {
        let mut buffer = frame.to_vec();
        let mut packet = Frame::new(&mut buffer, 0);
        let reason = self.with(|memory| decap::process(&mut packet, memory));
        replay::keep_incoming(frame, reason);
        (reason, packet.bytes().to_vec())
    }

    /// Runs a frame that goes out; what was found, and its bytes then.
    #[must_use]
    pub fn outgoing(&self, frame: &[u8]) -> (Option<Finding>, Vec<u8>) {
        let mut buffer = frame.to_vec();
        let mut packet = Frame::new(&mut buffer, 0);
        let finding = self.with(|memory| mss::clamp(&mut packet, memory));
        replay::keep_outgoing(frame, finding);
        (finding, packet.bytes().to_vec())
    }

    fn with<T>(&self, work: impl FnOnce(&Memory<'_>) -> T) -> T {
        let on_count = |reason: Reason, bytes| add(&self.reasons, reason as usize, Reason::COUNT, bytes);
        let on_answer =
            |finding: Finding, bytes| add(&self.findings, finding as usize, Finding::COUNT, bytes);
        work(&Memory {
            vips: &vips(),
            sources: &sources(),
            settings: SETTINGS,
            on_count: &on_count,
            on_answer: &on_answer,
        })
    }

    /// Packets and bytes by reason.
    #[must_use]
    pub fn reasons(&self) -> Vec<Counter> {
        self.reasons.borrow().clone()
    }

    /// Packets and bytes by finding.
    #[must_use]
    pub fn findings(&self) -> Vec<Counter> {
        self.findings.borrow().clone()
    }
}
