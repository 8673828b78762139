//! The order of writes.

use super::write::Write;

/// The steps of an apply, in their order.
///
/// A packet resolves its port by exact entry, else range, else any-port service, else policy. Whatever a packet finds
/// at any moment is what it would have found before or after the whole change: sources that win over others get their
/// additions first (`Exact` to `Policy`; ranges and any-port services as the union of old and new, new ones winning),
/// and lose their removals last, in the reverse order (`AnyFinal` to `ExactClear`). Flows leave from another address of
/// mode `nat` once their answers find it, and no longer from the one before when that is taken away (`ServiceSnats`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Lists,
    Hops,
    Backends,
    Tables,
    Pools,
    Servers,
    Snats,
    Services,
    NewVips,
    Exact,
    RangesUnion,
    AnyUnion,
    Policy,
    VipIndex,
    ServiceSnats,
    VipIndexClear,
    AnyFinal,
    RangesFinal,
    ExactClear,
    Leaving,
}

const COUNT: usize = Stage::Leaving as usize + 1;

/// Writes by stage.
#[derive(Default)]
pub(super) struct Stages([Vec<Write>; COUNT]);

impl Stages {
    pub(super) fn push(&mut self, stage: Stage, write: Write) {
        self.0[stage as usize].push(write);
    }

    pub(super) fn at(&mut self, stage: Stage) -> &mut Vec<Write> {
        &mut self.0[stage as usize]
    }

    /// All writes in order. Between two steps of a port's resolution, packets in flight finish: one that missed an
    /// exact entry before it was added must not find the any-port service after that was removed.
    pub(super) fn into_writes(self) -> Vec<Write> {
        let mut writes = Vec::with_capacity(self.0.iter().map(|stage| stage.len() + 1).sum());
        let mut changing = false;
        for (number, stage) in self.0.into_iter().enumerate() {
            if stage.is_empty() {
                continue;
            }
            if (Stage::Exact as usize..=Stage::ExactClear as usize).contains(&number) {
                if changing {
                    writes.push(Write::Grace);
                }
                changing = true;
            }
            writes.extend(stage);
        }
        writes
    }
}
