//! From a client's packet to the port that its flow has, or gets.

use super::translate::Side;
use crate::flow::{Class, Code, Continuation, FlowKey, Meta, NewFlows, continuation};
use crate::layout::{
    EgressWord, Family, ForwardWord, HandshakeStep, HotWord, NatPort, NatRange, Scratch, Service, SnatWord,
    TimeoutsWord,
};
use crate::nat::{self, Flow, Held, Owner};
use crate::pipeline::parse::Parsed;
use crate::pipeline::steer::{self, flow_hash};
use crate::pipeline::{limits, martian};
use crate::reason::Reason;
use crate::select::{self, Request};
use crate::tables::Tables;
use crate::time::Tick;
use crate::trace::Mark;
use crate::wire::{Protocol, Segment};

/// The rules of the packet's service.
pub(super) struct Rules<'a> {
    pub(super) service: u32,
    pub(super) record: &'a Service,
    pub(super) forward: ForwardWord,
    pub(super) timeouts: TimeoutsWord,
    pub(super) scratch: &'a Scratch,
}

/// A packet whose flow has a port.
pub(super) struct Bound<'a> {
    pub(super) record: &'a NatPort,
    /// Id of the `snat` address.
    pub(super) snat: u32,
    pub(super) port: u16,
    /// Backend id.
    pub(super) id: u32,
    pub(super) backend_port: u16,
    pub(super) reason: Reason,
}

/// What became of a packet that found its flow's record.
enum Known<'a> {
    Kept(Bound<'a>),
    /// A flow starts anew, for this reason.
    Over(Reason),
}

/// Finds the packet's flow, or begins one.
#[cfg_attr(target_arch = "bpf", inline(always))]
#[cfg_attr(not(target_arch = "bpf"), inline(never))]
pub(super) fn bind<'a, const W: usize, I: Side<W>, T: Tables>(
    tables: &'a T,
    packet: &Parsed<I::Address>,
    rules: &Rules<'_>,
) -> Result<Bound<'a>, Reason> {
    let key = I::key(tables.secret(), packet.source, packet.ports, packet.vip, packet.protocol);
    let flow = flow::<W, I>(packet);
    let now = tables.now();
    let mut reason = Reason::FlowNew;
    if let Some((number, record, held)) = nat::find(tables, &flow, key.hash) {
        match known::<W, I, T>(tables, packet, rules, (number, record, &held), now)? {
            Known::Kept(bound) => return Ok(bound),
            Known::Over(why) => {
                // The old flow's answers still find it; its client's packets find the new one.
                if T::WRITES {
                    nat::forget(tables, number, record);
                }
                reason = why;
            }
        }
    }
    if !matches!(packet.segment, Segment::Open | Segment::Datagram) {
        return Err(Reason::NatNoFlow);
    }
    martian::check::<W, I>(packet)?;
    let known = rules.scratch.launder(reason as u64);
    let reason = Reason::from_number(known as u8).ok_or(Reason::Inconsistent)?;
    if matches!(reason, Reason::FlowNew) && rules.forward.has_limit() {
        limits::admitted::<W, I, T>(tables, packet, rules.service, key.hash)?;
    }
    open::<W, I, T>(tables, packet, rules, (&flow, &key), reason, now)
}

#[inline(always)]
pub(super) fn flow<const W: usize, I: Side<W>>(packet: &Parsed<I::Address>) -> Flow {
    Flow { client: I::halves(packet.source), ports: packet.ports, vip: packet.vip, protocol: packet.protocol }
}

#[inline(always)]
fn known<'a, const W: usize, I: Side<W>, T: Tables>(
    tables: &'a T,
    packet: &Parsed<I::Address>,
    rules: &Rules<'_>,
    (number, record, held): (u32, &'a NatPort, &Held),
    now: Tick,
) -> Result<Known<'a>, Reason> {
    let (id, meta) = (held.backend(), held.meta());
    tables.trace(Mark::Found, id, meta.0 as u64);
    let backend = tables.backend(id).ok_or(Reason::Inconsistent)?;
    let pool = tables.pool(rules.forward.pool()).ok_or(Reason::Inconsistent)?;
    let hot = HotWord(backend.hot.get());
    if hot.generation() != meta.generation() {
        tables.trace(Mark::Over, id, hot.0);
        return Ok(Known::Over(Reason::FlowRehomed));
    }
    if !select::serves_known(hot, rules.forward.on_down()) {
        if steer::resets(rules.forward, hot, packet) {
            tables.trace(Mark::Over, id, hot.0);
            let class = Code::of(Class::Ended);
            let deadline = now.plus(class.ticks(rules.timeouts, packet.segment));
            if T::WRITES {
                nat::refresh(record, held, Meta::of(deadline, class, meta.generation()).answered_as(meta));
            }
            return Err(Reason::FlowReset);
        }
        // Where there is nobody else a flow stays, with its port: a new record would be another connection.
        if !select::may_be_kept(hot) || !select::keeps_all(pool) {
            tables.trace(Mark::Over, id, hot.0);
            return Ok(Known::Over(Reason::FlowRehomed));
        }
    }
    let embryonic = meta.code() == Code::of(Class::Embryonic);
    let opens = packet.segment == Segment::Open;
    let new_flows = if opens && !select::takes_new(hot, flow_hash::<W, I>(packet, rules.forward, pool)) {
        NewFlows::Refused
    } else {
        NewFlows::Taken
    };
    match continuation(meta, packet.segment, rules.timeouts, new_flows, now) {
        Continuation::Keep(next) => {
            let next = next.answered_as(meta);
            if T::WRITES && opens && meta.awaits_answer() {
                tables.count_handshake(id, HandshakeStep::Repeated);
            }
            if T::WRITES && next != meta {
                nat::refresh(record, held, next);
                if embryonic && packet.segment == Segment::Data {
                    tables.count_handshake(id, HandshakeStep::Completed);
                }
            }
            let address = tables.nat_address(held.owner.snat as u32).ok_or(Reason::Inconsistent)?;
            let port = NatRange(address.range.get()).port_of(number);
            tables.trace(Mark::Selected, id, hot.0);
            tables.trace(Mark::NatPort, port as u32, held.owner.snat as u64 | (number as u64) << 32);
            Ok(Known::Kept(Bound {
                record,
                snat: held.owner.snat as u32,
                port,
                id,
                backend_port: held.owner.backend_port,
                reason: Reason::FlowKnown,
            }))
        }
        Continuation::Anew => {
            tables.trace(Mark::Over, id, hot.0);
            Ok(Known::Over(Reason::FlowNew))
        }
    }
}

/// Selects a backend for a flow that begins, and gives it a port.
#[inline(always)]
fn open<'a, const W: usize, I: Side<W>, T: Tables>(
    tables: &'a T,
    packet: &Parsed<I::Address>,
    rules: &Rules<'_>,
    (flow, key): (&Flow, &FlowKey<W>),
    reason: Reason,
    now: Tick,
) -> Result<Bound<'a>, Reason> {
    let pool = tables.pool(rules.forward.pool()).ok_or(Reason::Inconsistent)?;
    let hash = flow_hash::<W, I>(packet, rules.forward, pool);
    let selected = select::select(tables, pool, Request::New, hash, 0, now)?;
    let id = rules.scratch.launder(selected.id as u64) as u16 as u32;
    let backend = tables.backend(id).ok_or(Reason::Inconsistent)?;
    let hot = HotWord(backend.hot.get());
    tables.trace(Mark::Selected, id, hot.0);
    let egress = EgressWord(backend.egress.get());
    let sources = SnatWord(match egress.family() {
        Family::V4 => rules.record.snat_v4.get(),
        Family::V6 => rules.record.snat_v6.get(),
    });
    let (snat, taken) = source(tables, sources, key.hash, packet.protocol, rules.timeouts, now)?;
    let backend_port = if egress.port() == 0 { packet.ports.1 } else { egress.port() };
    tables.trace(Mark::NatPort, taken.port as u32, snat as u64 | (taken.number as u64) << 32);
    if T::WRITES {
        let owner = Owner {
            vip: I::halves(packet.destination),
            service: rules.service as u16,
            snat: snat as u16,
            backend_port,
            v6: matches!(I::FAMILY, Family::V6),
        };
        let class = Code::opening(packet.segment);
        let deadline = now.plus(class.ticks(rules.timeouts, packet.segment));
        nat::bind(taken.record, flow, &owner, id, Meta::of(deadline, class, hot.generation()));
        if !nat::insert(tables, key.hash, taken.number, taken.record) {
            give_back(taken.record, hot, now);
            return Err(Reason::NatExhausted);
        }
        if packet.segment == Segment::Open {
            tables.count_handshake(id, HandshakeStep::Opened);
        }
    }
    Ok(Bound { record: taken.record, snat, port: taken.port, id, backend_port, reason })
}

/// Takes a port of one of a service's addresses: the first with a free one, from a place on that the flow's hash gives.
#[inline(always)]
fn source<'a, T: Tables>(
    tables: &'a T,
    sources: SnatWord,
    hash: u64,
    protocol: Protocol,
    timeouts: TimeoutsWord,
    now: Tick,
) -> Result<(u32, nat::Taken<'a>), Reason> {
    let mut id = sources.id(0);
    for step in 0..SnatWord::MOST as u32 {
        // Of the four places the last may be empty: id 0 has no ports.
        let candidate = sources.id((hash >> 20) as u32 + step);
        if tables.nat_address(candidate).is_some_and(|address| nat::has_free(address, protocol)) {
            id = candidate;
            break;
        }
    }
    let address = tables.nat_address(id).ok_or(Reason::NatExhausted)?;
    let taken =
        nat::take(tables, address, protocol, timeouts.embryonic(), now).ok_or(Reason::NatExhausted)?;
    Ok((id, taken))
}

/// Makes a port that was taken one whose flow is over.
#[inline(always)]
fn give_back(record: &NatPort, hot: HotWord, now: Tick) {
    if let Some(held) = nat::read(record) {
        // A deadline in the past.
        let over = Tick::from_bits(now.bits().wrapping_sub(1));
        nat::refresh(record, &held, Meta::new(over, Class::Ended, hot.generation()));
    }
}
