//! The board's side of passive detection: handshakes of a pool's backends compared.

use std::collections::BTreeSet;

use super::Board;
use crate::health::event::BackendKey;
use crate::health::machine::{Cause, Change, Finding};
use crate::health::passive::{Handshakes, Sight, Verdict, compare};
use crate::health::time::Moment;

impl Board {
    /// Takes the counters' totals, and compares the backends of each pool that they are of.
    pub(in crate::health) fn take_handshakes(&mut self, totals: &[(BackendKey, Handshakes)], now: Moment) {
        let mut pools = BTreeSet::new();
        for (key, totals) in totals {
            if let Some((pool, member)) = self.find(key) {
                self.pools[pool].members[member].passive.note(*totals, now);
                pools.insert(pool);
            }
        }
        for pool in pools {
            self.compare(pool, now);
        }
    }

    fn compare(&mut self, pool: usize, now: Moment) {
        let of = &self.pools[pool];
        let windows: Vec<Handshakes> = of.members.iter().map(|member| member.passive.window()).collect();
        let verdicts = compare(&of.passive, &windows);
        for (member, verdict) in verdicts.into_iter().enumerate() {
            let agrees = self.active_check_fails(pool, member);
            let watched = &mut self.pools[pool].members[member];
            let (cap, ejected) = (watched.passive.cap(), watched.passive.is_ejected());
            let shift = watched.passive.judge(verdict, agrees, now);
            let (moved, turned) = (watched.passive.cap() != cap, watched.passive.is_ejected() != ejected);
            if shift.is_some() {
                let health = watched.machine.health();
                let kind = watched.machine.failure_kind();
                let change = Change { from: health, to: health, kind, cause: Cause::Handshakes };
                self.note(pool, member, change, None, now);
            }
            if moved {
                self.mark(pool);
            }
            if turned {
                self.reconsider(pool, member, now);
            }
        }
    }

    /// Whether an active check of a backend has failures among its last results.
    fn active_check_fails(&self, pool: usize, member: usize) -> bool {
        let mut streams = self.pools[pool].members[member].streams.iter().filter_map(|id| self.stream(*id));
        streams.any(|stream| {
            let failing = matches!(stream.judge.finding(), Finding::Doubtful | Finding::Bad(_));
            failing || stream.judge.has_failures()
        })
    }

    /// What the comparison says of a backend, in words.
    pub(super) fn comparison_reason(&self, pool: usize, member: usize) -> String {
        let passive = &self.pools[pool].members[member].passive;
        let share = f64::from(passive.cap()) / 10.0;
        match (passive.verdict(), passive.is_ejected()) {
            (Verdict::Outlier { window, failed, others }, ejected) => {
                let agreed = if ejected { ", and a check fails too" } else { "" };
                let lost = lost(self.pools[pool].passive.sight, &window, failed);
                format!(
                    "handshakes: {lost}, {:.0} % elsewhere in the pool{agreed}; takes {share:.0} % of its share of new \
                     flows",
                    others * 100.0
                )
            }
            (_, true) => {
                "handshakes: more of its SYNs failed than elsewhere in the pool, and a check fails too"
                    .to_owned()
            }
            (_, false) => {
                format!("handshakes: as the others of the pool; takes {share:.0} % of its share of new flows")
            }
        }
    }
}

/// What became of a backend's SYNs that led to nothing, in words.
fn lost(sight: Sight, window: &Handshakes, failed: f64) -> String {
    let percent = failed * 100.0;
    let (syns, refused, unanswered) = (window.attempts(), window.refused, window.unanswered());
    match (sight, refused, unanswered) {
        (Sight::Clients, ..) => format!("{percent:.0} % of its SYNs fail"),
        (Sight::Both, 0, _) => format!("{unanswered} of {syns} SYNs got no answer ({percent:.0} %)"),
        (Sight::Both, _, 0) => format!("{refused} of {syns} SYNs were refused (RST) ({percent:.0} %)"),
        (Sight::Both, ..) => format!(
            "{refused} of {syns} SYNs were refused (RST), {unanswered} got no answer ({percent:.0} %)"
        ),
    }
}
