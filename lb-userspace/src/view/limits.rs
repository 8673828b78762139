//! `weir limits`: what limits of new flows refuse, and whom.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use lb_common::layout::Charged;
use serde::{Deserialize, Serialize};

use super::deny::From;
use super::table::{Align, Table};
use super::{Api, Render, duration, number};
use crate::config::model::Config;
use crate::maps::counters::{CounterMaps, LimitedSource};
use crate::maps::set::MapSet;
use crate::state::limited::Limited;

/// Sources that were not refused for so long are not listed.
const RECENT: Duration = Duration::from_secs(600);

/// A limited service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitRow {
    /// Name of the service.
    pub service: String,
    /// As configured; null is no limit.
    pub per_source: Option<String>,
    /// Leading bits that make a source.
    pub prefix_v4: u8,
    /// Leading bits that make a source.
    pub prefix_v6: u8,
    /// As configured; null is no limit.
    pub total: Option<String>,
    /// New flows that were let in.
    pub allowed: u64,
    /// Packets refused for their source.
    pub source_limited: u64,
    /// Packets refused for the service.
    pub total_limited: u64,
    /// Where the limit comes from.
    pub from: From,
    /// Who set it; nobody for the config.
    pub by: Option<String>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Until when.
    pub until: Option<Timestamp>,
    /// Why.
    pub reason: String,
}

/// A source that was refused lately.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRow {
    /// Its prefix.
    pub source: String,
    /// Name of the service.
    pub service: String,
    /// Packets that were refused, about: where records meet, the smaller gives way.
    pub packets: u64,
    /// Milliseconds since the last one.
    pub last_ms: u64,
}

/// Limits, and the sources that reach them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Version mark.
    pub api: Api,
    /// What a request did, one sentence each.
    #[serde(default)]
    pub effects: Vec<String>,
    /// Limited services, and those whose limit was lifted at run time.
    pub limits: Vec<LimitRow>,
    /// Sources that were refused in the last ten minutes, most packets first.
    pub sources: Vec<SourceRow>,
}

impl Limits {
    /// What config, runtime changes and maps tell at a time of the data plane's clock, and of the world's.
    #[must_use]
    pub fn new(
        config: &Config,
        limited: &Limited,
        maps: &MapSet,
        counters: &CounterMaps,
        (now_ns, now): (u64, Timestamp),
    ) -> Self {
        let ids: BTreeMap<&str, u32> = maps
            .service_info
            .iter()
            .enumerate()
            .map(|(id, info)| (info.name.as_str(), id as u32))
            .filter(|(name, _)| !name.is_empty())
            .collect();
        let mut view = Self::default();
        for service in config.services.values() {
            let (limit, change) = (limited.of(service, now), limited.change_of(&service.name, now));
            if limit.is_none() && change.is_none() {
                continue;
            }
            let Some(id) = ids.get(&*service.name) else { continue };
            let charges = counters.charges(*id);
            view.limits.push(LimitRow {
                service: service.name.clone(),
                per_source: limit.and_then(|limit| limit.per_source).map(|rate| rate.to_string()),
                prefix_v4: limit.map_or(32, |limit| limit.prefix_v4),
                prefix_v6: limit.map_or(64, |limit| limit.prefix_v6),
                total: limit.and_then(|limit| limit.total).map(|rate| rate.to_string()),
                from: if change.is_some() { From::Runtime } else { From::Config },
                by: change.map(|change| change.note.by.clone()),
                since: change.map(|change| change.note.since),
                until: change.and_then(|change| change.until),
                reason: change.map(|change| change.note.reason.clone()).unwrap_or_default(),
                allowed: charges.of(Charged::Allowed),
                source_limited: charges.of(Charged::Source),
                total_limited: charges.of(Charged::Total),
            });
        }
        let mut sources: BTreeMap<(String, u32), (u64, u64)> = BTreeMap::new();
        for record in counters.limited() {
            let ago = now_ns.saturating_sub(record.last_ns);
            let Some(source) = prefix(&record).filter(|_| ago < RECENT.as_nanos() as u64) else { continue };
            let (packets, last) = sources.entry((source, record.service)).or_insert((0, u64::MAX));
            (*packets, *last) = (*packets + record.packets, ago.min(*last));
        }
        let name =
            |id: u32| maps.service_info.get(id as usize).map_or("", |info| info.name.as_str()).to_owned();
        view.sources = sources
            .into_iter()
            .map(|((source, id), (packets, ago))| SourceRow {
                source,
                service: name(id),
                packets,
                last_ms: ago / 1_000_000,
            })
            .collect();
        view.sources.sort_by(|a, b| b.packets.cmp(&a.packets).then_with(|| a.source.cmp(&b.source)));
        view
    }
}

fn left(now: Timestamp, until: Timestamp) -> String {
    Duration::try_from(until.duration_since(now)).map(duration).unwrap_or_default()
}

fn prefix(record: &LimitedSource) -> Option<String> {
    let address: IpAddr = match record.family {
        4 => Ipv4Addr::from(record.low as u32).into(),
        6 => Ipv6Addr::from(u128::from(record.high) << 64 | u128::from(record.low)).into(),
        _ => return None,
    };
    IpNet::new(address, record.bits).ok().map(|net| net.to_string())
}

impl Render for Limits {
    fn render(&self, now: Timestamp) -> String {
        let mut text: String = self.effects.iter().map(|effect| format!("{effect}\n")).collect();
        if self.limits.is_empty() {
            return if text.is_empty() { "no service limits new flows\n".to_owned() } else { text };
        }
        let columns = [
            ("SERVICE", Align::Left),
            ("PER SOURCE", Align::Right),
            ("OF", Align::Left),
            ("TOTAL", Align::Right),
            ("ALLOWED", Align::Right),
            ("SOURCE LIMITED", Align::Right),
            ("TOTAL LIMITED", Align::Right),
            ("FROM", Align::Left),
            ("BY", Align::Left),
            ("ENDS IN", Align::Left),
            ("REASON", Align::Left),
        ];
        let mut table = Table::new(&columns);
        let rate = |rate: &Option<String>| rate.clone().unwrap_or_else(|| "none".to_owned());
        for limit in &self.limits {
            table.row([
                limit.service.as_str().into(),
                rate(&limit.per_source).into(),
                format!("/{}, /{}", limit.prefix_v4, limit.prefix_v6).into(),
                rate(&limit.total).into(),
                number(limit.allowed).into(),
                number(limit.source_limited).into(),
                number(limit.total_limited).into(),
                limit.from.name().into(),
                limit.by.clone().unwrap_or_default().into(),
                limit.until.map(|until| left(now, until)).unwrap_or_default().into(),
                limit.reason.as_str().into(),
            ]);
        }
        text.push_str(&table.render());
        if self.sources.is_empty() {
            return text;
        }
        let columns = [
            ("SOURCE", Align::Left),
            ("SERVICE", Align::Left),
            ("PACKETS", Align::Right),
            ("LAST", Align::Right),
        ];
        let mut table = Table::new(&columns);
        for source in &self.sources {
            let last = duration(Duration::from_millis(source.last_ms));
            let packets = number(source.packets);
            table.row([
                source.source.as_str().into(),
                source.service.as_str().into(),
                packets.into(),
                last.into(),
            ]);
        }
        text.push('\n');
        text.push_str(&table.render());
        text
    }
}
