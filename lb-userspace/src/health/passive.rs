//! Which backends lose more handshakes than the rest of their pool, by the data plane's own counters.
//!
//! Receives totals of SYNs and what became of them per backend and the time; answers how much of its share of new
//! flows a backend may take. Under direct server return weir sees one direction only: a client's SYN, its repetition
//! when no answer came, and the acknowledgement that ends the handshake. A flood of SYNs raises the failures of all
//! backends alike, so only a comparison within the pool means anything. Where backends' answers pass weir, a SYN-ACK
//! is a backend's success and an RST or silence its failure, whatever its clients do; there, too, what all backends of a
//! pool do alike (ports that nobody serves, servers that overflow under a flood) is no finding about one.
//!
//! Lowering a share is all that happens on this evidence alone; a backend is taken out only if an active check has
//! failures too.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::Duration;

use super::machine::{FULL_ADMIT, TRIAL_ADMIT};
use super::time::Moment;

/// Handshakes are compared over this time.
pub const WINDOW: Duration = Duration::from_secs(5);
/// What a share is raised by at a time.
const RAMP_STEP: u16 = 100;
/// Least difference between a backend's share of failures and the pool's.
const LEAST_GAP: f64 = 0.1;
/// Least share of failures that chance is reckoned with.
const LEAST_CHANCE: f64 = 0.05;
/// Standard deviations that are no chance.
const SIGMAS: f64 = 3.0;
/// Outlying verdicts in a row from which a backend is taken out, if an active check agrees.
const STRIKES: u32 = 2;

/// Which directions of a pool's flows pass weir.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sight {
    /// The clients'; a handshake is one that the client went on after.
    #[default]
    Clients,
    /// Both; a handshake is one that the backend answered.
    Both,
}

/// SYNs and handshakes of a backend, since some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshakes {
    /// Flows that began with a SYN.
    pub opened: u64,
    /// SYNs of those again, before anything else.
    pub repeated: u64,
    /// Flows whose client acknowledged the backend's answer.
    pub completed: u64,
    /// Flows whose SYN the backend answered by SYN-ACK; 0 where its answers do not pass weir, like what follows.
    pub answered: u64,
    /// Flows whose SYN it answered by RST.
    pub refused: u64,
    /// Flows that it had answered and ended by RST before anybody closed them.
    pub reset: u64,
}

impl Handshakes {
    /// What came on top of `earlier`; `None` where these are other counters.
    #[must_use]
    pub fn since(self, earlier: Self) -> Option<Self> {
        Some(Self {
            opened: self.opened.checked_sub(earlier.opened)?,
            repeated: self.repeated.checked_sub(earlier.repeated)?,
            completed: self.completed.checked_sub(earlier.completed)?,
            answered: self.answered.checked_sub(earlier.answered)?,
            refused: self.refused.checked_sub(earlier.refused)?,
            reset: self.reset.checked_sub(earlier.reset)?,
        })
    }

    /// SYNs that asked for an answer.
    #[must_use]
    pub fn attempts(self) -> u64 {
        self.opened + self.repeated
    }

    /// Flows whose opening the backend did its part of, as far as that can be seen.
    #[must_use]
    pub fn succeeded(self, sight: Sight) -> u64 {
        match sight {
            Sight::Clients => self.completed,
            Sight::Both => self.answered,
        }
    }

    /// SYNs that were neither answered nor refused, where answers pass weir; the last of them may yet be.
    #[must_use]
    pub fn unanswered(self) -> u64 {
        self.attempts().saturating_sub(self.answered + self.refused)
    }

    /// Share of the SYNs that led to a handshake, 0..=1; `None` without a SYN.
    #[must_use]
    pub fn ratio(self, sight: Sight) -> Option<f64> {
        let attempts = self.attempts();
        (attempts > 0).then(|| (exact(self.succeeded(sight)) / exact(attempts)).min(1.0))
    }
}

/// Limits of a pool.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PassiveRules {
    /// SYNs within the window below which a backend is not judged; 0 turns the comparison off.
    pub sample: u32,
    /// How much larger than the pool's a backend's share of failures must be: 0.5 is by half.
    pub excess: f64,
    /// What is seen of its handshakes.
    pub sight: Sight,
}

/// What the comparison says of a backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// Too few handshakes, of it or of the others.
    TooFew,
    /// As the others.
    Ordinary,
    /// It loses more.
    Outlier {
        /// What it was judged by.
        window: Handshakes,
        /// Its share of failures.
        failed: f64,
        /// The others'.
        others: f64,
    },
}

/// Compares each backend of a pool with the others.
#[must_use]
pub fn compare(rules: &PassiveRules, windows: &[Handshakes]) -> Vec<Verdict> {
    let judged = |window: &Handshakes| rules.sample > 0 && window.attempts() >= u64::from(rules.sample);
    let failed_share = |window: &Handshakes| 1.0 - window.ratio(rules.sight).unwrap_or(1.0);
    let mut shares: Vec<f64> = windows.iter().filter(|window| judged(window)).map(failed_share).collect();
    shares.sort_by(f64::total_cmp);
    let one = |window: &Handshakes| {
        let failed = failed_share(window);
        let others = judged(window).then(|| median_without(&shares, failed, rules.sight)).flatten();
        let Some(others) = others else { return Verdict::TooFew };
        let (attempts, chance) = (exact(window.attempts()), others.max(LEAST_CHANCE));
        let deviation = (attempts * chance * (1.0 - chance)).max(0.0).sqrt();
        let outlying = failed >= others * (1.0 + rules.excess)
            && failed >= others + LEAST_GAP
            && failed * attempts >= chance * attempts + SIGMAS * deviation;
        if outlying { Verdict::Outlier { window: *window, failed, others } } else { Verdict::Ordinary }
    };
    windows.iter().map(one).collect()
}

/// The median of sorted shares without one of them. Of two the larger: an outlier needs a majority to differ from, where
/// clients may be what fails. Where answers are seen, clients cannot be, and the smaller will do: that of half of the others.
fn median_without(sorted: &[f64], own: f64, sight: Sight) -> Option<f64> {
    let position = sorted.partition_point(|share| *share < own);
    let others = sorted.len().checked_sub(1).filter(|count| *count > 0)?;
    let middle = match sight {
        Sight::Clients => others / 2,
        Sight::Both => (others - 1) / 2,
    };
    sorted.get(if middle < position { middle } else { middle + 1 }).copied()
}

fn exact(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds stay far below 2^53")]
    let exact = count as f64;
    exact
}

/// What the comparison made of a backend's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// It was whole, and is no longer.
    Lowered,
    /// It is whole again.
    Restored,
}

/// The handshakes of one backend, and the share of new flows that they leave it.
#[derive(Clone, Debug)]
pub struct Passive {
    /// Totals of the last [`WINDOW`] by time, oldest first.
    totals: VecDeque<(Moment, Handshakes)>,
    /// When the share was last changed for what it shows: what was before says nothing about what follows.
    from: Moment,
    cap: u16,
    verdict: Verdict,
    strikes: u32,
    /// Taken out, because an active check agreed.
    ejected: bool,
}

impl Default for Passive {
    fn default() -> Self {
        let (totals, verdict) = (VecDeque::new(), Verdict::TooFew);
        Self { totals, from: Moment::default(), cap: FULL_ADMIT, verdict, strikes: 0, ejected: false }
    }
}

impl Passive {
    /// Forgets what was seen: something else is from now on.
    pub fn forget(&mut self) {
        self.totals.clear();
    }

    /// Takes the counters' totals.
    pub fn note(&mut self, totals: Handshakes, now: Moment) {
        let other_counters = |(_, last): &(Moment, Handshakes)| totals.since(*last).is_none();
        if self.totals.back().is_some_and(other_counters) {
            self.totals.clear();
        }
        self.totals.push_back((now, totals));
        while self.totals.get(1).is_some_and(|(at, _)| now.since(*at) >= WINDOW) {
            self.totals.pop_front();
        }
    }

    /// The handshakes of the last [`WINDOW`].
    #[must_use]
    pub fn recent(&self) -> Handshakes {
        self.since(Moment::default())
    }

    /// The handshakes to judge by: those of the last [`WINDOW`], and after the last change.
    #[must_use]
    pub fn window(&self) -> Handshakes {
        self.since(self.from)
    }

    fn since(&self, from: Moment) -> Handshakes {
        let first = self.totals.iter().find(|(at, _)| *at >= from);
        match (first, self.totals.back()) {
            (Some((_, first)), Some((_, last))) => last.since(*first).unwrap_or_default(),
            _ => Handshakes::default(),
        }
    }

    /// What the last comparison said.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Share of new flows in per mille that the comparisons leave it.
    #[must_use]
    pub fn cap(&self) -> u16 {
        self.cap
    }

    /// Whether it is to be taken out: it loses handshakes, and an active check agrees.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.ejected
    }

    /// Takes a comparison; `agrees` tells whether an active check has failures too.
    pub fn judge(&mut self, verdict: Verdict, agrees: bool, now: Moment) -> Option<Shift> {
        let before = self.cap;
        self.verdict = verdict;
        match verdict {
            Verdict::Outlier { .. } => {
                self.cap = (self.cap / 2).max(TRIAL_ADMIT);
                self.strikes += 1;
                self.from = now;
            }
            Verdict::Ordinary => {
                self.strikes = 0;
                self.raise();
            }
            // A small share may bring too few handshakes to be judged by.
            Verdict::TooFew if now.since(self.from) >= WINDOW && self.cap < FULL_ADMIT => {
                self.raise();
                self.from = now;
            }
            Verdict::TooFew => {}
        }
        self.ejected = agrees && (self.ejected || self.strikes >= STRIKES);
        match (before == FULL_ADMIT, self.cap == FULL_ADMIT) {
            (true, false) => Some(Shift::Lowered),
            (false, true) => Some(Shift::Restored),
            _ => None,
        }
    }

    fn raise(&mut self) {
        self.cap = (self.cap + RAMP_STEP).min(FULL_ADMIT);
    }
}

#[cfg(test)]
#[path = "passive_tests.rs"]
mod tests;
