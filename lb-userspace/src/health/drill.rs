//! Rehearsed failures: what happens to the results of a backend's probes while one lasts.
//!
//! The failure is of weir's own seeing: probes go out, answers come back, and what is told of them is replaced. It
//! lives in the memory of the probe thread alone and ends by itself.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::model::CheckKind;
use crate::view::parse_duration;

/// How a backend is made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Fail {
    /// Its server has ended: answers become refusals; pings and BFD, which its host answers, pass.
    Crash,
    /// Its host is gone: no answer arrives.
    Silence,
    /// Its answers come this much later; by default twice the check's timeout.
    Slow(Option<Duration>),
    /// So many of a hundred answers are lost.
    Loss(u8),
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::health) enum Fate {
    /// It counts.
    Passes,
    /// It is a refusal.
    Refused,
    /// It counts later.
    Late(Duration),
    /// It never came.
    Lost,
}

impl Fail {
    /// What becomes of an answer to a check of this kind and timeout; `draw` is uniform.
    pub(in crate::health) fn fate(self, kind: &CheckKind, timeout: Duration, draw: u64) -> Fate {
        // These report their own timeouts.
        let lost = match kind {
            CheckKind::Http(_) | CheckKind::Https(..) | CheckKind::Exec(_) => Fate::Late(timeout),
            _ => Fate::Lost,
        };
        match self {
            Self::Crash if matches!(kind, CheckKind::Ping | CheckKind::Bfd) => Fate::Passes,
            Self::Crash => Fate::Refused,
            Self::Silence => lost,
            Self::Slow(by) => Fate::Late(by.unwrap_or(timeout * 2)),
            Self::Loss(percent) if draw % 100 < u64::from(percent) => lost,
            Self::Loss(_) => Fate::Passes,
        }
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash => f.write_str("crash"),
            Self::Silence => f.write_str("silence"),
            Self::Slow(None) => f.write_str("slow"),
            Self::Slow(Some(by)) => write!(f, "slow={}ms", by.as_millis()),
            Self::Loss(percent) => write!(f, "loss={percent}%"),
        }
    }
}

impl FromStr for Fail {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let loss = |text: &str| {
            let percent =
                text.trim_end_matches('%').parse().ok().filter(|percent| (1..=100).contains(percent));
            percent.map(Self::Loss).ok_or_else(|| format!("`loss={text}`: allowed are 1% to 100%"))
        };
        match text.split_once('=') {
            None if text == "crash" => Ok(Self::Crash),
            None if text == "silence" => Ok(Self::Silence),
            None if text == "slow" => Ok(Self::Slow(None)),
            Some(("slow", by)) => parse_duration(by).map(|by| Self::Slow(Some(by))),
            Some(("loss", percent)) => loss(percent),
            _ => Err(format!("`{text}`: expected crash, silence, slow, slow=200ms or loss=30%")),
        }
    }
}

impl TryFrom<String> for Fail {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Fail> for String {
    fn from(fail: Fail) -> Self {
        fail.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::ExecCheck;

    #[test]
    fn failures_are_read_and_written_alike() {
        for text in ["crash", "silence", "slow", "slow=200ms", "loss=30%"] {
            assert_eq!(text.parse::<Fail>().expect("reads").to_string(), text);
        }
        for text in ["", "fire", "slow=", "slow=fast", "loss", "loss=0%", "loss=101%", "loss=-1", "crash=1"] {
            assert!(text.parse::<Fail>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_crash_refuses_what_a_server_answers_and_leaves_pings() {
        let timeout = Duration::from_millis(100);
        assert_eq!(Fail::Crash.fate(&CheckKind::Tcp, timeout, 0), Fate::Refused);
        assert_eq!(Fail::Crash.fate(&CheckKind::Ping, timeout, 0), Fate::Passes);
        assert_eq!(Fail::Crash.fate(&CheckKind::Bfd, timeout, 0), Fate::Passes);
        assert_eq!(Fail::Silence.fate(&CheckKind::Ping, timeout, 0), Fate::Lost);
        let reporting = CheckKind::Exec(ExecCheck::default());
        assert_eq!(
            Fail::Silence.fate(&reporting, timeout, 0),
            Fate::Late(timeout),
            "its prober reports the timeout"
        );
        assert_eq!(Fail::Slow(None).fate(&CheckKind::Tcp, timeout, 0), Fate::Late(timeout * 2));
        let lost =
            (0..1000).filter(|draw| Fail::Loss(30).fate(&CheckKind::Syn, timeout, *draw) == Fate::Lost);
        assert_eq!(lost.count(), 300);
    }
}
