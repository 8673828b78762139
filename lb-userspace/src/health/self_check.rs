//! What weir knows about its own link to the world: carrier, lateness, and witnesses that answer pings.
//!
//! A witness is a router on the way to the backends, or an address that the config names. One that has never
//! answered proves nothing by its silence.

#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::time::Duration;

use super::guard::SelfCheck;
use super::judge::Judge;
use super::machine::Finding;
use super::time::Moment;
use crate::config::model::{Check, CheckKind, PortOf, Through};

/// A thread that wakes this much too late sees half the truth.
pub(super) const LATE: Duration = Duration::from_millis(20);
/// How long that is remembered.
const LATE_COUNTS: Duration = Duration::from_secs(1);

/// How witnesses are asked; faster while there is doubt.
pub(super) const WITNESS_CHECK: Check = Check {
    kind: CheckKind::Ping,
    port: None,
    port_of: PortOf::Check,
    interval: Duration::from_millis(200),
    timeout: Duration::from_millis(100),
    rise: 1,
    fall: 3,
    through: Through::Direct,
    inside: None,
};

/// What is known besides the witnesses.
#[derive(Debug, Default)]
pub(super) struct OwnState {
    /// Names of interfaces towards backends that have no carrier.
    pub(super) lost_carriers: Vec<String>,
    /// When the probe thread was last late, and by how much.
    late: Option<(Moment, Duration)>,
}

impl OwnState {
    /// Notes how late the probe thread woke.
    pub(super) fn woke_late(&mut self, by: Duration, now: Moment) {
        if by >= LATE {
            self.late = Some((now, by));
        }
    }

    /// What counts of all this since a time.
    pub(super) fn verdict<'a>(
        &self,
        witnesses: impl Iterator<Item = (IpAddr, &'a Judge)>,
        since: Moment,
        now: Moment,
    ) -> SelfCheck {
        if let Some(interface) = self.lost_carriers.first() {
            return SelfCheck::Failing(format!("{interface} has no carrier"));
        }
        let mut verdict = SelfCheck::NoWitness;
        for (address, judge) in witnesses {
            let Some(answered) = judge.last_answered() else { continue };
            match (answered > since, judge.finding()) {
                (true, _) if verdict != SelfCheck::Unsettled => verdict = SelfCheck::Vouched,
                (true, _) => {}
                (false, Finding::Bad(_)) => {
                    return SelfCheck::Failing(format!("gateway {address} is silent too"));
                }
                (false, _) => verdict = SelfCheck::Unsettled,
            }
        }
        // An answer that was heard proves that this thread hears.
        let late = self.late.filter(|(at, _)| verdict != SelfCheck::Vouched && now.since(*at) <= LATE_COUNTS);
        late.map_or(verdict, |(_, by)| SelfCheck::Failing(format!("the probe thread woke {by:.1?} late")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::watched::limits;

    fn ms(millis: u64) -> Moment {
        Moment(millis * 1_000_000)
    }

    /// A witness that answered until 100 ms.
    fn witness() -> Judge {
        let mut judge = Judge::new(limits(&WITNESS_CHECK));
        judge.sent(1, ms(100), ms(100));
        judge.answered(1, ms(100), ms(100));
        judge
    }

    fn verdict(own: &OwnState, judges: &[&Judge], now: Moment) -> SelfCheck {
        let address = IpAddr::from([10, 0, 0, 254]);
        own.verdict(judges.iter().map(|judge| (address, *judge)), ms(150), now)
    }

    #[test]
    fn a_witness_vouches_by_an_answer_to_a_later_probe_and_fails_by_confirmed_silence() {
        let own = OwnState::default();
        let mut judge = witness();
        assert_eq!(verdict(&own, &[], ms(160)), SelfCheck::NoWitness);
        assert_eq!(verdict(&own, &[&judge], ms(160)), SelfCheck::Unsettled);
        let mut answering = judge.clone();
        answering.sent(2, ms(160), ms(160));
        answering.answered(2, ms(160), ms(161));
        assert_eq!(verdict(&own, &[&answering], ms(161)), SelfCheck::Vouched);
        assert_eq!(verdict(&own, &[&answering, &judge], ms(161)), SelfCheck::Unsettled);
        assert_eq!(verdict(&own, &[&judge, &answering], ms(161)), SelfCheck::Unsettled);
        for seq in 2..6 {
            judge.sent(seq, ms(160 + seq * 10), ms(160 + seq * 10));
        }
        judge.judge(ms(400));
        assert!(matches!(verdict(&own, &[&answering, &judge], ms(400)), SelfCheck::Failing(_)));
    }

    #[test]
    fn a_witness_that_never_answered_proves_nothing() {
        let mut judge = Judge::new(limits(&WITNESS_CHECK));
        (1..6).for_each(|seq| judge.sent(seq, ms(seq * 10), ms(seq * 10)));
        judge.judge(ms(400));
        assert_eq!(verdict(&OwnState::default(), &[&judge], ms(400)), SelfCheck::NoWitness);
    }

    #[test]
    fn lost_carrier_and_a_late_thread_fail_the_self_check() {
        let lost = OwnState { lost_carriers: vec!["eth1".to_owned()], ..OwnState::default() };
        assert_eq!(verdict(&lost, &[], ms(1)), SelfCheck::Failing("eth1 has no carrier".to_owned()));
        let mut late = OwnState::default();
        late.woke_late(LATE / 2, ms(1000));
        assert_eq!(verdict(&late, &[], ms(1000)), SelfCheck::NoWitness);
        late.woke_late(LATE, ms(1000));
        assert!(matches!(verdict(&late, &[], ms(1500)), SelfCheck::Failing(_)));
        let mut answering = witness();
        answering.sent(2, ms(1400), ms(1400));
        answering.answered(2, ms(1400), ms(1401));
        assert_eq!(verdict(&late, &[&answering], ms(1500)), SelfCheck::Vouched);
        assert_eq!(verdict(&late, &[], ms(2001)), SelfCheck::NoWitness);
    }
}
