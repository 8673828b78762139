//! Conditions that a rollout's canaries must meet: `handshake_ratio>=0.99,probe_p99_ms<50`.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is measured of the canaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Share of their new TCP flows whose handshake was completed, or, where answers pass weir, that they answered.
    HandshakeRatio,
    /// Time within which 99 of 100 of their probes were answered in the last minute, in milliseconds.
    ProbeP99Ms,
    /// Share of them that is up.
    UpRatio,
}

/// The metrics by name.
const METRICS: [(&str, Metric); 3] = [
    ("handshake_ratio", Metric::HandshakeRatio),
    ("probe_p99_ms", Metric::ProbeP99Ms),
    ("up_ratio", Metric::UpRatio),
];

/// How a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    AtMost,
    More,
    AtLeast,
}

/// The comparisons as written; longer ones first, so that they are found first.
const COMPARISONS: [(&str, Comparison); 4] = [
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("<", Comparison::Less),
    (">", Comparison::More),
];

/// One condition.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Guard {
    /// What is measured.
    pub metric: Metric,
    comparison: Comparison,
    bound: f64,
}

/// What is known of the canaries; `None` is too little to say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measures {
    /// See [`Metric::HandshakeRatio`].
    pub handshake_ratio: Option<f64>,
    /// See [`Metric::ProbeP99Ms`].
    pub probe_p99_ms: Option<f64>,
    /// See [`Metric::UpRatio`].
    pub up_ratio: Option<f64>,
}

/// What a condition says of measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is met.
    Holds,
    /// It is not.
    Fails,
    /// Too little is known.
    Unknown,
}

impl Guard {
    /// The condition of a rollout that names none: every canary is up.
    pub const ALL_UP: Self = Self { metric: Metric::UpRatio, comparison: Comparison::AtLeast, bound: 1.0 };

    /// Reads conditions separated by commas.
    ///
    /// # Errors
    /// What is wrong, and what is allowed.
    pub fn list(text: &str) -> Result<Vec<Self>, String> {
        text.split(',').map(|one| one.trim().parse()).collect()
    }

    /// The value that it looks at.
    #[must_use]
    pub fn value(&self, measures: &Measures) -> Option<f64> {
        match self.metric {
            Metric::HandshakeRatio => measures.handshake_ratio,
            Metric::ProbeP99Ms => measures.probe_p99_ms,
            Metric::UpRatio => measures.up_ratio,
        }
    }

    /// Judges.
    #[must_use]
    pub fn judge(&self, measures: &Measures) -> Verdict {
        let Some(value) = self.value(measures) else { return Verdict::Unknown };
        let holds = match self.comparison {
            Comparison::Less => value < self.bound,
            Comparison::AtMost => value <= self.bound,
            Comparison::More => value > self.bound,
            Comparison::AtLeast => value >= self.bound,
        };
        if holds { Verdict::Holds } else { Verdict::Fails }
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metric = METRICS.iter().find(|(_, metric)| *metric == self.metric).map_or("", |(name, _)| name);
        let sign = COMPARISONS.iter().find(|(_, sign)| *sign == self.comparison).map_or("", |(name, _)| name);
        write!(f, "{metric}{sign}{}", self.bound)
    }
}

impl FromStr for Guard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("guard `{text}`: {what}");
        let found = COMPARISONS.iter().find_map(|(sign, comparison)| {
            let (metric, bound) = text.split_once(sign)?;
            Some((metric.trim(), *comparison, bound.trim()))
        });
        let Some((metric, comparison, bound)) = found else {
            return Err(wrong("expected a metric, one of < <= > >=, and a number, as in probe_p99_ms<50"));
        };
        let Some((_, metric)) = METRICS.iter().find(|(name, _)| *name == metric) else {
            let known: Vec<&str> = METRICS.iter().map(|(name, _)| *name).collect();
            return Err(wrong(&format!("unknown metric `{metric}`; known: {}", known.join(", "))));
        };
        let bound = bound.parse().ok().filter(|bound: &f64| bound.is_finite() && *bound >= 0.0);
        let bound = bound.ok_or_else(|| wrong("expected a number that is not negative"))?;
        Ok(Self { metric: *metric, comparison, bound })
    }
}

impl TryFrom<String> for Guard {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Guard> for String {
    fn from(guard: Guard) -> Self {
        guard.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_are_read_and_written_alike() {
        let guards = Guard::list("handshake_ratio>=0.99, probe_p99_ms<50,up_ratio > 0.5").expect("reads");
        let written: Vec<String> = guards.iter().map(ToString::to_string).collect();
        assert_eq!(written, ["handshake_ratio>=0.99", "probe_p99_ms<50", "up_ratio>0.5"]);
        let json = serde_json::to_string(&guards).expect("serialises");
        assert_eq!(serde_json::from_str::<Vec<Guard>>(&json).expect("reads"), guards);
    }

    #[test]
    fn what_is_no_guard_is_refused() {
        for (text, what) in [
            ("", "expected a metric"),
            ("probe_p99_ms", "expected a metric"),
            ("latency<5", "unknown metric `latency`; known: handshake_ratio, probe_p99_ms, up_ratio"),
            ("probe_p99_ms<fast", "expected a number"),
            ("probe_p99_ms<-1", "expected a number"),
            ("probe_p99_ms<inf", "expected a number"),
            ("up_ratio>=1,", "expected a metric"),
        ] {
            let error = Guard::list(text).expect_err(text);
            assert!(error.contains(what), "{text}: {error}");
        }
    }

    #[test]
    fn guards_judge_what_is_known_and_nothing_else() {
        let measures = Measures { handshake_ratio: Some(0.98), probe_p99_ms: None, up_ratio: Some(1.0) };
        for (text, verdict) in [
            ("handshake_ratio>=0.99", Verdict::Fails),
            ("handshake_ratio>=0.98", Verdict::Holds),
            ("handshake_ratio>0.98", Verdict::Fails),
            ("handshake_ratio<0.98", Verdict::Fails),
            ("handshake_ratio<=0.98", Verdict::Holds),
            ("probe_p99_ms<50", Verdict::Unknown),
            ("up_ratio>=1", Verdict::Holds),
        ] {
            assert_eq!(text.parse::<Guard>().expect("reads").judge(&measures), verdict, "{text}");
        }
        assert_eq!(Guard::ALL_UP.to_string(), "up_ratio>=1");
    }
}
