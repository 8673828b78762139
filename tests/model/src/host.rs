//! Frames through the packet logic over tables in memory.

use std::cell::RefCell;

use lb_common::layout::{
    Charged, Charges, Counter, Geometry, HandshakeStep, Handshakes, LIMITED_SLOTS, Limited, Listed, Refusals,
    Scratch,
};
use lb_common::memory::{Frame, Memory, Slices};
use lb_common::pipeline::{self, Outcome};
use lb_common::reason::Reason;
use lb_common::time::Tick;

use crate::replay;
use crate::scene::{INGRESS, OTHER_PORT};

/// What was counted, by reason, service id and backend id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// By reason.
    pub reasons: Vec<Counter>,
    /// By service id.
    pub services: Vec<Counter>,
    /// By backend id.
    pub backends: Vec<Counter>,
    /// Steps of flows' openings, by backend id.
    pub handshakes: Vec<Handshakes>,
    /// Packets that lists refused, by VIP id.
    pub refusals: Vec<Refusals>,
    /// New flows of limited services, by service id.
    pub charges: Vec<Charges>,
}

/// A frame that went through.
pub struct Ran {
    /// Why it left as it did, and where.
    pub outcome: Outcome,
    /// The frame as it left.
    pub output: Vec<u8>,
}

/// The packet logic over tables in memory, with one CPU, and what it counted. Frames may leave by [`INGRESS`] and [`OTHER_PORT`].
pub struct Host<'a> {
    slices: Slices<'a>,
    geometry: Geometry,
    /// The time that packets see.
    pub now: Tick,
    scratch: Scratch,
    limited: Vec<Limited>,
    totals: RefCell<Totals>,
}

fn add(counters: &mut [Counter], index: usize, bytes: u64) {
    if let Some(counter) = counters.get_mut(index) {
        counter.packets += 1;
        counter.bytes += bytes;
    }
}

impl<'a> Host<'a> {
    /// Over these tables, at the geometry's fixed time.
    #[must_use]
    pub fn new(slices: Slices<'a>, geometry: Geometry) -> Self {
        let zeros = |count| vec![Counter::default(); count];
        let totals = Totals {
            reasons: zeros(Reason::COUNT),
            services: zeros(slices.services.len()),
            backends: zeros(slices.backends.len()),
            handshakes: vec![Handshakes::default(); slices.backends.len()],
            refusals: vec![Refusals::default(); slices.vips.len()],
            charges: vec![Charges::default(); slices.services.len()],
        };
        let limited = (0..LIMITED_SLOTS).map(|_| Limited::default()).collect();
        let now = Tick::from_ns(geometry.fixed_now_ns);
        Self { slices, geometry, now, scratch: Scratch::default(), limited, totals: RefCell::new(totals) }
    }

    /// Runs `frame` with this much headroom before it.
    #[must_use]
    pub fn run(&self, frame: &[u8], headroom: usize) -> Ran {
        let mut buffer = vec![0xee; headroom];
        buffer.extend_from_slice(frame);
        let mut packet =
            Frame::new(&mut buffer, headroom).with_tx_ports(&[INGRESS, OTHER_PORT]).with_ingress(INGRESS);
        let on_count = |reason: Reason, bytes: u64| {
            add(&mut self.totals.borrow_mut().reasons, reason as usize, bytes);
        };
        let on_forwarded = |service: u32, backend: u32, bytes: u64| {
            let mut totals = self.totals.borrow_mut();
            add(&mut totals.services, service as usize, bytes);
            add(&mut totals.backends, backend as usize, bytes);
        };
        let on_handshake = |backend: u32, step: HandshakeStep| {
            if let Some(handshakes) = self.totals.borrow_mut().handshakes.get_mut(backend as usize) {
                handshakes.steps[step as usize] += 1;
            }
        };
        let on_refused = |vip: u32, list: Listed| {
            if let Some(refusals) = self.totals.borrow_mut().refusals.get_mut(vip as usize) {
                refusals.packets[list as usize] += 1;
            }
        };
        let on_charged = |service: u32, what: Charged| {
            if let Some(charges) = self.totals.borrow_mut().charges.get_mut(service as usize) {
                charges.packets[what as usize] += 1;
            }
        };
        let tables = Memory {
            slices: self.slices,
            geometry: self.geometry,
            now: self.now,
            scratch: Some(&self.scratch),
            on_count: &on_count,
            on_forwarded: &on_forwarded,
            on_handshake: &on_handshake,
            on_refused: &on_refused,
            on_charged: &on_charged,
            limited: &self.limited,
        };
        let outcome = pipeline::process(&mut packet, &tables);
        replay::keep(frame, outcome.reason);
        Ran { outcome, output: packet.bytes().to_vec() }
    }

    /// What was counted so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals.borrow().clone()
    }
}
