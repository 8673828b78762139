//! Judges the record: which requests may fail, and whether each promise was kept.
//!
//! A request may fail only while a dead backend still counts as alive: it was under way at some moment between
//! the blow and the store that keeps new flows away. Those sent before the blow are *in flight*: whatever was
//! being served dies with its server. Those sent after it, before the store, fell into the *window*. Any other
//! failure breaks a promise.

use std::time::Duration;

use weir_tests::{Download, Shot};

use crate::record::{Drained, Record, Restarted, Strike, Sums};

/// The longest time from a blow to its store, on a machine that is busy with the demo itself.
pub(crate) const WINDOW_LIMIT: Duration = Duration::from_millis(50);
/// How long a packet that weir sent before a store may take to the witness behind the switches.
const ON_THE_WAY: Duration = Duration::from_millis(5);
/// Between the clocks of the log and of the lab.
const CLOCKS: Duration = Duration::from_micros(500);

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Answered,
    /// Under way when its backend was struck.
    InFlight,
    /// Sent before weir had stored that the backend is out.
    InWindow,
    /// Failed, and nothing allows it.
    Lost,
}

/// Tells a request's fate.
pub(crate) fn fate(shot: &Shot, strikes: &[Strike]) -> Fate {
    if !shot.failed() {
        return Fate::Answered;
    }
    let end = shot.sent + shot.took;
    let fates = strikes.iter().filter_map(|strike| {
        let closed = strike.closed()? + CLOCKS;
        match (shot.sent < strike.at, end >= strike.at, shot.sent <= closed) {
            (true, true, _) => Some(Fate::InFlight),
            (false, _, true) => Some(Fate::InWindow),
            _ => None,
        }
    });
    fates.into_iter().next().unwrap_or(Fate::Lost)
}

/// A promise and what shows that it was kept, or how it was broken.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Promise {
    pub(crate) text: String,
    pub(crate) outcome: Result<String, String>,
}

/// Every promise of the story.
pub(crate) fn promises(record: &Record, shots: &[Shot]) -> Vec<Promise> {
    let mut promises = vec![no_request_lost(record, shots)];
    for strike in &record.strikes {
        promises.push(noticed(strike));
        promises.push(silent(strike));
    }
    promises.extend(record.drained.iter().flat_map(|drained| [no_new_connection(drained), kept(drained)]));
    promises.extend(record.restarted.iter().map(|restarted| survives(restarted, shots)));
    promises.push(no_false_alarm(record));
    promises.extend(record.sums.iter().map(adds_up));
    promises
}

fn promise(text: impl Into<String>, outcome: Result<String, String>) -> Promise {
    Promise { text: text.into(), outcome }
}

fn no_request_lost(record: &Record, shots: &[Shot]) -> Promise {
    let lost: Vec<&Shot> = shots.iter().filter(|shot| fate(shot, &record.strikes) == Fate::Lost).collect();
    let outcome = match lost.first() {
        None if shots.is_empty() => Err("no request was sent".to_owned()),
        None => Ok(format!("{} sent", shots.len())),
        Some(first) => {
            let why = match &first.outcome {
                Ok((status, _)) => format!("status {status}"),
                Err(error) => error.to_string(),
            };
            Err(format!("{} failed without an excuse, the first with \"{why}\"", lost.len()))
        }
    };
    promise("no request is lost", outcome)
}

fn noticed(strike: &Strike) -> Promise {
    let outcome = match strike.closed().map(|closed| closed.saturating_sub(strike.at)) {
        None => Err("weir did not notice".to_owned()),
        Some(window) if window > WINDOW_LIMIT => {
            Err(format!("after {} ms, more than {}", ms(window), WINDOW_LIMIT.as_millis()))
        }
        Some(window) => Ok(format!("{} ms", ms(window))),
    };
    promise(format!("{} leaves within milliseconds", strike.backend), outcome)
}

fn silent(strike: &Strike) -> Promise {
    let outcome = match strike.down() {
        None => Err("it was never down".to_owned()),
        Some(down) if strike.last_packet > down.stored + ON_THE_WAY => {
            Err(format!("the last came {} ms after it", ms(strike.last_packet - down.stored)))
        }
        Some(down) => Ok(format!(
            "none in the next {:.1} s",
            (strike.watched.saturating_sub(down.stored)).as_secs_f64()
        )),
    };
    promise(format!("{} gets no packet once it is down", strike.backend), outcome)
}

fn no_new_connection(drained: &Drained) -> Promise {
    let outcome = match drained.syns_after {
        0 => Ok(format!("none in {:.1} s", (drained.watched - drained.at).as_secs_f64())),
        syns => Err(format!("{syns} connections were opened to it")),
    };
    promise(format!("{} gets no new connection while it drains", drained.backend), outcome)
}

fn kept(drained: &Drained) -> Promise {
    let outcome = match unfinished(&drained.downloads) {
        0 if drained.kept == 0 => Err("none ran on it: nothing was shown".to_owned()),
        0 => Ok(format!("{} complete, {} of them on it", drained.downloads.len(), drained.kept)),
        broken => Err(format!("{broken} of {} broke", drained.downloads.len())),
    };
    promise(format!("downloads survive the drain of {}", drained.backend), outcome)
}

fn unfinished(downloads: &[Download]) -> usize {
    downloads.iter().filter(|download| !matches!(download.end, Some(Ok(())))).count()
}

fn survives(restarted: &Restarted, shots: &[Shot]) -> Promise {
    let meanwhile = |shot: &&Shot| shot.sent >= restarted.killed && shot.sent <= restarted.ready;
    let (sent, failed) = shots
        .iter()
        .filter(meanwhile)
        .fold((0, 0), |(sent, failed), shot| (sent + 1, failed + usize::from(shot.failed())));
    let [before, after] = &restarted.programs;
    let broken = unfinished(&restarted.downloads);
    let checks = [
        (failed > 0, format!("{failed} of {sent} requests failed")),
        (sent == 0, "no request was sent meanwhile".to_owned()),
        (broken > 0, format!("{broken} downloads broke")),
        (before.is_empty() || before != after, format!("programs {before:?} became {after:?}: reattached")),
        (restarted.flows == 0, "no proven flow was there to survive".to_owned()),
        (!restarted.moved.is_empty(), format!("flows moved: {}", restarted.moved.join(", "))),
        (!restarted.fell.is_empty(), format!("counters went back: {}", restarted.fell.join(", "))),
        (restarted.admin != "draining", format!("the drained backend is {}", restarted.admin)),
    ];
    let wrong: Vec<String> = checks.into_iter().filter(|(wrong, _)| *wrong).map(|(_, text)| text).collect();
    let outcome = match wrong.is_empty() {
        true => Ok(format!("{sent} requests answered, {} flows kept", restarted.flows)),
        false => Err(wrong.join("; ")),
    };
    promise("a dead daemon costs nothing", outcome)
}

/// A suspicion that an answer clears is how milliseconds are made safe; it keeps new flows away for a moment.
fn no_false_alarm(record: &Record) -> Promise {
    let mut downs = record.alarms.iter().filter(|alarm| alarm.to == "down");
    let outcome = match (downs.next(), record.alarms.len()) {
        (Some(first), _) => Err(format!("{} was, {}", first.backend, first.reason)),
        (None, 0) => Ok("none".to_owned()),
        (None, suspicions) => Ok(format!("none ({suspicions} suspected for a moment)")),
    };
    promise("no healthy backend is taken for dead", outcome)
}

fn adds_up(sums: &Sums) -> Promise {
    let total: u64 = sums.reasons.iter().map(|(_, count)| count).sum();
    let outcome = match total == sums.seen && total > 0 {
        true => Ok(total.to_string()),
        false => Err(format!("{total} counted, {} seen by the interfaces", sums.seen)),
    };
    promise("the reasons add up to the packets seen", outcome)
}

/// Milliseconds with one digit.
pub(crate) fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use weir_tests::{HttpError, Stage};

    use super::*;
    use crate::{journal::Transition, record::Blow};

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Killed at 1000 ms, stored at 1003 ms.
    fn strike() -> Strike {
        let down = Transition {
            backend: "direct-2".into(),
            to: "down".into(),
            reason: "refused".into(),
            decided: at(1002),
            stored: at(1003),
        };
        Strike {
            blow: Blow::Kill,
            backend: "direct-2".into(),
            at: at(1000),
            transitions: vec![down],
            last_syn: at(1002),
            last_packet: at(1003),
            watched: at(5000),
            back_after: None,
        }
    }

    fn failed(sent: u64, end: u64) -> Shot {
        let error = HttpError { stage: Stage::Receive, kind: std::io::ErrorKind::ConnectionReset };
        Shot { sent: at(sent), took: at(end - sent), outcome: Err(error) }
    }

    #[test]
    fn only_failures_around_the_blow_are_excused() {
        let cases = [
            (failed(990, 1001), Fate::InFlight),
            (failed(1001, 1002), Fate::InWindow),
            (failed(1002, 3000), Fate::InWindow),
            (failed(900, 999), Fate::Lost),
            (failed(1004, 1005), Fate::Lost),
        ];
        for (shot, expected) in cases {
            assert_eq!(fate(&shot, &[strike()]), expected, "{shot:?}");
        }
    }

    #[test]
    fn an_unnoticed_blow_excuses_nothing() {
        let strike = Strike { transitions: vec![], ..strike() };
        assert_eq!(fate(&failed(1001, 1002), std::slice::from_ref(&strike)), Fate::Lost);
        assert!(noticed(&strike).outcome.is_err());
        assert!(silent(&strike).outcome.is_err());
    }

    #[test]
    fn a_slow_store_and_a_late_packet_break_promises() {
        assert!(noticed(&strike()).outcome.is_ok() && silent(&strike()).outcome.is_ok());
        let mut slow = strike();
        slow.transitions[0].stored = at(1200);
        assert!(noticed(&slow).outcome.is_err());
        assert!(silent(&Strike { last_packet: at(1100), ..strike() }).outcome.is_err());
    }

    #[test]
    fn a_drain_breaks_its_promises_by_a_connection_or_a_download() {
        let done = Download { end: Some(Ok(())), ..Download::default() };
        let good = Drained {
            backend: "routed-2".into(),
            at: at(0),
            syns_after: 0,
            downloads: vec![done.clone()],
            kept: 1,
            watched: at(1),
        };
        assert!(no_new_connection(&good).outcome.is_ok() && kept(&good).outcome.is_ok());
        assert!(no_new_connection(&Drained { syns_after: 1, ..good.clone() }).outcome.is_err());
        assert!(
            kept(&Drained { downloads: vec![done, Download::default()], ..good.clone() }).outcome.is_err()
        );
        assert!(kept(&Drained { kept: 0, ..good }).outcome.is_err());
    }

    #[test]
    fn reasons_that_do_not_add_up_break_a_promise() {
        let sums = |seen| Sums { reasons: vec![("flow_known".into(), 3), ("not_vip".into(), 2)], seen };
        assert!(adds_up(&sums(5)).outcome.is_ok());
        assert!(adds_up(&sums(6)).outcome.is_err());
    }
}
