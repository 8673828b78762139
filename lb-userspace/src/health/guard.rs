//! Whether silence of backends may be believed, or weir has to suspect itself.
//!
//! Receives which addresses fell silent and what the self-check says; answers how far silence counts. Evidence that
//! somebody answered (a refusal, a reset, a status) is none of its business and always acts. Knows no socket and no
//! clock.
//!
//! An address counts from the first time that it was heard until its silence has been believed for a while. When
//! more than a share of those that count is silent, a witness has to vouch for weir's own link: until it has
//! answered, silence raises suspicion and takes nobody down; where the self-check fails, silence counts for nothing,
//! for a limited time.

#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::time::Moment;

/// How often an unsettled self-check is looked at again.
pub(super) const VERIFY_EVERY: Duration = Duration::from_millis(10);
/// The same while frozen.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Limits of the guard (`[guard]`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuardRules {
    /// Share of the addresses beyond which silence needs a witness, 0..=1.
    pub panic_threshold: f64,
    /// Longest time for which silence is not believed; zero turns freezing off.
    pub freeze_max: Duration,
    /// Time within which one cause makes all of its addresses silent: the slowest check's pace.
    pub spread: Duration,
}

impl Default for GuardRules {
    /// For nobody: nothing is ever past the threshold.
    fn default() -> Self {
        Self { panic_threshold: 1.0, freeze_max: Duration::ZERO, spread: Duration::ZERO }
    }
}

/// What weir's own checks say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelfCheck {
    /// A witness has answered since.
    Vouched,
    /// Nothing is wrong, and there is nobody to ask.
    NoWitness,
    /// Nothing is wrong, and no witness has answered or failed yet.
    Unsettled,
    /// What is wrong.
    Failing(String),
}

/// How far silence counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belief {
    /// It takes backends down.
    Full,
    /// It raises suspicion.
    Suspicion,
    /// It counts for nothing.
    Nothing,
}

/// A turn of the guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Silence is past the threshold and waits for a witness.
    Verify,
    /// Silence counts again, and what was held back acts.
    Believe,
    /// The self-check fails: the last good state is kept.
    Freeze {
        /// What is wrong.
        cause: String,
        /// When silence counts again at the latest.
        until: Moment,
    },
    /// The self-check passes again, or the backends answer: silence counts from here on.
    Thaw,
    /// The longest time is over: silence is believed although the self-check fails.
    Expire,
}

/// What the guard is at.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Watching,
    Verifying,
    Frozen { since: Moment, until: Moment, cause: String },
}

/// A freeze under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// Since when.
    pub since: Moment,
    /// When it ends at the latest.
    pub until: Moment,
    /// What is wrong with weir itself.
    pub cause: String,
}

/// One address.
#[derive(Clone, Copy, Debug)]
struct Host {
    /// Streams of it that are silent.
    silent: u32,
    /// When the first of them fell silent.
    since: Moment,
    standing: Standing,
}

/// Whether an address counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It was heard.
    Counted,
    /// Never heard, or its silence is believed and old.
    WrittenOff,
}

/// The guard's state.
#[derive(Clone, Debug)]
pub struct Guard {
    rules: GuardRules,
    phase: Phase,
    hosts: HashMap<IpAddr, Host>,
    counted: usize,
    silent: usize,
    /// Addresses by the time at which they fell silent.
    recent: VecDeque<(Moment, IpAddr)>,
    /// When the last of them did.
    newest: Moment,
    /// What is left of the longest freeze until a backend is heard again.
    left: Duration,
}

impl Guard {
    /// A guard over nobody.
    #[must_use]
    pub fn new(rules: GuardRules) -> Self {
        Self {
            rules,
            phase: Phase::Watching,
            hosts: HashMap::new(),
            counted: 0,
            silent: 0,
            recent: VecDeque::new(),
            newest: Moment::default(),
            left: rules.freeze_max,
        }
    }

    /// Takes over changed limits; a freeze under way ends by the new ones.
    pub fn set_rules(&mut self, rules: GuardRules) {
        self.left = self.left.min(rules.freeze_max);
        if self.rules.freeze_max < rules.freeze_max && self.phase == Phase::Watching {
            self.left = rules.freeze_max;
        }
        self.rules = rules;
        if let Phase::Frozen { since, until, .. } = &mut self.phase {
            *until = (*until).min(*since + rules.freeze_max);
        }
    }

    /// Adds an address, counted if it is known to have been alive; one that is there stays as it is.
    pub fn add(&mut self, address: IpAddr, alive: bool) {
        let standing = if alive { Standing::Counted } else { Standing::WrittenOff };
        self.hosts.entry(address).or_insert_with(|| {
            self.counted += usize::from(alive);
            Host { silent: 0, since: Moment::default(), standing }
        });
    }

    /// Forgets addresses.
    pub fn retain(&mut self, keep: impl Fn(IpAddr) -> bool) {
        self.hosts.retain(|address, _| keep(*address));
        let counted = || self.hosts.values().filter(|host| host.standing == Standing::Counted);
        (self.counted, self.silent) = (counted().count(), counted().filter(|host| host.silent > 0).count());
    }

    /// Notes that a stream of an address fell silent.
    pub fn fell_silent(&mut self, address: IpAddr, now: Moment) {
        let Some(host) = self.hosts.get_mut(&address) else { return };
        host.silent += 1;
        if host.silent > 1 {
            return;
        }
        host.since = now;
        if host.standing == Standing::Counted {
            self.silent += 1;
            self.newest = now;
            self.recent.push_back((now, address));
        }
    }

    /// Notes that a stream of an address is silent no longer, whatever it says instead.
    pub fn broke_silence(&mut self, address: IpAddr) {
        let Some(host) = self.hosts.get_mut(&address) else { return };
        host.silent = host.silent.saturating_sub(1);
        if host.silent == 0 && host.standing == Standing::Counted {
            self.silent = self.silent.saturating_sub(1);
        }
    }

    /// Notes that a stream of an address passes.
    pub fn heard(&mut self, address: IpAddr) {
        if !matches!(self.phase, Phase::Frozen { .. }) {
            self.left = self.rules.freeze_max;
        }
        let Some(host) = self.hosts.get_mut(&address) else { return };
        if host.standing == Standing::WrittenOff {
            host.standing = Standing::Counted;
            self.counted += 1;
            if host.silent > 0 {
                self.silent += 1;
                self.recent.push_back((host.since, address));
            }
        }
    }

    /// How far silence counts at present.
    #[must_use]
    pub fn belief(&self) -> Belief {
        match self.phase {
            Phase::Watching => Belief::Full,
            Phase::Verifying => Belief::Suspicion,
            Phase::Frozen { .. } => Belief::Nothing,
        }
    }

    /// The freeze under way.
    #[must_use]
    pub fn frozen(&self) -> Option<Frozen> {
        match &self.phase {
            Phase::Frozen { since, until, cause } => {
                Some(Frozen { since: *since, until: *until, cause: cause.clone() })
            }
            _ => None,
        }
    }

    /// How many addresses are silent, of how many that count.
    #[must_use]
    pub fn tally(&self) -> (usize, usize) {
        (self.silent, self.counted)
    }

    /// Whether [`Guard::step`] has anything to decide.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.phase != Phase::Watching || self.is_past()
    }

    /// Whether a witness's answer is what is missing.
    #[must_use]
    pub fn waits_for_witness(&self) -> bool {
        self.phase == Phase::Verifying
    }

    /// Time within which one cause makes all of its addresses silent.
    #[must_use]
    pub fn spread(&self) -> Duration {
        self.rules.spread
    }

    /// When to [`Guard::step`] again, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self, now: Moment) -> Option<Moment> {
        match &self.phase {
            Phase::Watching => None,
            Phase::Verifying => Some(now + VERIFY_EVERY),
            Phase::Frozen { until, .. } => Some((*until).min(now + LOOK_EVERY)),
        }
    }

    /// Decides, asking `check` for what the self-check says that counts from the given time on.
    pub fn step(&mut self, now: Moment, check: impl FnOnce(Moment) -> SelfCheck) -> Option<Turn> {
        match self.phase.clone() {
            Phase::Watching => {
                self.write_off_old(now);
                if !self.is_past() {
                    return None;
                }
                match check(self.newest) {
                    SelfCheck::Vouched => {
                        self.write_off_silent();
                        None
                    }
                    SelfCheck::NoWitness => None,
                    SelfCheck::Unsettled => {
                        self.phase = Phase::Verifying;
                        Some(Turn::Verify)
                    }
                    SelfCheck::Failing(cause) => self.freeze(cause, now),
                }
            }
            Phase::Verifying if !self.is_past() => self.believe(),
            Phase::Verifying => match check(self.newest) {
                SelfCheck::Vouched => {
                    self.write_off_silent();
                    self.believe()
                }
                SelfCheck::NoWitness => self.believe(),
                SelfCheck::Unsettled => None,
                // What was held back acts where there is no time left to freeze.
                SelfCheck::Failing(cause) => self.freeze(cause, now).or_else(|| self.believe()),
            },
            Phase::Frozen { until, .. } if now >= until => {
                self.left = Duration::ZERO;
                self.phase = Phase::Watching;
                self.write_off_silent();
                Some(Turn::Expire)
            }
            Phase::Frozen { since, .. } => {
                let over =
                    !self.is_past() || matches!(check(since), SelfCheck::Vouched | SelfCheck::NoWitness);
                over.then(|| {
                    self.left = self.left.saturating_sub(now.since(since));
                    self.phase = Phase::Watching;
                    Turn::Thaw
                })
            }
        }
    }

    /// Whether more than the threshold's share of the addresses that count is silent.
    fn is_past(&self) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "numbers of backends stay far below 2^53")]
        let past = self.silent as f64 > self.rules.panic_threshold * self.counted as f64;
        past
    }

    fn believe(&mut self) -> Option<Turn> {
        self.phase = Phase::Watching;
        Some(Turn::Believe)
    }

    fn freeze(&mut self, cause: String, now: Moment) -> Option<Turn> {
        if self.left.is_zero() {
            self.write_off_silent();
            return None;
        }
        let until = now + self.left;
        self.phase = Phase::Frozen { since: now, until, cause: cause.clone() };
        Some(Turn::Freeze { cause, until })
    }

    /// Addresses that have been silent for longer than one cause explains count no longer.
    fn write_off_old(&mut self, now: Moment) {
        while let Some((since, address)) = self.recent.front().copied() {
            if now.since(since) <= self.rules.spread {
                break;
            }
            self.recent.pop_front();
            self.write_off(address, since);
        }
    }

    /// Silence that is believed counts no longer.
    fn write_off_silent(&mut self) {
        for (since, address) in std::mem::take(&mut self.recent) {
            self.write_off(address, since);
        }
    }

    /// Counts an address no longer if it is silent since then.
    fn write_off(&mut self, address: IpAddr, since: Moment) {
        let Some(host) = self.hosts.get_mut(&address) else { return };
        if host.standing == Standing::Counted && host.silent > 0 && host.since == since {
            host.standing = Standing::WrittenOff;
            self.counted = self.counted.saturating_sub(1);
            self.silent = self.silent.saturating_sub(1);
        }
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
