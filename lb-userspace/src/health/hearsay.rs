//! What others than its checks say of a backend: ICMP errors about packets to it, and a neighbour that does not resolve.
//!
//! None of it is proof. Anybody can forge an ICMP error, routers send them in passing trouble, and the kernel's view of a
//! neighbour is seconds old. So a complaint raises doubt and has the backend probed at once; the answer to a probe that
//! left later refutes it, and what was refuted is not heard for a while: forged errors cannot keep a backend suspect.
//! What only tunnelled packets meet (nobody takes the protocol, a filter rejects it) only a probe through the tunnel
//! can refute; without such a check the doubt lasts as long as the errors.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::time::Moment;
use crate::config::model::Through;

/// How long a complaint counts after the last of its kind: hosts send about one a second.
const COUNTS_FOR: Duration = Duration::from_secs(10);
/// How long complaints are not heard after one was refuted.
const DEAF_FOR: Duration = Duration::from_secs(10);

/// Why a packet did not arrive, as an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A router has no way.
    Network,
    /// The host does not answer its router.
    Host,
    /// Nobody takes the tunnel's protocol there.
    Protocol,
    /// Nobody takes the tunnel's port there.
    Port,
    /// A filter on the way.
    Prohibited,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "network unreachable",
            Self::Host => "host unreachable",
            Self::Protocol => "protocol unreachable",
            Self::Port => "port unreachable",
            Self::Prohibited => "prohibited",
        })
    }
}

/// What is said of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// An ICMP error about a tunnelled packet to it.
    Icmp {
        /// Who sent it.
        from: IpAddr,
        /// What it says.
        cause: Cause,
    },
    /// The kernel asks in vain for the neighbour that packets to it go to.
    Neighbour(IpAddr),
}

/// Which probes can refute a complaint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Judge {
    /// All that reach the backend's host.
    AnyProbe,
    /// Those that take the way of the packets in question.
    TunnelProbe,
}

impl Complaint {
    fn judge(self) -> Judge {
        match self {
            Self::Neighbour(_) | Self::Icmp { cause: Cause::Network | Cause::Host, .. } => Judge::AnyProbe,
            Self::Icmp { cause: Cause::Protocol | Cause::Port | Cause::Prohibited, .. } => Judge::TunnelProbe,
        }
    }

    /// The complaint about `about`, in words.
    fn text(self, about: IpAddr) -> String {
        match self {
            Self::Icmp { from, cause } if from == about => {
                format!("icmp: tunnelled packets: {cause}, says the backend itself")
            }
            Self::Icmp { from, cause } => format!("icmp: tunnelled packets: {cause}, says {from}"),
            Self::Neighbour(neighbour) if neighbour == about => "it does not answer ARP or ND".to_owned(),
            Self::Neighbour(neighbour) => format!("its router {neighbour} does not answer ARP or ND"),
        }
    }
}

/// Whether a complaint counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Counts,
    Refuted,
}

/// The last complaint of a kind.
#[derive(Clone, Copy, Debug)]
struct Told {
    complaint: Complaint,
    standing: Standing,
    since: Moment,
    until: Moment,
}

/// Whether what is said of a backend differs from before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turned {
    No,
    Yes,
}

/// What is said of all backends.
#[derive(Debug, Default)]
pub(super) struct Hearsay {
    told: HashMap<(IpAddr, Judge), Told>,
}

impl Hearsay {
    /// Whether nothing is said of anybody.
    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// Takes a complaint.
    pub(super) fn take(&mut self, about: IpAddr, complaint: Complaint, now: Moment) -> Turned {
        let key = (about, complaint.judge());
        match self.told.get_mut(&key) {
            Some(Told { standing: Standing::Refuted, until, .. }) if *until > now => Turned::No,
            Some(told) if told.standing == Standing::Counts => {
                (told.complaint, told.until) = (complaint, now + COUNTS_FOR);
                Turned::No
            }
            _ => {
                let (standing, until) = (Standing::Counts, now + COUNTS_FOR);
                self.told.insert(key, Told { complaint, standing, since: now, until });
                Turned::Yes
            }
        }
    }

    /// Takes the answer to a probe that left at `sent_at`.
    pub(super) fn answered(
        &mut self,
        about: IpAddr,
        through: Through,
        sent_at: Moment,
        now: Moment,
    ) -> Turned {
        let judges: &[Judge] = match through {
            Through::Direct => &[Judge::AnyProbe],
            Through::Tunnel => &[Judge::AnyProbe, Judge::TunnelProbe],
        };
        let mut turned = Turned::No;
        for judge in judges {
            if let Some(told) = self.told.get_mut(&(about, *judge))
                && told.standing == Standing::Counts
                && sent_at > told.since
            {
                (told.standing, told.until, turned) = (Standing::Refuted, now + DEAF_FOR, Turned::Yes);
            }
        }
        turned
    }

    /// What counts against a backend, in words, and since when.
    pub(super) fn doubt(&self, about: IpAddr) -> Option<(String, Moment)> {
        let of = |judge| self.told.get(&(about, judge)).filter(|told| told.standing == Standing::Counts);
        let told = of(Judge::AnyProbe).or_else(|| of(Judge::TunnelProbe))?;
        Some((told.complaint.text(about), told.since))
    }

    /// When [`Hearsay::expire`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Moment> {
        self.told.values().map(|told| told.until).min()
    }

    /// Forgets what counts no longer; returns whom it was about.
    pub(super) fn expire(&mut self, now: Moment) -> Vec<IpAddr> {
        let over = |told: &Told| told.until <= now;
        let doubted = self.told.iter().filter(|(_, told)| over(told) && told.standing == Standing::Counts);
        let about = doubted.map(|((about, _), _)| *about).collect();
        self.told.retain(|_, told| !over(told));
        about
    }

    /// Forgets all but what is about these.
    pub(super) fn retain(&mut self, keep: impl Fn(IpAddr) -> bool) {
        self.told.retain(|(about, _), _| keep(*about));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKEND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const ROUTER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 254));

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000_000)
    }

    fn icmp(from: IpAddr, cause: Cause) -> Complaint {
        Complaint::Icmp { from, cause }
    }

    #[test]
    fn a_complaint_counts_until_a_later_probe_is_answered_and_is_then_not_heard_for_a_while() {
        let mut all = Hearsay::default();
        assert_eq!(all.take(BACKEND, icmp(ROUTER, Cause::Host), at(10)), Turned::Yes);
        assert_eq!(all.take(BACKEND, icmp(ROUTER, Cause::Host), at(11)), Turned::No);
        let (text, since) = all.doubt(BACKEND).expect("a doubt");
        assert_eq!(text, "icmp: tunnelled packets: host unreachable, says 10.0.0.254");
        assert_eq!(since, at(10));
        // A probe that left before says nothing.
        assert_eq!(all.answered(BACKEND, Through::Direct, at(10), at(12)), Turned::No);
        assert_eq!(all.answered(BACKEND, Through::Direct, at(12), at(13)), Turned::Yes);
        assert_eq!(all.doubt(BACKEND), None);
        for second in 14..23 {
            assert_eq!(all.take(BACKEND, icmp(ROUTER, Cause::Network), at(second)), Turned::No);
        }
        assert_eq!((all.doubt(BACKEND), all.expire(at(23))), (None, vec![]));
        assert_eq!(all.take(BACKEND, icmp(ROUTER, Cause::Host), at(24)), Turned::Yes);
    }

    #[test]
    fn what_only_tunnelled_packets_meet_only_a_probe_through_the_tunnel_refutes() {
        for cause in [Cause::Protocol, Cause::Port, Cause::Prohibited] {
            let mut all = Hearsay::default();
            all.take(BACKEND, icmp(BACKEND, cause), at(1));
            assert_eq!(all.answered(BACKEND, Through::Direct, at(2), at(2)), Turned::No);
            let (text, _) = all.doubt(BACKEND).expect("a doubt");
            assert_eq!(text, format!("icmp: tunnelled packets: {cause}, says the backend itself"));
            assert_eq!(all.answered(BACKEND, Through::Tunnel, at(2), at(3)), Turned::Yes);
            assert_eq!(all.doubt(BACKEND), None);
        }
    }

    #[test]
    fn complaints_count_for_ten_seconds_after_the_last() {
        let mut all = Hearsay::default();
        all.take(BACKEND, icmp(BACKEND, Cause::Protocol), at(1));
        all.take(BACKEND, icmp(BACKEND, Cause::Protocol), at(5));
        assert_eq!(all.next_deadline(), Some(at(15)));
        assert_eq!(all.expire(at(14)), Vec::<IpAddr>::new());
        assert_eq!(all.expire(at(15)), [BACKEND]);
        assert_eq!((all.doubt(BACKEND), all.next_deadline(), all.is_empty()), (None, None, true));
    }

    #[test]
    fn neighbours_are_named_where_they_are_routers() {
        let mut all = Hearsay::default();
        all.take(BACKEND, Complaint::Neighbour(BACKEND), at(1));
        assert_eq!(all.doubt(BACKEND).expect("a doubt").0, "it does not answer ARP or ND");
        all.take(BACKEND, Complaint::Neighbour(ROUTER), at(1));
        assert_eq!(all.doubt(BACKEND).expect("a doubt").0, "its router 10.0.0.254 does not answer ARP or ND");
        all.retain(|about| about != BACKEND);
        assert!(all.is_empty());
    }
}
