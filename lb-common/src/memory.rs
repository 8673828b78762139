//! The pipeline's traits over byte buffers and plain memory, for tests, fuzzers and private instances.

use crate::forward::Egress;
use crate::layout::{
    Backend, Bucket, Charged, FilterLine, FragmentLine, Geometry, HandshakeStep, IndexLine, Limit, Limited,
    Listed, Load, MaglevLine, NatAddress, NatLine, NatPort, NextHop, OverflowLine, Pool, RangeLine, Scratch,
    ServerIds, Service, SourceLine, Vip, VipLineV6,
};
use crate::packet::{NoHeadroom, NoTxPort, Packet, TooShort};
use crate::pipeline::Outcome;
use crate::reason::Reason;
use crate::tables::Tables;
use crate::time::{TICK_NS, Tick};
use crate::wire::{ETHERNET_LEN, Header};

/// A frame in a buffer with headroom before it.
pub struct Frame<'a> {
    buffer: &'a mut [u8],
    start: usize,
    end: usize,
    /// Interfaces that frames may leave by; `None` is all.
    tx_ports: Option<&'a [u32]>,
    /// Index of the interface that it came in by.
    ingress: u32,
}

impl<'a> Frame<'a> {
    /// The frame that starts `headroom` bytes into `buffer` and ends with it.
    #[must_use]
    pub fn new(buffer: &'a mut [u8], headroom: usize) -> Self {
        Self { start: headroom.min(buffer.len()), end: buffer.len(), buffer, tx_ports: None, ingress: 0 }
    }

    /// The frame with only these interfaces to leave by.
    #[must_use]
    pub fn with_tx_ports(self, ports: &'a [u32]) -> Self {
        Self { tx_ports: Some(ports), ..self }
    }

    /// The frame as it came in by the interface with this index.
    #[must_use]
    pub fn with_ingress(self, ingress: u32) -> Self {
        Self { ingress, ..self }
    }

    /// The frame's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or(&[])
    }
}

impl Packet for Frame<'_> {
    fn length(&self) -> usize {
        self.bytes().len()
    }

    fn header<H: Header>(&self, offset: usize) -> Option<&H> {
        H::ref_from_prefix(self.bytes().get(offset..)?).ok().map(|(header, _)| header)
    }

    fn header_mut<H: Header>(&mut self, offset: usize) -> Option<&mut H> {
        let bytes = self.buffer.get_mut(self.start..self.end)?.get_mut(offset..)?;
        H::mut_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    fn grow_front(&mut self, bytes: usize) -> Result<(), NoHeadroom> {
        self.start = self.start.checked_sub(bytes).ok_or(NoHeadroom)?;
        Ok(())
    }

    fn shrink_front(&mut self, bytes: usize) -> Result<(), TooShort> {
        if bytes + ETHERNET_LEN > self.length() {
            return Err(TooShort);
        }
        self.start += bytes;
        Ok(())
    }

    fn truncate(&mut self, length: usize) -> Result<(), TooShort> {
        if length < ETHERNET_LEN || length > self.length() {
            return Err(TooShort);
        }
        self.end = self.start + length;
        Ok(())
    }

    fn ingress(&self) -> u32 {
        self.ingress
    }

    fn leave_by(&mut self, port: u32) -> Result<Egress, NoTxPort> {
        if port == self.ingress {
            return Ok(Egress::BACK);
        }
        if self.tx_ports.is_none_or(|ports| ports.contains(&port)) { Ok(Egress(port)) } else { Err(NoTxPort) }
    }
}

/// Slices of map values, from mapped BPF maps or plain memory; an index past a slice's end gives `None`.
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "each field is the map of that name in `Tables`")]
pub struct Slices<'a> {
    pub vips_v4: &'a [IndexLine],
    pub vips_v6: &'a [VipLineV6],
    pub ports: &'a [IndexLine],
    pub ranges: &'a [RangeLine],
    pub vips: &'a [Vip],
    pub services: &'a [Service],
    pub pools: &'a [Pool],
    pub maglev: &'a [MaglevLine],
    pub backends: &'a [Backend],
    pub loads: &'a [Load],
    pub servers: &'a [IndexLine],
    pub server_ids: &'a [ServerIds],
    pub next_hops: &'a [NextHop],
    pub flows_v4: &'a [Bucket<1>],
    pub flows_v6: &'a [Bucket<3>],
    pub overflow_v4: &'a [OverflowLine],
    pub overflow_v6: &'a [OverflowLine],
    pub fragments: &'a [FragmentLine],
    pub filters: &'a [FilterLine],
    pub limits: &'a [Limit],
    pub sources: &'a [SourceLine],
    pub nat_addresses: &'a [NatAddress],
    pub nat_ports: &'a [NatPort],
    pub nat_lines: &'a [NatLine],
}

impl Slices<'_> {
    /// No values.
    pub const EMPTY: Self = Self {
        vips_v4: &[],
        vips_v6: &[],
        ports: &[],
        ranges: &[],
        vips: &[],
        services: &[],
        pools: &[],
        maglev: &[],
        backends: &[],
        loads: &[],
        next_hops: &[],
        flows_v4: &[],
        flows_v6: &[],
        overflow_v4: &[],
        overflow_v6: &[],
        fragments: &[],
        servers: &[],
        server_ids: &[],
        filters: &[],
        limits: &[],
        sources: &[],
        nat_addresses: &[],
        nat_ports: &[],
        nat_lines: &[],
    };
}

/// Called with every packet that leaves: its reason and length in bytes.
pub type OnCount<'a> = &'a dyn Fn(Reason, u64);
/// Called with every forwarded packet: service id, backend id, length in bytes.
pub type OnForwarded<'a> = &'a dyn Fn(u32, u32, u64);

/// Called with every step of a flow's opening: backend id, step.
pub type OnHandshake<'a> = &'a dyn Fn(u32, HandshakeStep);

/// Called with every packet that a list refuses: VIP id, list.
pub type OnRefused<'a> = &'a dyn Fn(u32, Listed);

/// Called with every packet that would start a flow of a limited service: service id, what became of it.
pub type OnCharged<'a> = &'a dyn Fn(u32, Charged);

/// The pipeline's tables over [`Slices`].
pub struct Memory<'a> {
    /// The map values.
    pub slices: Slices<'a>,
    /// Sizes and secrets.
    pub geometry: Geometry,
    /// The time that the pipeline sees.
    pub now: Tick,
    /// What the one CPU keeps; without it nothing is answered.
    pub scratch: Option<&'a Scratch>,
    /// Receives the counts.
    pub on_count: OnCount<'a>,
    /// Receives the counts of forwarded packets.
    pub on_forwarded: OnForwarded<'a>,
    /// Receives the steps of flows' openings.
    pub on_handshake: OnHandshake<'a>,
    /// Receives the packets that lists refuse.
    pub on_refused: OnRefused<'a>,
    /// Receives what becomes of packets that would start limited flows.
    pub on_charged: OnCharged<'a>,
    /// What the one CPU knows of sources that were limited.
    pub limited: &'a [Limited],
}

impl Memory<'_> {
    /// Over no values, at tick 0; counts are thrown away.
    pub const EMPTY: Self = Self {
        slices: Slices::EMPTY,
        geometry: Geometry {
            secret: 0,
            fixed_now_ns: 0,
            vip_v4_mask: 0,
            vip_v6_mask: 0,
            port_mask: 0,
            flows_v4_mask: 0,
            flows_v6_mask: 0,
            fragments_mask: 0,
            servers_mask: 0,
            nat_mask: 0,
        },
        now: Tick::from_bits(0),
        scratch: None,
        on_count: &|_, _| {},
        on_forwarded: &|_, _, _| {},
        on_handshake: &|_, _| {},
        on_refused: &|_, _| {},
        on_charged: &|_, _| {},
        limited: &[],
    };

    /// Runs one frame through the tables: [`crate::pipeline::process`], compiled with this crate.
    pub fn process(&self, frame: &mut Frame<'_>) -> Outcome {
        crate::pipeline::process(frame, self)
    }
}

macro_rules! look_up {
    ($($name:ident: $value:ty = $field:ident;)*) => {
        $(fn $name(&self, index: u32) -> Option<&$value> {
            self.slices.$field.get(index as usize)
        })*
    };
}

macro_rules! geometry {
    ($($field:ident: $number:ty;)*) => {
        $(fn $field(&self) -> $number {
            self.geometry.$field
        })*
    };
}

impl Tables for Memory<'_> {
    geometry! {
        secret: u64;
        vip_v4_mask: u32;
        vip_v6_mask: u32;
        port_mask: u32;
        flows_v4_mask: u32;
        flows_v6_mask: u32;
        fragments_mask: u32;
        servers_mask: u32;
        nat_mask: u32;
    }

    fn now(&self) -> Tick {
        self.now
    }

    fn now_ns(&self) -> u64 {
        u64::from(self.now.bits()) * TICK_NS
    }

    fn scratch(&self) -> Option<&Scratch> {
        self.scratch
    }

    look_up! {
        vip_line_v4: IndexLine = vips_v4;
        vip_line_v6: VipLineV6 = vips_v6;
        port_line: IndexLine = ports;
        range_line: RangeLine = ranges;
        vip: Vip = vips;
        service: Service = services;
        pool: Pool = pools;
        maglev_line: MaglevLine = maglev;
        backend: Backend = backends;
        load: Load = loads;
        server_line: IndexLine = servers;
        server_ids: ServerIds = server_ids;
        next_hop: NextHop = next_hops;
        flows_v4: Bucket<1> = flows_v4;
        flows_v6: Bucket<3> = flows_v6;
        overflow_v4: OverflowLine = overflow_v4;
        overflow_v6: OverflowLine = overflow_v6;
        fragments: FragmentLine = fragments;
        filter_line: FilterLine = filters;
        limit: Limit = limits;
        source_line: SourceLine = sources;
        nat_address: NatAddress = nat_addresses;
        nat_port: NatPort = nat_ports;
        nat_line: NatLine = nat_lines;
    }

    fn limited(&self, slot: u32) -> Option<&Limited> {
        self.limited.get(slot as usize)
    }

    fn count_charged(&self, service: u32, what: Charged) {
        (self.on_charged)(service, what);
    }

    fn count_refused(&self, vip: u32, list: Listed) {
        (self.on_refused)(vip, list);
    }

    fn count(&self, reason: Reason, bytes: u64) {
        (self.on_count)(reason, bytes);
    }

    fn count_forwarded(&self, service: u32, backend: u32, bytes: u64) {
        (self.on_forwarded)(service, backend, bytes);
    }

    fn count_handshake(&self, backend: u32, step: HandshakeStep) {
        (self.on_handshake)(backend, step);
    }
}
