//! From a packet for a VIP to the backend that gets it.

use super::buckets;
use super::choose;
use super::filter::{self, Look};
use super::ip::Ip;
use super::limits;
use super::martian;
use super::parse::Parsed;
use super::quic;
use crate::flow::{self, Class, Code, Continuation, FlowKey, Meta, NewFlows, continuation};
use crate::forward::Inner;
use crate::layout::{
    Backend, BackendState, ForwardWord, HandshakeStep, HotWord, Load, OnDown, Pool, Scheduler, Service,
    TimeoutsWord, Way,
};
use crate::reason::Reason;
use crate::select::{self, Request, Selected};
use crate::service;
use crate::tables::Tables;
use crate::time::Tick;
use crate::trace::Mark;
use crate::wire::{Protocol, Segment};

/// A packet that has its backend.
pub(super) struct Steered<'a> {
    pub(super) service: u32,
    /// Backend id.
    pub(super) id: u32,
    pub(super) backend: &'a Backend,
    /// The service's rules.
    pub(super) forward: ForwardWord,
    pub(super) inner: Inner,
    pub(super) reason: Reason,
}

/// What a stage does with a new flow whose backend the hash alone does not tell.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// Lets the table decide.
    Table,
    /// Asks [`choose`] to choose.
    Asked,
    /// Takes what was chosen, or asks.
    Made,
}

/// The rules of the packet's service.
struct Rules {
    forward: ForwardWord,
    timeouts: TimeoutsWord,
}

impl Rules {
    /// The service's pool; not for packets of known flows, which need none of it.
    #[inline(always)]
    fn pool<'a, T: Tables>(&self, tables: &'a T) -> Result<&'a Pool, Reason> {
        tables.pool(self.forward.pool()).ok_or(Reason::Inconsistent)
    }
}

/// The service that claims a packet; with [`Look::Whole`] once the VIP's lists let the packet in.
#[inline(always)]
fn service_for<'a, const W: usize, I: Ip<W>, T: Tables>(
    tables: &'a T,
    packet: &Parsed<I::Address>,
    look: Look,
) -> Result<(u32, &'a Service, ForwardWord), Reason> {
    let (vip, protocol, port) = (packet.vip, packet.protocol, packet.ports.1);
    let id = match look {
        Look::Front => service::service_before_lists(tables, vip, protocol, port)?,
        Look::Whole => {
            filter::check::<W, I, T>(tables, vip, packet.source, look)?;
            service::service(tables, vip, protocol, port)?
        }
    };
    let record = tables.service(id).ok_or(Reason::Inconsistent)?;
    let forward = ForwardWord(record.forward.get());
    tables.trace(Mark::Service, id, forward.0);
    Ok((id, record, forward))
}

/// What only services that are not [plain](ForwardWord::is_plain) ask of a packet. The id of the backend that its QUIC
/// connection ID names, else 0.
#[inline(always)]
fn asked<const W: usize, I: Ip<W>, T: Tables>(
    tables: &T,
    packet: &Parsed<I::Address>,
    (service, forward): (u32, ForwardWord),
    key: &FlowKey<W>,
    (look, choice): (Look, Choice),
) -> Result<u32, Reason> {
    if matches!(look, Look::Front) && forward.has_lists() {
        filter::check::<W, I, T>(tables, packet.vip, packet.source, look)?;
    }
    balanced(forward)?;
    if !forward.quic() || !matches!(packet.protocol, Protocol::Udp) {
        return Ok(0);
    }
    match choice {
        Choice::Table => Ok(0),
        Choice::Asked => Err(quic::ask(tables, service, packet.transport, key.hash)),
        Choice::Made => quic::named(tables, service, packet.transport, key.hash),
    }
}

#[inline(always)]
pub(super) fn steer<'a, const W: usize, I: Ip<W>, T: Tables>(
    tables: &'a T,
    packet: &Parsed<I::Address>,
    (look, choice): (Look, Choice),
) -> Result<Steered<'a>, Reason> {
    let (id, record, forward) = service_for::<W, I, T>(tables, packet, look)?;
    let rules = Rules { forward, timeouts: TimeoutsWord(record.timeouts.get()) };
    let key = I::key(tables.secret(), packet.source, packet.ports, packet.vip, packet.protocol);
    let now = tables.now();
    let named = if forward.is_plain() {
        0
    } else {
        asked::<W, I, T>(tables, packet, (id, forward), &key, (look, choice))?
    };
    let (selected, reason) = if named != 0 {
        (routed::<W, I, T>(tables, packet, id, &rules, &key, named, now)?, Reason::QuicRouted)
    } else if forward.track() {
        tracked::<W, I, T>(tables, packet, id, &rules, &key, choice, now)?
    } else {
        claimed_source::<W, I>(packet, choice)?;
        let pool = rules.pool(tables)?;
        let hash = flow_hash::<W, I>(packet, forward, pool);
        (select::select(tables, pool, Request::New, hash, 0, now)?, Reason::Untracked)
    };
    tables.trace(Mark::Selected, selected.id, selected.hot.0);
    Ok(Steered {
        service: id,
        id: selected.id,
        backend: selected.backend,
        forward,
        inner: Inner {
            family: I::FAMILY,
            traffic_class: packet.traffic_class,
            length: packet.length,
            hash: key.hash,
        },
        reason,
    })
}

/// Finds the backend for a packet that is about a flow and not of it: the flow's own, else that of a packet in mid-flow.
/// Nothing is entered, refreshed or started anew.
#[inline(always)]
pub(super) fn look_up<'a, const W: usize, I: Ip<W>, T: Tables>(
    tables: &'a T,
    packet: &Parsed<I::Address>,
) -> Result<Steered<'a>, Reason> {
    let (id, record, forward) = service_for::<W, I, T>(tables, packet, Look::Whole)?;
    balanced(forward)?;
    let rules = Rules { forward, timeouts: TimeoutsWord(record.timeouts.get()) };
    let key = I::key(tables.secret(), packet.source, packet.ports, packet.vip, packet.protocol);
    let bound = if forward.track() { bound::<W, I, T>(tables, &key, forward.on_down())? } else { None };
    let (selected, reason) = match bound {
        Some(selected) => (selected, Reason::FlowKnown),
        None => {
            let request = match packet.segment {
                Segment::Data if forward.track() => Request::Resume,
                _ => Request::New,
            };
            let pool = rules.pool(tables)?;
            let hash = flow_hash::<W, I>(packet, forward, pool);
            (select::select(tables, pool, request, hash, 0, tables.now())?, Reason::Untracked)
        }
    };
    tables.trace(Mark::Selected, selected.id, selected.hot.0);
    Ok(Steered {
        service: id,
        id: selected.id,
        backend: selected.backend,
        forward,
        inner: Inner {
            family: I::FAMILY,
            traffic_class: packet.traffic_class,
            length: packet.length,
            hash: key.hash,
        },
        reason,
    })
}

/// The backend that a flow is bound to, where that serves it.
#[inline(always)]
fn bound<'a, const W: usize, I: Ip<W>, T: Tables>(
    tables: &'a T,
    key: &FlowKey<W>,
    on_down: OnDown,
) -> Result<Option<Selected<'a>>, Reason> {
    let (first, second) = key.buckets(I::flows_mask(tables));
    let found = match flow::find(I::bucket(tables, first).ok_or(Reason::Inconsistent)?, key) {
        None if buckets::overflow::<W, I, T>(tables, first)?.any() => {
            flow::find(I::bucket(tables, second).ok_or(Reason::Inconsistent)?, key)
        }
        found => found,
    };
    let Some(found) = found else { return Ok(None) };
    let id = found.binding.backend();
    let backend = tables.backend(id).ok_or(Reason::Inconsistent)?;
    let hot = HotWord(backend.hot.get());
    let serves = hot.generation() == found.meta.generation() && select::serves_known(hot, on_down);
    Ok(if serves { Some(Selected { id, backend, hot }) } else { None })
}

/// Whether the service's packets leave as they came, with or without something around them.
#[inline(always)]
fn balanced(forward: ForwardWord) -> Result<(), Reason> {
    if forward.translates() { Err(Reason::Translate) } else { Ok(()) }
}

/// The selection hash: of the whole flow, or of the client's address alone.
#[inline(always)]
pub(super) fn flow_hash<const W: usize, I: Ip<W>>(
    packet: &Parsed<I::Address>,
    forward: ForwardWord,
    pool: &Pool,
) -> u64 {
    let ends = (packet.ports.0 as u64) << 48 | (packet.ports.1 as u64) << 32 | (packet.protocol as u64) << 16;
    I::flow_hash(pool.seed.get(), packet.source, packet.destination, ends, forward.hashed())
}

/// Refuses a source that nobody can have.
#[inline(always)]
fn claimed_source<const W: usize, I: Ip<W>>(
    packet: &Parsed<I::Address>,
    choice: Choice,
) -> Result<(), Reason> {
    match choice {
        Choice::Asked => martian::suspect::<W, I>(packet),
        Choice::Table | Choice::Made => martian::check::<W, I>(packet),
    }
}

#[inline(always)]
fn tracked<'a, const W: usize, I: Ip<W>, T: Tables>(
    tables: &'a T,
    packet: &Parsed<I::Address>,
    service: u32,
    rules: &Rules,
    key: &FlowKey<W>,
    choice: Choice,
    now: Tick,
) -> Result<(Selected<'a>, Reason), Reason> {
    let (number, second) = key.buckets(I::flows_mask(tables));
    tables.trace(Mark::Bucket, number, 0);
    let first = I::bucket(tables, number).ok_or(Reason::Inconsistent)?;
    let mut found = flow::find(first, key);
    let mut missed = None;
    if found.is_none() {
        let overflow = buckets::overflow::<W, I, T>(tables, number)?;
        found = buckets::find_second::<W, I, T>(tables, key, second, overflow, now)?;
        if found.is_none() {
            tables.trace(Mark::Missed, 0, 0);
            claimed_source::<W, I>(packet, choice)?;
            missed = Some(overflow);
        }
    }
    let mut place = None;
    let mut bound = 0;
    let (request, reason) = match &found {
        Some(found) => match known::<W, I, T>(tables, packet, rules, found, now)? {
            Known::Kept(selected) => return Ok((selected, Reason::FlowKnown)),
            Known::Over(reason, down) => {
                place = Some(found.way);
                bound = down;
                (Request::New, reason)
            }
        },
        None => match packet.segment {
            Segment::Open | Segment::Datagram => (Request::New, Reason::FlowNew),
            Segment::Data | Segment::Close | Segment::Abort => (Request::Resume, Reason::FlowResumed),
        },
    };
    let limited = matches!(reason, Reason::FlowNew) && rules.forward.has_limit();
    if limited && matches!(choice, Choice::Asked) {
        return Err(Reason::SourceLimited);
    }
    let pool = rules.pool(tables)?;
    let hash = flow_hash::<W, I>(packet, rules.forward, pool);
    let chosen = match (rules.forward.scheduler(), request, choice) {
        (Scheduler::LeastConnections, Request::New, Choice::Asked) => {
            return Err(choose::ask(tables, rules.forward.pool(), hash));
        }
        (Scheduler::LeastConnections, Request::New, Choice::Made) => {
            choose::chosen(tables, rules.forward.pool(), hash)?
        }
        _ => None,
    };
    if limited {
        limits::admitted::<W, I, T>(tables, packet, service, key.hash)?;
    }
    let selected = match chosen {
        Some(chosen) => select::look(tables, chosen).ok_or(Reason::Inconsistent)?,
        None => select::select(tables, pool, request, hash, bound, now)?,
    };
    if selected.id == bound {
        // The last resort left the flow where it was: its entry stays as it is, a proven one proven.
        return Ok((selected, Reason::FlowKnown));
    }
    // Only now: the ways wait for the bucket's line, and what is done before them need not (new flow 261 → 246 ns, AMD EPYC).
    if let Some(overflow) = missed {
        place = buckets::place::<W, I, T>(tables, key, (first, second), overflow, now)?;
    }
    tables.trace(Mark::Entered, place.is_some() as u32, 0);
    match place {
        Some(way) => {
            if T::WRITES {
                open(tables, way, packet.segment, key, &selected, rules, now);
                if packet.segment == Segment::Open {
                    tables.count_handshake(selected.id, HandshakeStep::Opened);
                }
            }
            Ok((selected, reason))
        }
        None => Ok((selected, Reason::FlowTableFull)),
    }
}

/// The backend that a datagram's connection ID names; the flow's entry follows it there.
#[inline(always)]
fn routed<'a, const W: usize, I: Ip<W>, T: Tables>(
    tables: &'a T,
    packet: &Parsed<I::Address>,
    service: u32,
    rules: &Rules,
    key: &FlowKey<W>,
    id: u32,
    now: Tick,
) -> Result<Selected<'a>, Reason> {
    let selected = select::look(tables, id).ok_or(Reason::Inconsistent)?;
    if !rules.forward.track() {
        martian::check::<W, I>(packet)?;
        return Ok(selected);
    }
    let (number, second) = key.buckets(I::flows_mask(tables));
    tables.trace(Mark::Bucket, number, 0);
    let first = I::bucket(tables, number).ok_or(Reason::Inconsistent)?;
    let overflow = buckets::overflow::<W, I, T>(tables, number)?;
    let found = match flow::find(first, key) {
        None => buckets::find_second::<W, I, T>(tables, key, second, overflow, now)?,
        found => found,
    };
    let way = match found {
        Some(found) => {
            tables.trace(Mark::Found, found.binding.backend(), found.meta.0 as u64);
            let own = found.binding.backend() == id && found.meta.generation() == selected.hot.generation();
            let next = continuation(found.meta, Segment::Datagram, rules.timeouts, NewFlows::Taken, now);
            if let (true, Continuation::Keep(meta)) = (own, next) {
                if T::WRITES && meta != found.meta {
                    found.way.meta.set(meta.0);
                }
                return Ok(selected);
            }
            Some(found.way)
        }
        None => {
            martian::check::<W, I>(packet)?;
            if rules.forward.has_limit() {
                limits::admitted::<W, I, T>(tables, packet, service, key.hash)?;
            }
            buckets::place::<W, I, T>(tables, key, (first, second), overflow, now)?
        }
    };
    tables.trace(Mark::Entered, way.is_some() as u32, 0);
    if T::WRITES
        && let Some(way) = way
    {
        open(tables, way, Segment::Datagram, key, &selected, rules, now);
    }
    Ok(selected)
}

/// What became of a packet that found its flow's entry.
enum Known<'a> {
    /// It goes on with the entry's backend.
    Kept(Selected<'a>),
    /// A backend is selected anew, for this reason; the entry's place can be taken. The id of the flow's backend where
    /// that is down, else 0.
    Over(Reason, u32),
}

/// Whether a packet of a flow whose backend no longer serves it is answered with a reset, which ends the flow.
#[inline(always)]
pub(super) fn resets<A>(forward: ForwardWord, hot: HotWord, packet: &Parsed<A>) -> bool {
    let ends = match hot.state() {
        BackendState::Down => matches!(forward.on_down(), OnDown::Reset),
        BackendState::Resetting => true,
        _ => false,
    };
    ends && matches!(packet.protocol, Protocol::Tcp) && !matches!(packet.segment, Segment::Open)
}

#[inline(always)]
fn known<'a, const W: usize, I: Ip<W>, T: Tables>(
    tables: &'a T,
    packet: &Parsed<I::Address>,
    rules: &Rules,
    found: &flow::Found<'_, W>,
    now: Tick,
) -> Result<Known<'a>, Reason> {
    let id = found.binding.backend();
    tables.trace(Mark::Found, id, found.meta.0 as u64);
    let backend = tables.backend(id).ok_or(Reason::Inconsistent)?;
    let hot = HotWord(backend.hot.get());
    if hot.is_active(found.meta.generation()) && flow::stays(found.meta, packet.segment, rules.timeouts, now)
    {
        return Ok(Known::Kept(Selected { id, backend, hot }));
    }
    if hot.generation() != found.meta.generation() {
        tables.trace(Mark::Over, id, hot.0);
        return Ok(Known::Over(Reason::FlowRehomed, 0));
    }
    if !select::serves_known(hot, rules.forward.on_down()) {
        tables.trace(Mark::Over, id, hot.0);
        if resets(rules.forward, hot, packet) {
            let class = Code::of(Class::Ended);
            let deadline = now.plus(class.ticks(rules.timeouts, packet.segment));
            if T::WRITES {
                found.way.meta.set(Meta::of(deadline, class, found.meta.generation()).0);
            }
            return Err(Reason::FlowReset);
        }
        let down = if select::may_be_kept(hot) { id } else { 0 };
        return Ok(Known::Over(Reason::FlowRehomed, down));
    }
    let embryonic = found.meta.code() == Code::of(Class::Embryonic);
    let new_flows = match packet.segment {
        Segment::Open
            if !select::takes_new(hot, flow_hash::<W, I>(packet, rules.forward, rules.pool(tables)?)) =>
        {
            NewFlows::Refused
        }
        _ => NewFlows::Taken,
    };
    match continuation(found.meta, packet.segment, rules.timeouts, new_flows, now) {
        Continuation::Keep(meta) => {
            if T::WRITES && embryonic && packet.segment == Segment::Open {
                tables.count_handshake(id, HandshakeStep::Repeated);
            }
            if T::WRITES && meta != found.meta {
                found.way.meta.set(meta.0);
                // Leaving that class always changes the meta: packets that do not are spared the question.
                if embryonic && packet.segment == Segment::Data {
                    tables.count_handshake(id, HandshakeStep::Completed);
                }
                let ends = found.meta.code().is_in(Class::GOING_ON) && !meta.code().is_in(Class::GOING_ON);
                if ends && let Some(load) = load(tables, rules, id) {
                    load.ended();
                }
            }
            Ok(Known::Kept(Selected { id, backend, hot }))
        }
        Continuation::Anew => {
            tables.trace(Mark::Over, id, hot.0);
            Ok(Known::Over(Reason::FlowNew, 0))
        }
    }
}

/// The load of a service's backend, where the service asks for it.
#[inline(always)]
fn load<'a, T: Tables>(tables: &'a T, rules: &Rules, backend: u32) -> Option<&'a Load> {
    match rules.forward.scheduler() {
        Scheduler::LeastConnections => tables.load(backend),
        Scheduler::Maglev | Scheduler::Source => None,
    }
}

/// Makes `way` the entry of a flow that starts with this segment.
#[inline(always)]
fn open<const W: usize, T: Tables>(
    tables: &T,
    way: &Way<W>,
    segment: Segment,
    key: &FlowKey<W>,
    selected: &Selected<'_>,
    rules: &Rules,
    now: Tick,
) {
    let class = Code::opening(segment);
    if class == Code::of(Class::Empty) {
        return;
    }
    let deadline = now.plus(class.ticks(rules.timeouts, segment));
    flow::write(way, key, selected.id, Meta::of(deadline, class, selected.hot.generation()));
    if class.is_in(Class::GOING_ON)
        && let Some(load) = load(tables, rules, selected.id)
    {
        load.began();
    }
}
