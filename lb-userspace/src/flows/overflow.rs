//! Taking back the marks of buckets whose flows are all in their first bucket again; see [`lb_common::flow::Overflow`].

use lb_common::flow::mark;
use lb_common::layout::OverflowLine;
use lb_common::time::Tick;

use super::entry::placed;
use super::loads::part_of;
use super::{FlowTable, V4, V6};
use crate::maps::set::MapSet;

/// A look through the tables for flows in their second buckets, a part at a time.
pub struct Settling {
    began: u8,
    v4: Marks,
    v6: Marks,
}

/// The marks of one table.
struct Marks {
    /// As they were at the beginning.
    before: Vec<u8>,
    /// Whether there is a flow for it.
    needed: Vec<bool>,
}

impl Settling {
    /// Begins; `None` where no mark is older than this moment.
    #[must_use]
    pub fn begin(maps: &MapSet, now: Tick) -> Option<Self> {
        let began = mark(now);
        let (v4, v6) = (Marks::read(&maps.overflow_v4), Marks::read(&maps.overflow_v6));
        let older = |marks: &Marks| marks.before.iter().any(|mark| *mark != 0 && *mark != began);
        (older(&v4) || older(&v6)).then_some(Self { began, v4, v6 })
    }

    /// Reads one of [`PARTS`](super::PARTS) parts.
    pub fn part(&mut self, maps: &MapSet, part: usize, now: Tick) {
        self.v4.part::<1, V4>(maps, part, now);
        self.v6.part::<3, V6>(maps, part, now);
    }

    /// Takes back the marks that no flow needs and that nobody has set since the beginning; gives their number.
    ///
    /// A flow that came to its second bucket behind the reader's back, or was live again there, has its mark set to a time
    /// since the beginning. Marks of those times stay, whoever set them.
    pub fn finish(self, maps: &MapSet, now: Tick) -> usize {
        let ended = mark(now);
        let recent = |mark: u8| ended.wrapping_sub(mark) <= ended.wrapping_sub(self.began);
        self.v4.take_back(&maps.overflow_v4, recent) + self.v6.take_back(&maps.overflow_v6, recent)
    }
}

impl Marks {
    fn read(lines: &[OverflowLine]) -> Self {
        let before: Vec<u8> = lines.iter().flat_map(|line| &line.marks).map(|mark| mark.get()).collect();
        Self { needed: vec![false; before.len()], before }
    }

    fn part<const W: usize, F: FlowTable<W>>(&mut self, maps: &MapSet, part: usize, now: Tick) {
        let live = placed::<W, F>(maps, part_of(F::buckets(maps).len(), part))
            .filter(|at| at.entry.meta.deadline().remaining(now).is_some());
        for at in live.filter(|at| at.number != at.first) {
            if let Some(needed) = self.needed.get_mut(at.first as usize) {
                *needed = true;
            }
        }
    }

    fn take_back(&self, lines: &[OverflowLine], recent: impl Fn(u8) -> bool) -> usize {
        let marks = lines.iter().flat_map(|line| &line.marks).zip(&self.before).zip(&self.needed);
        marks
            .filter(|((_, before), needed)| **before != 0 && !**needed && !recent(**before))
            .filter(|((mark, before), _)| mark.exchange(**before, 0))
            .count()
    }
}
