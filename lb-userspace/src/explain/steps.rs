//! From the program's marks to words.

use lb_common::flow::Meta;
use lb_common::layout::{BackendState, Charged, ForwardWord, HotWord, LastResort, Listed, Mode};
use lb_common::pipeline::Stage;
use lb_common::reason::{Reason, Verdict};
use lb_common::trace::{Mark, Trace};
use lb_common::wire::Protocol;

use super::answer::{Explained, Step};
use crate::maps::set::MapSet;
use crate::view::from_maps::{pool_name, protocol_name, snat_address, vip_address};

/// Puts a run into words.
pub(super) fn explained(maps: &MapSet, trace: &Trace, verdict: &str, output: String) -> Explained {
    let names = Names { maps };
    let mut answer =
        Explained { verdict: verdict.to_owned(), output, flow: "none".to_owned(), ..Explained::default() };
    let (mut entry, mut reaches_backend) = (Entry::None, false);
    for (mark, a, b) in trace.iter() {
        let (step, detail) = names.words(mark, a, b);
        match mark {
            Mark::Service => answer.service = Some(names.service(a)),
            Mark::Selected => {
                let (pool, name) = names.backend_parts(a);
                (answer.pool, answer.backend) = (Some(pool), Some(name));
            }
            Mark::Found => entry = Entry::Found,
            Mark::Entered if a != 0 => entry = Entry::Made,
            Mark::Left => {
                let reason = Reason::ALL.get(a as usize).copied().unwrap_or(Reason::Inconsistent);
                // What is too big is answered, and what the host itself serves passes.
                reaches_backend = reason.verdict() == Verdict::Forward || reason == Reason::Local;
                answer.reason = reason.name().to_owned();
                answer.flow = flow(reason, entry).to_owned();
            }
            _ => {}
        }
        answer.steps.push(Step { step: step.to_owned(), detail });
    }
    if !reaches_backend {
        (answer.pool, answer.backend) = (None, None);
    }
    answer
}

/// A flow's entry during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    None,
    Found,
    Made,
}

/// What the flow table has to do with a packet that leaves for this reason.
fn flow(reason: Reason, entry: Entry) -> &'static str {
    match reason {
        Reason::QuicRouted if entry == Entry::Made => "new",
        Reason::QuicRouted => "known",
        Reason::FlowKnown | Reason::NatReply => "known",
        Reason::FlowNew | Reason::FlowResumed | Reason::FlowRehomed => "new",
        Reason::Local if entry == Entry::Made => "new",
        Reason::Local if entry == Entry::Found => "known",
        _ => "none",
    }
}

struct Names<'a> {
    maps: &'a MapSet,
}

impl Names<'_> {
    fn words(&self, mark: Mark, a: u32, b: u64) -> (&'static str, String) {
        match mark {
            Mark::Stage => ("stage", stage(a)),
            Mark::Vip => ("vip", format!("{} ({})", vip_address(self.maps, a), self.vip(a))),
            Mark::Transport => ("transport", transport(a, b)),
            Mark::Service => ("service", format!("{}: {}", self.service(a), self.rules(ForwardWord(b)))),
            Mark::Bucket => match b {
                0 => ("flow", format!("looked up in bucket {a}")),
                1 => ("flow", format!("looked up in its second bucket, {a}: the first one is marked")),
                _ => (
                    "flow",
                    format!("its second bucket, {a}, is asked for a place: the first one is crowded"),
                ),
            },
            Mark::Found => ("flow", self.entry(a, Meta(b as u32))),
            Mark::Missed => ("flow", "no entry".to_owned()),
            Mark::Over => {
                let state = self.state(HotWord(b));
                ("flow", format!("the entry's backend does not go on with it: {}, {state}", self.backend(a)))
            }
            Mark::Previous => ("select", self.candidate(&format!("slot {a} of the table before"), b)),
            Mark::Slot => ("select", self.candidate(&format!("slot {a}"), b)),
            Mark::Usable => ("select", self.candidate(&format!("place {a} of the usable backends"), b)),
            Mark::ConnectionId => ("quic", connection_id(a, b)),
            Mark::Server if a == 0 => ("quic", "a server id that nobody has".to_owned()),
            Mark::Server => ("quic", format!("names {}, {}", self.backend(a), self.state(HotWord(b)))),
            Mark::Load if a == 0 => {
                ("select", "no recent count of live flows: the table alone decides".to_owned())
            }
            Mark::Load => {
                let weight = self.maps.backend_info.get(a as usize).map_or(0, |info| info.weight);
                let (live, share) = (b as u32, self.share(HotWord(b >> 32)));
                ("select", format!("{}: {live} live flows, weight {weight}, {share}", self.backend(a)))
            }
            Mark::LastResort => {
                let resort = match LastResort::from_word(a.into()) {
                    LastResort::Keep => "keep",
                    LastResort::Reset => "reset",
                    LastResort::Drop => "drop",
                };
                ("select", format!("no backend is usable; the pool's last resort is {resort}"))
            }
            Mark::Selected => ("backend", format!("{}, {}", self.backend(a), self.state(HotWord(b)))),
            Mark::Entered => match a {
                0 => ("flow", "no place for an entry: the table alone decides".to_owned()),
                _ => ("flow", "the entry is made in a place that is free or may be taken".to_owned()),
            },
            Mark::NextHop => ("next hop", format!("{a}: interface {}, MTU {}", b as u32, (b >> 32) as u16)),
            Mark::Listed => {
                let list = match Listed::from_number(a) {
                    Some(Listed::DenyEverywhere) => "the deny list of all VIPs",
                    Some(Listed::Deny) => "the VIP's deny list",
                    Some(Listed::Allow) => "the VIP's allow list",
                    None => "a list",
                };
                ("filter", format!("the source is {} {list}", if b == 0 { "not in" } else { "in" }))
            }
            Mark::Charged => {
                let detail = match Charged::ALL.get(a as usize) {
                    Some(Charged::Allowed) => "the flow is new, and within what may start",
                    Some(Charged::Source) => "the flow is new, and its source has no allowance left",
                    Some(Charged::Total) => "the flow is new, and the service has no allowance left",
                    None => "unknown",
                };
                ("limit", detail.to_owned())
            }
            Mark::NatPort => ("nat", format!("port {a} of {}", snat_address(self.maps, b as u32))),
            Mark::Left => {
                let reason = Reason::ALL.get(a as usize).map_or("unknown", |reason| reason.name());
                let by = if b == 0 { String::new() } else { format!(", by interface {b}") };
                ("left", format!("{reason}{by}"))
            }
        }
    }

    fn vip(&self, id: u32) -> String {
        self.maps.vip_info.get(id as usize).map_or_else(String::new, |info| info.name.as_str().to_owned())
    }

    fn service(&self, id: u32) -> String {
        self.maps.service_info.get(id as usize).map_or_else(String::new, |info| info.name.as_str().to_owned())
    }

    /// Pool and name.
    fn backend_parts(&self, id: u32) -> (String, String) {
        let info = self.maps.backend_info.get(id as usize);
        info.map_or_else(Default::default, |info| {
            (pool_name(self.maps, info).to_owned(), info.name.as_str().to_owned())
        })
    }

    fn backend(&self, id: u32) -> String {
        match self.backend_parts(id) {
            (_, name) if name.is_empty() => format!("backend {id}, which nobody is"),
            (pool, name) => format!("{pool}/{name}"),
        }
    }

    fn rules(&self, forward: ForwardWord) -> String {
        let pool = self.maps.pool_info.get(forward.pool() as usize);
        let pool = pool.map_or("?", |info| info.name.as_str());
        let mode = forward.mode().map_or("unknown", Mode::name);
        let flows = if forward.track() { "remembered" } else { "not remembered" };
        let scheduler = forward.scheduler().name();
        let limited = if forward.has_limit() { ", new flows limited" } else { "" };
        format!("pool {pool}, mode {mode}, scheduler {scheduler}, flows {flows}{limited}")
    }

    fn entry(&self, backend: u32, meta: Meta) -> String {
        format!("an entry of {}, {}", self.backend(backend), meta.class().name())
    }

    /// A candidate: its id and the lower half of its hot word.
    fn candidate(&self, place: &str, word: u64) -> String {
        let hot = HotWord(word >> 32);
        format!("{place}: {}, {}", self.backend(word as u32), self.share(hot))
    }

    /// State and admit share, which the lower half of a hot word has.
    fn share(&self, hot: HotWord) -> String {
        let state = state(hot.state());
        match (hot.state(), hot.admit()) {
            (BackendState::Active, admit) if admit < 1000 => format!("{state}, admits {admit} ‰"),
            _ => state.to_owned(),
        }
    }

    fn state(&self, hot: HotWord) -> String {
        self.share(hot)
    }
}

fn connection_id(a: u32, b: u64) -> String {
    let header = if a & 1 << 16 == 0 { "short" } else { "long" };
    let (config, length) = (a as u8 >> 5, (a >> 8) as u8);
    match length {
        0 => format!("{header} header: the connection ID tells no server (configuration {config})"),
        _ => {
            let bytes: String =
                b.to_be_bytes().iter().take(length.into()).map(|byte| format!("{byte:02x}")).collect();
            let more = if length > 8 { "…" } else { "" };
            format!("{header} header, configuration {config}, server id {bytes}{more}")
        }
    }
}

fn stage(number: u32) -> String {
    Stage::ALL.get(number as usize).map_or_else(|| number.to_string(), |stage| stage.name().to_owned())
}

fn state(state: BackendState) -> &'static str {
    match state {
        BackendState::Absent => "removed",
        BackendState::Active => "active",
        BackendState::Draining => "draining",
        BackendState::Suspect => "suspect",
        BackendState::DownSoft => "down (soft)",
        BackendState::Down => "down",
        BackendState::Resetting => "taken out, its connections are reset",
    }
}

fn transport(a: u32, b: u64) -> String {
    let protocol = Protocol::from_code((a >> 8) as u8).map_or("unknown", protocol_name);
    let segment = ["goes on", "opens a connection", "closes it", "aborts it", "a datagram"];
    let segment = segment.get((a & 0xff) as usize).copied().unwrap_or("?");
    let (source, destination, length) = ((b >> 16) as u16, b as u16, (b >> 32) as u16);
    format!("{protocol} from port {source} to {destination}, {segment}; IP packet of {length} bytes")
}
