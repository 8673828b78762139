//! Free ports: taking the one that has been free for longest, and finding those whose flows are over.

use super::index;
use crate::flow::{Class, Code, Meta};
use crate::layout::{NatAddress, NatPort, NatQueue, NatRange};
use crate::tables::Tables;
use crate::time::Tick;
use crate::wire::Protocol;

/// Ports that are looked at for each one that is taken.
const LOOKS: u32 = 4;
/// Ports that are looked at where none is free.
const SEARCH: u32 = 24;
/// How often a word is tried that other CPUs change at the same moment.
const TRIES: u32 = 3;
/// Ticks after which a flow of which only a SYN was seen gives its port up, where none is free.
const EMBRYONIC_TICKS: u32 = 2;

/// A port that was taken.
pub struct Taken<'a> {
    /// Number of the record.
    pub number: u32,
    /// Its record.
    pub record: &'a NatPort,
    /// The port, host order.
    pub port: u16,
}

/// Bits of a ticket that its place keeps.
const TICKETS: u64 = (1 << 48) - 1;

/// How much a port is needed.
#[derive(Clone, Copy)]
enum Need {
    Usual,
    /// None is free. For how many ticks a flow is kept of which only a SYN was seen.
    Urgent(u32),
}

/// The ports of one address and protocol.
struct Supply<'a, T> {
    tables: &'a T,
    queue: &'a NatQueue,
    base: u32,
    range: NatRange,
}

/// Takes a free port of an address; `None` where there is none. `embryonic` is for how many ticks a flow is kept of which
/// only a SYN was seen.
///
/// What only explains takes nothing: it says which port would be taken.
#[inline(always)]
pub fn take<'a, T: Tables>(
    tables: &'a T,
    address: &'a NatAddress,
    protocol: Protocol,
    embryonic: u32,
    now: Tick,
) -> Option<Taken<'a>> {
    let range = NatRange(address.range.get());
    let base = if range.0 == 0 { None } else { range.base(protocol) }?;
    let queue = &address.queues[(protocol as usize - 1) & 1];
    let supply = Supply { tables, queue, base, range };
    let offset = if T::WRITES {
        supply.look(LOOKS, Need::Usual, now);
        match supply.pop() {
            None => {
                supply.look(SEARCH, Need::Urgent(embryonic), now);
                supply.pop()
            }
            found => found,
        }
    } else {
        supply.peek()
    }?;
    let number = base.wrapping_add(offset);
    Some(Taken { number, record: tables.nat_port(number)?, port: range.first().wrapping_add(offset as u16) })
}

/// Makes all ports of a new address free, in order. Not while packets may take some.
pub fn prepare(address: &NatAddress, records: &[NatPort]) {
    let range = NatRange(address.range.get());
    let size = u64::from(range.size());
    for (protocol, queue) in [Protocol::Tcp, Protocol::Udp].into_iter().zip(&address.queues) {
        let base = range.base(protocol).unwrap_or(0) as usize;
        for (ticket, record) in (0..size).zip(records.iter().skip(base)) {
            record.state.set(0);
            record.place.set(ticket << 16 | ticket);
        }
        queue.head.set(0);
        queue.tail.set(size);
        queue.hand.set(0);
    }
}

/// Looks at all ports of an address and protocol, and queues those whose flows are over.
pub fn give_back<T: Tables>(tables: &T, address: &NatAddress, protocol: Protocol, now: Tick) {
    let range = NatRange(address.range.get());
    let Some(base) = range.base(protocol).filter(|_| range.0 != 0) else { return };
    let queue = &address.queues[(protocol as usize - 1) & 1];
    let supply = Supply { tables, queue, base, range };
    (0..range.size()).for_each(|offset| supply.look_at(offset, Need::Usual, now));
}

/// Whether a port of an address can be taken at once.
#[inline(always)]
#[must_use]
pub fn has_free(address: &NatAddress, protocol: Protocol) -> bool {
    let queue = &address.queues[(protocol as usize - 1) & 1];
    queue.head.get() < queue.tail.get()
}

/// Ports in a queue.
#[must_use]
pub fn free(queue: &NatQueue) -> u64 {
    queue.tail.get().saturating_sub(queue.head.get())
}

impl<'a, T: Tables> Supply<'a, T> {
    #[inline(always)]
    fn place(&self, ticket: u64) -> Option<&'a NatPort> {
        self.tables.nat_port(self.base.wrapping_add((ticket % self.range.size() as u64) as u32))
    }

    /// The port at the head, less the first one, which stays there.
    #[inline(always)]
    fn peek(&self) -> Option<u32> {
        let head = self.queue.head.get();
        let place = self.place(head)?.place.get();
        if place >> 16 == head & TICKETS { Some(place as u16 as u32) } else { None }
    }

    /// Takes the port at the head, less the first one.
    #[inline(always)]
    fn pop(&self) -> Option<u32> {
        for _ in 0..self.range.size().min(TRIES) {
            let head = self.queue.head.get();
            let place = self.place(head)?.place.get();
            // Of another ticket: the queue is empty, or a CPU has just got this ticket and writes its port in a moment.
            if place >> 16 != head & TICKETS {
                return None;
            }
            // Whoever moves the head has the ticket, and its place was not written since: that takes a ticket as many
            // as there are ports later, which is not given before this one is taken.
            if self.queue.head.exchange(head, head + 1) {
                return Some(place as u16 as u32);
            }
        }
        None
    }

    /// Puts a port at the tail that nobody else has; whether it could.
    #[inline(always)]
    fn push(&self, offset: u32) -> bool {
        for _ in 0..self.range.size().min(TRIES) {
            let tail = self.queue.tail.get();
            let Some(record) = self.place(tail) else { return false };
            if self.queue.tail.exchange(tail, tail + 1) {
                record.place.set(tail << 16 | offset as u64);
                return true;
            }
        }
        false
    }

    /// Looks at up to so many ports in turn, and gives the first back whose flow is over.
    ///
    /// One, and after the loop: the verifier follows what is done in a loop anew for each step.
    #[inline(always)]
    fn look(&self, count: u32, need: Need, now: Tick) {
        let size = self.range.size();
        let mut offset = self.queue.hand.get() as u32;
        let mut found = false;
        for _ in 0..size.min(count) {
            offset = if offset + 1 >= size { 0 } else { offset + 1 };
            let Some(record) = self.tables.nat_port(self.base.wrapping_add(offset)) else { return };
            if over(Meta(record.state.get() as u32), need, now) {
                found = true;
                break;
            }
        }
        // CPUs that do this at once look at the same ports twice, which harms nothing.
        self.queue.hand.set(offset as u64);
        if found {
            self.look_at(offset, need, now);
        }
    }

    /// Gives a port back whose flow is over.
    #[inline(always)]
    fn look_at(&self, offset: u32, need: Need, now: Tick) {
        let number = self.base.wrapping_add(offset);
        let Some(record) = self.tables.nat_port(number) else { return };
        let state = record.state.get();
        // One CPU at most gets past the exchange.
        if !over(Meta(state as u32), need, now) || !record.state.exchange(state, state & !0xffff_ffff) {
            return;
        }
        index::forget(self.tables, number, record);
        if !self.push(offset) {
            // As it was: the next one who comes by tries again.
            record.state.set(state);
        }
    }
}

/// Whether a flow's port may be given back.
#[inline(always)]
fn over(meta: Meta, need: Need, now: Tick) -> bool {
    if meta.code() == Code::of(Class::Empty) {
        return false;
    }
    match (meta.deadline().remaining(now), need) {
        (None, _) => true,
        (Some(_), Need::Usual) => false,
        (Some(left), Need::Urgent(kept)) => {
            meta.code() == Code::of(Class::Embryonic) && left + EMBRYONIC_TICKS <= kept
        }
    }
}
