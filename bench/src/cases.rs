//! What is measured.

use lb_common::reason::Reason;
use verdicts::{PASS, TX};

use crate::frame::{Kind, To};

/// What XDP programs return (linux/bpf.h).
mod verdicts {
    pub(crate) const PASS: u32 = 2;
    pub(crate) const TX: u32 = 3;
}

/// A program under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// One of the bench's own, by its name in the object.
    Own(&'static str),
    Weir,
    /// Another build of weir, over the same maps.
    Other,
}

/// Which flow tables a case uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    /// Holds the flows of all known-flow cases, a million and more.
    Known,
    /// Full of flows that were seen once.
    Full,
}

/// The flows that packets belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flows {
    /// 2ⁿ flows, each many times.
    Same(u32),
    /// Every packet another.
    Fresh,
}

impl Flows {
    pub(crate) const fn bits(self) -> u32 {
        match self {
            Self::Same(bits) => bits,
            Self::Fresh => 39,
        }
    }
}

/// How a case compares with another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    /// At most this many times its cost.
    pub(crate) ratio: f64,
    pub(crate) of: &'static str,
}

/// A case, and nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct More {
    /// At most this much more.
    pub(crate) ns: f64,
    pub(crate) than: &'static str,
}

/// One measured number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) program: Program,
    pub(crate) table: Table,
    pub(crate) to: To,
    pub(crate) kind: Kind,
    pub(crate) flows: Flows,
    pub(crate) verdict: u32,
    /// The reason that weir counts every packet under.
    pub(crate) reason: Option<Reason>,
    pub(crate) goals: &'static [Goal],
    /// Costs at most so much more than another.
    pub(crate) more: Option<More>,
}

/// What the others are measured over.
pub(crate) const EMPTY: &str = "empty";
/// The floor of a balancer.
pub(crate) const PARSE: &str = "parse";
/// The bare reference with one flow.
pub(crate) const BARE: &str = "bare_1";
/// Weir's plainest case.
pub(crate) const KNOWN: &str = "known_1";

const ONE: Flows = Flows::Same(0);
const FLOWS_64K: Flows = Flows::Same(16);
const FLOWS_1M: Flows = Flows::Same(20);

const fn floor(id: &'static str, title: &'static str, program: &'static str) -> Case {
    Case {
        id,
        title,
        program: Program::Own(program),
        table: Table::Known,
        to: To::Ipip,
        kind: Kind::Ack,
        flows: ONE,
        verdict: TX,
        reason: None,
        goals: &[],
        more: None,
    }
}

const fn reference(
    id: &'static str,
    title: &'static str,
    program: &'static str,
    kind: Kind,
    flows: Flows,
) -> Case {
    let table = if matches!(flows, Flows::Fresh) { Table::Full } else { Table::Known };
    Case { kind, flows, table, ..floor(id, title, program) }
}

const fn weir(
    id: &'static str,
    title: &'static str,
    to: To,
    kind: Kind,
    flows: Flows,
    goals: &'static [Goal],
) -> Case {
    Case {
        program: Program::Weir,
        to,
        reason: Some(match (to, flows, kind) {
            (To::Other, ..) => Reason::NotVip,
            (_, Flows::Same(_), _) => Reason::FlowKnown,
            (_, Flows::Fresh, Kind::Ack) => Reason::FlowResumed,
            (_, Flows::Fresh, _) => Reason::FlowNew,
        }),
        verdict: if matches!(to, To::Other) { PASS } else { TX },
        goals,
        ..reference(id, title, "", kind, flows)
    }
}

/// A service that asks deny lists which hold none of the sources, beside the same without lists.
const fn listed(id: &'static str, title: &'static str, kind: Kind, flows: Flows, than: &'static str) -> Case {
    Case { more: Some(More { ns: 40.0, than }), ..weir(id, title, To::Listed, kind, flows, &[]) }
}

/// All cases, in the order of the table. Known flows are entered in this order too.
pub(crate) const ALL: &[Case] = &[
    floor(EMPTY, "empty program", "empty"),
    floor(PARSE, "parse only", "parse_only"),
    floor("encap", "parse and constant IPIP header", "encap"),
    reference("line_1", "parse, one line of 32 MB, IPIP header, 1 flow", "line", Kind::Ack, ONE),
    reference("line_64k", "parse, one line of 32 MB, IPIP header, 64K flows", "line", Kind::Ack, FLOWS_64K),
    reference("line_1m", "parse, one line of 32 MB, IPIP header, 1M flows", "line", Kind::Ack, FLOWS_1M),
    reference(BARE, "bare reference, known flow, 1 flow", "bare", Kind::Ack, ONE),
    reference("bare_64k", "bare reference, known flow, 64K flows", "bare", Kind::Ack, FLOWS_64K),
    reference("bare_1m", "bare reference, known flow, 1M flows", "bare", Kind::Ack, FLOWS_1M),
    reference("bare_new", "bare reference, new flow, table full", "bare", Kind::Syn, Flows::Fresh),
    reference("lru_1", "LRU reference, known flow, 1 flow", "lru", Kind::Ack, ONE),
    reference("lru_64k", "LRU reference, known flow, 64K flows", "lru", Kind::Ack, FLOWS_64K),
    reference("lru_1m", "LRU reference, known flow, 1M flows", "lru", Kind::Ack, FLOWS_1M),
    reference("lru_new", "LRU reference, new flow, table full", "lru", Kind::Syn, Flows::Fresh),
    reference("lru_miss", "LRU reference, miss without SYN and insert", "lru", Kind::Ack, Flows::Fresh),
    weir(
        KNOWN,
        "known flow, 1 flow, IPIP",
        To::Ipip,
        Kind::Ack,
        ONE,
        &[Goal { ratio: 12.5, of: PARSE }, Goal { ratio: 1.25, of: BARE }, Goal { ratio: 0.5, of: "lru_1" }],
    ),
    weir(
        "known_64k",
        "known flow, 64K flows, IPIP",
        To::Ipip,
        Kind::Ack,
        FLOWS_64K,
        &[Goal { ratio: 0.45, of: "lru_64k" }],
    ),
    weir(
        "known_1m",
        "known flow, 1M flows, IPIP",
        To::Ipip,
        Kind::Ack,
        FLOWS_1M,
        &[Goal { ratio: 0.4, of: "lru_1m" }, Goal { ratio: 1.4, of: "bare_1m" }],
    ),
    weir(
        "new",
        "new flow (SYN, table full, always evicting)",
        To::Ipip,
        Kind::Syn,
        Flows::Fresh,
        &[Goal { ratio: 1.07, of: "bare_new" }, Goal { ratio: 0.25, of: "lru_new" }],
    ),
    weir(
        "miss",
        "miss without SYN and insert",
        To::Ipip,
        Kind::Ack,
        Flows::Fresh,
        &[Goal { ratio: 1.17, of: "bare_new" }, Goal { ratio: 0.25, of: "lru_miss" }],
    ),
    weir(
        "known_v6_1",
        "known flow, 1 flow, IPv6 in IPv6",
        To::IpipV6,
        Kind::Ack,
        ONE,
        &[Goal { ratio: 1.4, of: BARE }],
    ),
    weir("known_v6_64k", "known flow, 64K flows, IPv6 in IPv6", To::IpipV6, Kind::Ack, FLOWS_64K, &[]),
    weir("udp_1", "known flow, 1 flow, UDP", To::Ipip, Kind::Udp, ONE, &[Goal { ratio: 1.3, of: BARE }]),
    weir("udp_64k", "known flow, 64K flows, UDP", To::Ipip, Kind::Udp, FLOWS_64K, &[]),
    weir("dsr_1", "known flow, 1 flow, dsr-l2", To::DsrL2, Kind::Ack, ONE, &[]),
    weir("dsr_64k", "known flow, 64K flows, dsr-l2", To::DsrL2, Kind::Ack, FLOWS_64K, &[]),
    weir("gue_1", "GUE, known flow, 1 flow", To::Gue, Kind::Ack, ONE, &[Goal { ratio: 1.4, of: BARE }]),
    weir("gue_64k", "GUE, known flow, 64K flows", To::Gue, Kind::Ack, FLOWS_64K, &[]),
    listed("listed_1", "known flow, 1 flow, 100,000 prefixes denied", Kind::Ack, ONE, KNOWN),
    listed("listed_64k", "known flow, 64K flows, 100,000 prefixes denied", Kind::Ack, FLOWS_64K, "known_64k"),
    listed("listed_new", "new flow, 1M sources, 100,000 prefixes denied", Kind::Syn, Flows::Fresh, "new"),
    weir("not_vip", "not a VIP", To::Other, Kind::Ack, ONE, &[Goal { ratio: 6.0, of: PARSE }]),
];

/// The case with this id.
pub(crate) fn by_id(id: &str) -> Option<&'static Case> {
    ALL.iter().find(|case| case.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_name_cases_that_are_measured() {
        let goals = ALL.iter().flat_map(|case| case.goals).map(|goal| goal.of);
        for of in goals.chain(ALL.iter().filter_map(|case| Some(case.more?.than))) {
            assert!(by_id(of).is_some(), "{of}");
        }
    }
}
