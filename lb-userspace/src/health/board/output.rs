//! The board's way out: slots to the data plane, then events to those who listen.

use std::time::SystemTime;

use super::{Board, Dirty};
use crate::health::event::HealthEvent;
use crate::health::pool_view::{Member, combine};
use crate::health::time::Moment;

impl Board {
    /// Tells the data plane what has changed.
    pub(in crate::health) fn flush(&mut self, now: Moment) {
        for pool in std::mem::take(&mut self.dirty) {
            if self.pools.get(pool).is_some_and(|pool| pool.dirty == Dirty::Yes) {
                self.flush_pool(pool, now);
            }
        }
    }

    /// Tells the data plane about a pool and reports what changed.
    pub(super) fn flush_pool(&mut self, index: usize, now: Moment) {
        self.store(index, None, now);
        self.report(index);
    }

    /// Combines a pool and stores each slot that differs: `first` before all others, then those of noted changes.
    /// Returns when the first one was stored.
    pub(super) fn store(&mut self, index: usize, first: Option<usize>, now: Moment) -> Option<Moment> {
        let pool = self.pools.get_mut(index)?;
        pool.dirty = Dirty::No;
        let members: Vec<Member> = pool.members.iter().map(|member| member.as_member(now)).collect();
        let mut view = combine(&pool.rules, &members, pool.view.active_tier);
        if let Some(split) = self.splits.of_pool.get(&pool.name) {
            split.apply(&members, pool.members.iter().map(|member| &*member.key.backend), &mut view);
        }
        let first_at = first.map(|member| {
            pool.members[member].apply(view.slots[member], self.applier.as_mut());
            Moment::now()
        });
        for pending in pool.pending.iter_mut().filter(|pending| pending.applied_at.is_none()) {
            pool.members[pending.member].apply(view.slots[pending.member], self.applier.as_mut());
            pending.applied_at = Some(Moment::now());
        }
        for (member, slot) in pool.members.iter_mut().zip(&view.slots) {
            member.apply(*slot, self.applier.as_mut());
        }
        if view.usable != pool.view.usable
            || view.active_tier != pool.view.active_tier
            || view.last_resort != pool.view.last_resort
        {
            self.applier.pool_changed(&pool.name, &view);
        }
        pool.view = view;
        first_at
    }

    /// Reports the noted changes; their slots are stored.
    pub(super) fn report(&mut self, index: usize) {
        let Some(pool) = self.pools.get_mut(index) else { return };
        let (wall, wall_at) = (SystemTime::now(), Moment::now());
        for pending in pool.pending.drain(..) {
            let decided_at = pending.evidence.decided_at;
            let event = HealthEvent {
                time: decided_at.to_wall(wall_at, wall),
                backend: pool.members[pending.member].key.clone(),
                from: pending.change.from,
                to: pending.change.to,
                kind: pending.change.kind,
                reason: pending.reason,
                detected_after: decided_at.since(pending.evidence.signal_at),
                applied_after: pending.applied_at.unwrap_or(wall_at).since(decided_at),
                evidence: pending.evidence,
            };
            self.applier.label(&event);
            // Nobody listens any more when the daemon is on its way out.
            let _ = self.events.send(event);
        }
    }
}
