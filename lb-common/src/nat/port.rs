//! A port's record: reading and writing the flow that has it.

use crate::flow::{Class, Code, Meta};
use crate::hash;
use crate::layout::NatPort;
use crate::wire::Protocol;

/// What identifies a flow: the client's end and the VIP's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Halves of the client's address; IPv4 in the second.
    pub client: (u64, u64),
    /// Client's port and destination port, host order.
    pub ports: (u16, u16),
    /// VIP id.
    pub vip: u32,
    /// Protocol.
    pub protocol: Protocol,
}

/// What else a record says of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Halves of the VIP's address.
    pub vip: (u64, u64),
    /// Service id.
    pub service: u16,
    /// Id of the `snat` address.
    pub snat: u16,
    /// The backend's port, host order.
    pub backend_port: u16,
    /// Whether the client speaks IPv6.
    pub v6: bool,
}

/// How frames to a client leave: the way its own came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Return {
    /// Destination, then source Ethernet address.
    pub macs: [[u8; 4]; 3],
    /// VLAN tags, the outermost first; zero is none.
    pub tags: [[u8; 4]; 2],
    /// Interface index.
    pub port: u32,
}

/// A record as read, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The state's word when it was read.
    pub state: u64,
    /// The flow.
    pub flow: Flow,
    /// What else is known of it.
    pub owner: Owner,
}

impl Held {
    /// Class, deadline and generation of the backend id.
    #[inline(always)]
    #[must_use]
    pub const fn meta(&self) -> Meta {
        Meta(self.state as u32)
    }

    /// Backend id.
    #[inline(always)]
    #[must_use]
    pub const fn backend(&self) -> u32 {
        (self.state >> 32) as u16 as u32
    }
}

impl Flow {
    #[inline(always)]
    const fn ends(&self) -> u64 {
        self.ports.0 as u64
            | (self.ports.1 as u64) << 16
            | ((self.vip as u64) & 0xffff) << 32
            | (self.protocol as u64) << 48
    }
}

impl Owner {
    #[inline(always)]
    const fn word(&self) -> u64 {
        self.service as u64
            | (self.backend_port as u64) << 16
            | (self.v6 as u64) << 32
            | (self.snat as u64) << 48
    }
}

impl Return {
    #[inline(always)]
    fn words(&self) -> [u64; 3] {
        let [a, b, c] = self.macs.map(u32::from_ne_bytes);
        let [d, e] = self.tags.map(u32::from_ne_bytes);
        let both = |low: u32, high: u32| low as u64 | (high as u64) << 32;
        [both(a, b), both(c, d), both(e, self.port)]
    }

    /// Writes it into a record that does not say so yet. A frame sent while two CPUs do may be lost.
    #[inline(always)]
    pub fn write(&self, record: &NatPort) {
        for (word, new) in record.back.iter().zip(self.words()) {
            if word.get() != new {
                word.set(new);
            }
        }
    }

    /// Reads it from a record.
    #[inline(always)]
    #[must_use]
    pub fn of(record: &NatPort) -> Self {
        let [first, second, third] = [record.back[0].get(), record.back[1].get(), record.back[2].get()];
        let bytes = |word: u64| (word as u32).to_ne_bytes();
        Self {
            macs: [bytes(first), bytes(first >> 32), bytes(second)],
            tags: [bytes(second >> 32), bytes(third)],
            port: (third >> 32) as u32,
        }
    }
}

/// What a record's words make.
#[inline(always)]
fn check(words: [u64; 6], number: u64) -> u64 {
    let mut state = number;
    for word in words {
        state = hash::absorb(state, word);
    }
    // Not 0, which is in records that never had a flow.
    hash::finish(state) | 1
}

/// Which flow this is of those that had the port.
#[inline(always)]
const fn number(state: u64) -> u64 {
    state >> 48
}

/// Reads a record; `None` where the port has no flow, or is getting one.
#[inline(always)]
#[must_use]
pub fn read(record: &NatPort) -> Option<Held> {
    let state = record.state.get();
    let words = [
        record.ends.get(),
        record.client[0].get(),
        record.client[1].get(),
        record.vip[0].get(),
        record.vip[1].get(),
        record.owner.get(),
    ];
    if Meta(state as u32).code() == Code::of(Class::Empty)
        || record.check.get() != check(words, number(state))
    {
        return None;
    }
    let [ends, high, low, vip_high, vip_low, owner] = words;
    let protocol = if ends >> 48 == Protocol::Tcp as u64 { Protocol::Tcp } else { Protocol::Udp };
    Some(Held {
        state,
        flow: Flow {
            client: (high, low),
            ports: (ends as u16, (ends >> 16) as u16),
            vip: (ends >> 32) as u16 as u32,
            protocol,
        },
        owner: Owner {
            vip: (vip_high, vip_low),
            service: owner as u16,
            snat: (owner >> 48) as u16,
            backend_port: (owner >> 16) as u16,
            v6: owner & 1 << 32 != 0,
        },
    })
}

/// Gives a port that was taken to a flow.
#[inline(always)]
pub fn bind(record: &NatPort, flow: &Flow, owner: &Owner, backend: u32, meta: Meta) {
    let number = number(record.state.get()).wrapping_add(1) & 0xffff;
    let words = [flow.ends(), flow.client.0, flow.client.1, owner.vip.0, owner.vip.1, owner.word()];
    let places =
        [&record.ends, &record.client[0], &record.client[1], &record.vip[0], &record.vip[1], &record.owner];
    for (place, word) in places.into_iter().zip(words) {
        place.set(word);
    }
    record.check.set(check(words, number));
    record.state.set(meta.0 as u64 | (backend as u64 & 0xffff) << 32 | number << 48);
}

/// Gives a flow another class and deadline, where nothing else changed meanwhile; whether nothing did. Where something did,
/// some other packet has just refreshed it, or its port was taken back.
#[inline(always)]
pub fn refresh(record: &NatPort, held: &Held, meta: Meta) -> bool {
    record.state.exchange(held.state, held.state & !0xffff_ffff | meta.0 as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Tick;

    fn flow(port: u16) -> Flow {
        Flow { client: (7, 9), ports: (port, 80), vip: 3, protocol: Protocol::Udp }
    }

    fn owner() -> Owner {
        Owner { vip: (1, 2), service: 60_000, snat: 9, backend_port: 8080, v6: true }
    }

    #[test]
    fn a_record_gives_back_its_flow_until_any_word_of_it_changes() {
        let record = NatPort::empty();
        assert_eq!(read(&record), None);
        let meta = Meta::new(Tick::from_bits(500), Class::Young, 200);
        bind(&record, &flow(1000), &owner(), 40_000, meta);
        let held = read(&record).expect("the record is whole");
        assert_eq!((held.flow, held.owner, held.backend(), held.meta()), (flow(1000), owner(), 40_000, meta));
        let words = [
            &record.ends,
            &record.client[0],
            &record.client[1],
            &record.vip[0],
            &record.vip[1],
            &record.owner,
            &record.check,
        ];
        for word in words {
            let whole = word.get();
            word.set(whole ^ 1 << 20);
            assert_eq!(read(&record), None);
            word.set(whole);
        }
        assert_eq!(read(&record), Some(held));
    }

    #[test]
    fn a_refresh_reaches_the_flow_that_was_read_and_no_later_one() {
        let record = NatPort::empty();
        let meta = |tick| Meta::new(Tick::from_bits(tick), Class::Proven, 1);
        bind(&record, &flow(1), &owner(), 5, meta(10));
        let first = read(&record).expect("whole");
        refresh(&record, &first, meta(20));
        assert_eq!(read(&record).map(|held| held.meta()), Some(meta(20)));
        bind(&record, &flow(2), &owner(), 5, meta(30));
        refresh(&record, &first, meta(40));
        assert_eq!(read(&record).map(|held| (held.flow, held.meta())), Some((flow(2), meta(30))));
    }

    #[test]
    fn a_way_back_is_read_as_it_was_written() {
        let record = NatPort::empty();
        let back =
            Return { macs: [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]], tags: [[13; 4], [0; 4]], port: 77 };
        back.write(&record);
        assert_eq!(Return::of(&record), back);
    }
}
