//! What is printed in the end: timelines, a table of requests, the promises.

use std::{fmt::Write as _, time::Duration};

use weir_tests::Shot;

use crate::{
    record::{Blow, Drained, Record, Restarted, Strike},
    verdict::{self, Fate, Promise, ms},
};

/// How many lost requests are told one by one.
const LOST_LINES: usize = 20;

/// The whole report, without the promises.
pub(crate) fn text(record: &Record, shots: &[Shot]) -> String {
    let mut text = String::new();
    for strike in &record.strikes {
        text += &struck(strike, shots);
    }
    if let Some(drained) = &record.drained {
        text += &drain(drained);
    }
    if let Some(restarted) = &record.restarted {
        text += &restart(restarted, shots);
    }
    text + &table(record, shots) + &lost(record, shots)
}

/// When requests were lost, and next to what.
fn lost(record: &Record, shots: &[Shot]) -> String {
    let Some(begin) = record.spans.first().map(|span| span.begin) else { return String::new() };
    let since = |at: Duration| at.saturating_sub(begin).as_secs_f64();
    let mut text = String::new();
    let lost = shots.iter().filter(|shot| verdict::fate(shot, &record.strikes) == Fate::Lost);
    for shot in lost.take(LOST_LINES) {
        let (at, took) = (since(shot.sent), ms(shot.took));
        let _ = writeln!(text, "lost: sent at {at:.4} s, failed after {took} ms: {:?}", shot.outcome);
    }
    if text.is_empty() {
        return text;
    }
    for alarm in &record.alarms {
        let at = since(alarm.stored);
        let _ = writeln!(text, "alarm: {} {} stored at {at:.4} s: {}", alarm.backend, alarm.to, alarm.reason);
    }
    text
}

fn struck(strike: &Strike, shots: &[Shot]) -> String {
    let (title, blow) = match strike.blow {
        Blow::Kill => ("KILL", "SIGKILL to every process"),
        Blow::Freeze => ("FREEZE", "its switch port passes no frame any more"),
    };
    let mut lines = vec![(strike.at, blow.to_owned())];
    for transition in &strike.transitions {
        lines.push((transition.decided, format!("weir: {}, {}", transition.to, transition.reason)));
        lines.push((transition.stored, format!("slot stored: {}", transition.to)));
    }
    // A backend that had nothing to do when it was struck has none.
    if strike.last_syn >= strike.at {
        lines.push((strike.last_syn, "last new connection sent to it".to_owned()));
    }
    let watched = strike.watched.saturating_sub(strike.last_packet).as_secs_f64();
    lines.push((strike.last_packet, format!("last packet sent to it; none in the next {watched:.1} s")));
    lines.sort_by_key(|(at, _)| *at);
    let mut text = format!("{title} {}\n", strike.backend);
    for (at, line) in lines {
        let _ = writeln!(text, "  {:>7} ms  {line}", signed(at, strike.at));
    }
    if let Some(back) = strike.back_after {
        let _ = writeln!(text, "  once it was brought back, weir used it after {} ms", back.as_millis());
    }
    let count = |fate| {
        let own = std::slice::from_ref(strike);
        shots.iter().filter(|shot| verdict::fate(shot, own) == fate && shot.failed()).count()
    };
    let _ = writeln!(
        text,
        "  requests: {} cut in flight, {} refused or cut in the window\n",
        count(Fate::InFlight),
        count(Fate::InWindow)
    );
    text
}

/// Milliseconds from one moment to another, also backwards.
fn signed(at: Duration, from: Duration) -> String {
    match at.checked_sub(from) {
        Some(after) => format!("+{}", ms(after)),
        None => format!("-{}", ms(from - at)),
    }
}

fn drain(drained: &Drained) -> String {
    let complete = drained.downloads.iter().filter(|one| matches!(one.end, Some(Ok(())))).count();
    format!(
        "DRAIN {}\n  {} downloads running, {} of them on it\n  {} new connections to it in {:.1} s\n  {complete} of {} \
         downloads complete\n\n",
        drained.backend,
        drained.downloads.len(),
        drained.kept,
        drained.syns_after,
        (drained.watched - drained.at).as_secs_f64(),
        drained.downloads.len(),
    )
}

fn restart(restarted: &Restarted, shots: &[Shot]) -> String {
    let without =
        shots.iter().filter(|shot| shot.sent >= restarted.killed && shot.sent < restarted.ready).count();
    let since = |at: Duration| format!("+{:.2}", (at.saturating_sub(restarted.killed)).as_secs_f64());
    format!(
        "RESTART of the daemon\n  {:>9} s   SIGKILL to the daemon\n  {:>9} s   started again\n  {:>9} s   ready; \
         {without} requests were sent meanwhile\n  program ids before {:?}, after {:?}\n  {} proven flows before, {} lost or moved\n\n",
        since(restarted.killed),
        since(restarted.started),
        since(restarted.ready),
        restarted.programs[0],
        restarted.programs[1],
        restarted.flows,
        restarted.moved.len(),
    )
}

fn table(record: &Record, shots: &[Shot]) -> String {
    let mut text = format!(
        "{:<8} {:>9} {:>9} {:>10} {:>10} {:>7} {:>9} {:>10}\n",
        "PHASE", "SENT", "ANSWERED", "IN FLIGHT", "IN WINDOW", "LOST", "MEDIAN", "SLOWEST"
    );
    let mut row = |name: &str, shots: &[&Shot]| {
        let count = |fate| shots.iter().filter(|shot| verdict::fate(shot, &record.strikes) == fate).count();
        let mut times: Vec<Duration> =
            shots.iter().filter(|shot| !shot.failed()).map(|shot| shot.took).collect();
        times.sort();
        let time = |at: usize| times.get(at).map_or("-".to_owned(), |time| format!("{} ms", ms(*time)));
        let _ = writeln!(
            text,
            "{name:<8} {:>9} {:>9} {:>10} {:>10} {:>7} {:>9} {:>10}",
            shots.len(),
            count(Fate::Answered),
            count(Fate::InFlight),
            count(Fate::InWindow),
            count(Fate::Lost),
            time(times.len() / 2),
            time(times.len().saturating_sub(1)),
        );
    };
    for (index, span) in record.spans.iter().enumerate() {
        let first = index == 0;
        let last = index + 1 == record.spans.len();
        let within = |shot: &&Shot| {
            (first || shot.sent >= span.begin) && (last || shot.sent < record.spans[index + 1].begin)
        };
        row(span.act.name(), &shots.iter().filter(within).collect::<Vec<_>>());
    }
    row("all", &shots.iter().collect::<Vec<_>>());
    text.push_str("\nin flight: sent before the blow and cut by it. in window: sent after it, before the\n");
    text.push_str("store that takes the backend out. lost: any other failure.\n");
    text
}

/// The promises, one a line.
pub(crate) fn promises(promises: &[Promise]) -> String {
    let line = |promise: &Promise| match &promise.outcome {
        Ok(detail) => format!("  kept    {}: {detail}\n", promise.text),
        Err(detail) => format!("  BROKEN  {}: {detail}\n", promise.text),
    };
    promises.iter().map(line).collect()
}
