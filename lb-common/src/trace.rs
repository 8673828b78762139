//! What a packet's decision is made of, step by step, for `weir explain`.
//!
//! The packet logic leaves marks through [`Tables::trace`](crate::tables::Tables::trace); the data plane's own build
//! throws them away at no cost. A mark is three numbers; what they mean is told at each [`Mark`].

/// A step of a decision. `a` has 32 bits, `b` 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mark {
    /// A stage begins. `a`: its number.
    Stage = 1,
    /// The destination is a VIP. `a`: its id.
    Vip = 2,
    /// The transport header was read. `a`: bits 0–7 the segment, 8–15 the protocol; `b`: bits 0–15 destination port,
    /// 16–31 source port, 32–47 length of the IP packet.
    Transport = 3,
    /// A service claims the packet. `a`: its id; `b`: its [`ForwardWord`](crate::layout::ForwardWord).
    Service = 4,
    /// A bucket of the flow is read. `a`: its number; `b`: 0 for the first one, which every packet reads, 1 for the second
    /// one in search of the entry, 2 for the second one in search of a place.
    Bucket = 5,
    /// The flow has an entry. `a`: backend id; `b`: its [`Meta`](crate::flow::Meta) word.
    Found = 6,
    /// The flow has no entry.
    Missed = 7,
    /// The entry's backend does not go on with the flow. `a`: backend id; `b`: its [`HotWord`](crate::layout::HotWord).
    Over = 8,
    /// The table before the current one says. `a`: slot; `b`: backend id, its [`HotWord`](crate::layout::HotWord)'s
    /// lower half in the upper.
    Previous = 9,
    /// A slot of the Maglev table says. `a` and `b` as for [`Mark::Previous`].
    Slot = 10,
    /// The list of usable backends says. `a`: position; `b` as for [`Mark::Previous`].
    Usable = 11,
    /// None is usable: the pool's last resort. `a`: [`LastResort`](crate::layout::LastResort).
    LastResort = 12,
    /// The backend. `a`: its id; `b`: its [`HotWord`](crate::layout::HotWord).
    Selected = 13,
    /// The flow's entry is made, or not. `a`: 1 where there was a place for it.
    Entered = 14,
    /// The next hop. `a`: its id; `b`: bits 0–31 interface index, 32–47 MTU.
    NextHop = 15,
    /// The packet leaves. `a`: the reason's number; `b`: interface index, 0 for none.
    Left = 16,
    /// How busy a candidate is. `a`: backend id, 0 where nothing recent is known of any; `b`: live flows, the lower half
    /// of its [`HotWord`](crate::layout::HotWord) in the upper.
    Load = 17,
    /// A QUIC connection ID was looked at. `a`: bits 0–7 its first octet, 8–15 the length of its server id, 0 where it
    /// tells none, bit 16 the header is a long one; `b`: the server id's first 8 bytes.
    ConnectionId = 18,
    /// The server that it names. `a`: backend id, 0 for none; `b`: its [`HotWord`](crate::layout::HotWord).
    Server = 19,
    /// A list of the VIP was searched for the source. `a`: [`Listed`](crate::layout::Listed); `b`: 1 where it holds it.
    Listed = 20,
    /// A limit of new flows was asked. `a`: [`Charged`](crate::layout::Charged).
    Charged = 21,
    /// A port of a `snat` address is the flow's own. `a`: the port; `b`: bits 0–31 id of the address, 32–63 number of the
    /// port's record.
    NatPort = 22,
}

impl Mark {
    /// The mark with this number.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        use Mark::{
            Bucket, Charged, ConnectionId, Entered, Found, LastResort, Left, Listed, Load, Missed, NatPort,
            NextHop, Over, Previous, Selected, Server, Service, Slot, Stage, Transport, Usable, Vip,
        };
        let all = [
            Stage,
            Vip,
            Transport,
            Service,
            Bucket,
            Found,
            Missed,
            Over,
            Previous,
            Slot,
            Usable,
            LastResort,
            Selected,
            Entered,
            NextHop,
            Left,
            Load,
            ConnectionId,
            Server,
            Listed,
            Charged,
            NatPort,
        ];
        all.into_iter().find(|mark| *mark as u8 == code)
    }
}

/// Marks that one packet can leave; later ones are lost.
pub const MARKS: usize = 127;

/// The marks of one packet: the value of the `trace` map.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Marks left, which may be more than there is room for.
    pub count: u64,
    /// Zero.
    pub reserved: u64,
    /// Word 0: the mark in bits 0–7, `a` in 32–63. Word 1: `b`.
    pub marks: [[u64; 2]; MARKS],
}

impl Trace {
    /// No marks.
    pub const EMPTY: Self = Self { count: 0, reserved: 0, marks: [[0; 2]; MARKS] };

    /// Adds a mark.
    #[inline(always)]
    pub fn push(&mut self, mark: Mark, a: u32, b: u64) {
        let place = self.count as usize;
        if place < MARKS {
            self.marks[place] = [mark as u64 | (a as u64) << 32, b];
            self.count = place as u64 + 1;
        }
    }

    /// The marks in order; numbers that are no mark are left out.
    pub fn iter(&self) -> impl Iterator<Item = (Mark, u32, u64)> {
        let used = (self.count as usize).min(MARKS);
        self.marks
            .iter()
            .take(used)
            .filter_map(|[head, b]| Mark::from_code(*head as u8).map(|mark| (mark, (*head >> 32) as u32, *b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_as_they_were_left() {
        let mut trace = Trace::EMPTY;
        for code in 1..=22 {
            let mark = Mark::from_code(code).expect("the codes have no gap");
            assert_eq!(mark as u8, code);
            trace.push(mark, u32::MAX - u32::from(code), u64::MAX - u64::from(code));
        }
        assert_eq!(Mark::from_code(23), None);
        let read: Vec<_> = trace.iter().collect();
        assert_eq!(read.len(), 22);
        assert_eq!(read[2], (Mark::Transport, u32::MAX - 3, u64::MAX - 3));
    }

    #[test]
    fn marks_past_the_end_are_lost_and_harm_nothing() {
        let mut trace = Trace::EMPTY;
        (0..MARKS as u32 + 9).for_each(|a| trace.push(Mark::Slot, a, 0));
        assert_eq!(trace.iter().count(), MARKS);
        assert_eq!(trace.iter().last(), Some((Mark::Slot, MARKS as u32 - 1, 0)));
    }
}
