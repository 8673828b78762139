//! `weir deny list`: the lists that judge sources, and what is denied at run time.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::table::{Align, Table};
use super::{Api, Render, duration, number};
use crate::config::model::Config;
use crate::filter::Prefixes;
use crate::state::denied::Denied as AtRunTime;

/// `GET /v1/deny`: which entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenyFilter {
    /// Lists that concern this VIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vip: Option<String>,
}

/// Where an entry comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// The config, or a file that it names.
    Config,
    /// `weir deny add`.
    Runtime,
}

impl From {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Runtime => "runtime",
        }
    }
}

/// A list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRow {
    /// Name of the VIP; without it all.
    pub vip: Option<String>,
    /// `deny` or `allow`.
    pub kind: String,
    /// Prefixes of the config.
    pub from_config: u64,
    /// Prefixes of run time.
    pub at_run_time: u64,
    /// Packets that it refused.
    pub packets: u64,
}

/// A prefix of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryRow {
    /// The prefix.
    pub prefix: String,
    /// Name of the VIP; without it all.
    pub vip: Option<String>,
    /// `deny` or `allow`.
    pub kind: String,
    /// Where it comes from.
    pub from: From,
    /// Who denied it; nobody for the config.
    pub by: Option<String>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Until when.
    pub until: Option<Timestamp>,
    /// Why.
    pub reason: String,
}

/// Lists and their entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// Version mark.
    pub api: Api,
    /// What a request did, one sentence each.
    #[serde(default)]
    pub effects: Vec<String>,
    /// The lists, those of all VIPs first.
    pub lists: Vec<ListRow>,
    /// Their entries, those of run time first.
    pub entries: Vec<EntryRow>,
}

/// Packets that a VIP's lists refused: by everywhere's deny list, its own, its allow list.
pub type Refused = [u64; 3];

impl Denied {
    /// The lists in force at `now`; `refused` is asked for the counts of a VIP by name.
    #[must_use]
    pub fn new(
        config: &Config,
        denied: &AtRunTime,
        filter: &DenyFilter,
        refused: &dyn Fn(&str) -> Refused,
        now: Timestamp,
    ) -> Self {
        let mut view = Self::default();
        let meant = |vip: &str| filter.vip.as_deref().is_none_or(|wanted| wanted == vip);
        for (target, denial) in denied.in_force(now) {
            if target.vip.as_deref().is_none_or(meant) {
                view.entries.push(EntryRow {
                    prefix: target.prefix.to_string(),
                    vip: target.vip.clone(),
                    kind: "deny".to_owned(),
                    from: From::Runtime,
                    by: Some(denial.note.by.clone()),
                    since: Some(denial.note.since),
                    until: denial.until,
                    reason: denial.note.reason.clone(),
                });
            }
        }
        let vips = config.vips.values().filter(|vip| meant(&vip.name));
        let everywhere = vips.clone().map(|vip| refused(&vip.name)[0]).sum();
        view.list(None, "deny", &config.deny, everywhere);
        for vip in vips {
            let [_, deny, allow] = refused(&vip.name);
            view.list(Some(&vip.name), "deny", &vip.deny, deny);
            view.list(Some(&vip.name), "allow", &vip.allow, allow);
        }
        view
    }

    fn list(&mut self, vip: Option<&str>, kind: &str, prefixes: &Prefixes, packets: u64) {
        let same = |entry: &&EntryRow| entry.kind == kind && entry.vip.as_deref() == vip;
        let at_run_time = self.entries.iter().filter(same).count() as u64;
        let vip = vip.map(str::to_owned);
        self.entries.extend(prefixes.iter().map(|prefix| EntryRow {
            prefix: prefix.to_string(),
            vip: vip.clone(),
            kind: kind.to_owned(),
            from: From::Config,
            by: None,
            since: None,
            until: None,
            reason: String::new(),
        }));
        let from_config = prefixes.len() as u64;
        if from_config + at_run_time + packets > 0 {
            let kind = kind.to_owned();
            self.lists.push(ListRow { vip, kind, from_config, at_run_time, packets });
        }
    }
}

impl Render for Denied {
    fn render(&self, now: Timestamp) -> String {
        let mut text: String = self.effects.iter().map(|effect| format!("{effect}\n")).collect();
        if self.lists.is_empty() && self.effects.is_empty() {
            return "no lists: every source is let in\n".to_owned();
        }
        let everywhere = |vip: &Option<String>| vip.clone().unwrap_or_else(|| "all".to_owned());
        let columns = ["VIP", "LIST", "FROM CONFIG", "AT RUN TIME", "PACKETS REFUSED"];
        let align = [Align::Left, Align::Left, Align::Right, Align::Right, Align::Right];
        let mut table =
            Table::new(&std::array::from_fn::<_, 5, _>(|column| (columns[column], align[column])));
        for list in &self.lists {
            let counts = [list.from_config, list.at_run_time, list.packets].map(|count| number(count).into());
            table.row([everywhere(&list.vip).into(), list.kind.as_str().into()].into_iter().chain(counts));
        }
        text.push_str(&table.render());
        if self.entries.is_empty() {
            return text;
        }
        let columns = ["PREFIX", "VIP", "LIST", "FROM", "BY", "AGE", "ENDS IN", "REASON"];
        let mut table = Table::new(&columns.map(|column| (column, Align::Left)));
        for entry in &self.entries {
            let time = |from: Timestamp, to: Timestamp| {
                std::time::Duration::try_from(to.duration_since(from)).map(duration).unwrap_or_default()
            };
            table.row([
                entry.prefix.as_str().into(),
                everywhere(&entry.vip).into(),
                entry.kind.as_str().into(),
                entry.from.name().into(),
                entry.by.clone().unwrap_or_default().into(),
                entry.since.map(|since| time(since, now)).unwrap_or_default().into(),
                entry.until.map(|until| time(now, until)).unwrap_or_default().into(),
                entry.reason.as_str().into(),
            ]);
        }
        text.push('\n');
        text.push_str(&table.render());
        text
    }
}
