//! What happened: lists of events, and the state at a time.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::table::{Align, Cell, Table, Tone};
use super::{Api, Render, duration};
use crate::events::Event;
use crate::events::state::State;

/// The document of `weir events`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Events {
    /// Version mark.
    pub api: Api,
    /// In the order in which they were recorded.
    pub events: Vec<Event>,
    /// The number of the latest event recorded, also of one that was filtered out.
    #[serde(default)]
    pub latest: u64,
    /// Lines of the files that could not be read.
    #[serde(default)]
    pub unreadable: u64,
}

/// The document of `weir events --at`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateAt {
    /// Version mark.
    pub api: Api,
    /// The time asked for.
    pub at: Timestamp,
    /// As it was then.
    #[serde(flatten)]
    pub state: State,
}

impl Events {
    /// One event as one line, for those who follow.
    #[must_use]
    pub fn line(event: &Event) -> String {
        let [time, kind, subject, change, after, reason] = cells(event);
        let change = tone(event).paint(&clean(&change));
        let parts = [time, kind, subject, change, after, clean(&reason)];
        let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        format!("{}\n", parts.join("  "))
    }
}

fn clean(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// Time, kind, subject, change, delays, reason.
fn cells(event: &Event) -> [String; 6] {
    let took = |us: u64| match us {
        1_000..10_000 => format!("{:.1}ms", us as f64 / 1e3),
        _ => duration(std::time::Duration::from_micros(us)),
    };
    let after = match (event.detected_after_us, event.applied_after_us) {
        (Some(detected), Some(applied)) => format!("{} + {}", took(detected), took(applied)),
        (Some(one), None) | (None, Some(one)) => took(one),
        (None, None) => String::new(),
    };
    let by = event.by.as_ref().map(|by| format!("by {by}"));
    let reason = Some(event.reason.clone()).filter(|reason| !reason.is_empty());
    let reason: Vec<String> = by.into_iter().chain(reason).collect();
    [
        format!("{:.3}", event.time),
        event.kind.name().to_owned(),
        clean(&event.subject()),
        event.change(),
        after,
        reason.join(": "),
    ]
}

fn tone(event: &Event) -> Tone {
    match event.to.as_deref() {
        Some("down" | "refused" | "aborted" | "detached" | "frozen") => Tone::Bad,
        Some("suspect" | "trial" | "draining" | "maintenance" | "resetting") => Tone::Notice,
        Some("up" | "attached") => Tone::Good,
        _ => Tone::Plain,
    }
}

impl Render for Events {
    fn render(&self, _now: Timestamp) -> String {
        if self.events.is_empty() {
            return "no events\n".to_owned();
        }
        let mut table = Table::new(&[
            ("TIME", Align::Left),
            ("KIND", Align::Left),
            ("WHAT", Align::Left),
            ("CHANGE", Align::Left),
            ("AFTER", Align::Right),
            ("REASON", Align::Left),
        ]);
        for event in &self.events {
            let [time, kind, subject, change, after, reason] = cells(event);
            table.row([
                Cell::toned(time, Tone::Faint),
                kind.into(),
                subject.into(),
                Cell::toned(change, tone(event)),
                after.into(),
                reason.into(),
            ]);
        }
        table.render()
    }
}

impl Render for StateAt {
    fn render(&self, _now: Timestamp) -> String {
        let mut text = format!("state at {:.3}\n", self.at);
        if let Some(why) = &self.state.frozen {
            text.push_str(&format!("frozen      {}\n", clean(why)));
        }
        let interfaces: Vec<String> = self
            .state
            .interfaces
            .iter()
            .map(|(name, mode)| if mode.is_empty() { name.clone() } else { format!("{name} ({mode})") })
            .collect();
        text.push_str(&format!("interfaces  {}\n", clean(&interfaces.join(", "))));
        for (name, pool) in &self.state.pools {
            let tier = pool.active_tier.map_or("none".to_owned(), |tier| tier.to_string());
            let rollout = pool.rollout.as_ref().map(|rollout| format!(", rollout {rollout}"));
            text.push_str(&format!(
                "pool {name}: active tier {tier}{}\n",
                clean(&rollout.unwrap_or_default())
            ));
        }
        let mut table = Table::new(&[
            ("BACKEND", Align::Left),
            ("STATE", Align::Left),
            ("SINCE", Align::Left),
            ("WEIGHT", Align::Right),
            ("WHY", Align::Left),
        ]);
        let backends =
            self.state.pools.iter().flat_map(|(pool, of)| of.backends.iter().map(move |b| (pool, b)));
        for (pool, (name, backend)) in backends {
            let state = match backend.admin.as_str() {
                "active" => backend.health.clone(),
                admin => format!("{admin}, {}", backend.health),
            };
            table.row([
                format!("{pool}/{name}").into(),
                state.into(),
                Cell::toned(format!("{:.3}", backend.since), Tone::Faint),
                backend.weight.to_string().into(),
                backend.why.as_str().into(),
            ]);
        }
        text.push('\n');
        text.push_str(&table.render());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Kind;

    fn events() -> Vec<Event> {
        let time = Timestamp::constant(1_795_000_000, 123_456_789);
        let down = Event::new(Kind::Health, time).of_backend("web", "web-1").was("up").is("down");
        let down = down.because("syn 10.0.0.11:80: connection refused (2 in a row)");
        let drained = Event::new(Kind::Admin, time).of_backend("web", "web-2").was("active").is("draining");
        vec![
            Event { detected_after_us: Some(5_100), applied_after_us: Some(7), ..down },
            drained.asked_by("alice as root").because("kernel\x1b update"),
            Event::new(Kind::Reload, time).is("applied"),
        ]
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn events_are_a_table_for_people() {
        let table = Events { events: events(), ..Events::default() }.render(Timestamp::now());
        insta::assert_snapshot!(plain(&table), @r"
        TIME                      KIND    WHAT       CHANGE                   AFTER  REASON
        2026-11-18T11:06:40.123Z  health  web/web-1  up → down          5.1ms + 7us  syn 10.0.0.11:80: connection refused (2 in a row)
        2026-11-18T11:06:40.123Z  admin   web/web-2  active → draining               by alice as root: kernel� update
        2026-11-18T11:06:40.123Z  reload             applied
        ");
    }

    #[test]
    fn a_followed_event_is_one_line() {
        let lines: String = events().iter().map(Events::line).collect();
        insta::assert_snapshot!(plain(&lines), @r"
        2026-11-18T11:06:40.123Z  health  web/web-1  up → down  5.1ms + 7us  syn 10.0.0.11:80: connection refused (2 in a row)
        2026-11-18T11:06:40.123Z  admin  web/web-2  active → draining  by alice as root: kernel� update
        2026-11-18T11:06:40.123Z  reload  applied
        ");
        assert_eq!(lines.lines().count(), 3);
    }
}
