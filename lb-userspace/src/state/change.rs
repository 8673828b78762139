//! From a request to new runtime changes: which backends are meant, what the effect is, whether a guard refuses.
//!
//! Pure: members, time and overlay in; a new overlay and its description out. Nothing is applied here. Flows are asked
//! for last, when the effect is told: counting them takes longer than everything else.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;

use super::overlay::{AdminChange, BackendName, Note, Out, Overlay, WeightChange};
use super::request::{Action, BackendRequest, Changed, ChangedBackend, Force, Targets, check_record};
use crate::failure::{Code, Failure};
use crate::health::pool_view::Remaining;
use crate::view::filter::Pattern;
use crate::view::nearest::not_found;
use crate::view::{Api, number};

/// Largest weight.
const MAX_WEIGHT: u16 = 1000;

/// A configured backend as selection and guards see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member<'a> {
    /// Name of its pool.
    pub pool: &'a str,
    /// Its name in the pool.
    pub name: &'a str,
    /// Host label.
    pub host: Option<&'a str>,
    /// The config's weight.
    pub file_weight: u16,
}

/// Whether a backend takes new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewFlows {
    /// It does.
    Taken,
    /// Admin state, health or weight keep them away.
    Refused,
}

/// The members that `targets` names, in their order.
///
/// # Errors
/// Usage when nothing is named; not found, with the nearest name.
pub fn select<'a>(members: &[Member<'a>], targets: &Targets) -> Result<Vec<Member<'a>>, Failure> {
    let Targets { names, pool, host } = targets;
    if names.is_empty() && pool.is_none() && host.is_none() {
        return Err(Failure::new(Code::Usage, "no backend named: give names, --pool or --host"));
    }
    let (pool, host) = (pool.as_deref(), host.as_deref());
    let all = || members.iter().copied();
    if let Some(pool) = pool.filter(|pool| !all().any(|member| member.pool == *pool)) {
        return Err(not_found("pool", pool, all().map(|member| member.pool)));
    }
    if let Some(host) = host.filter(|host| !all().any(|member| member.host == Some(*host))) {
        return Err(not_found("host", host, all().filter_map(|member| member.host)));
    }
    let within = |member: &Member<'_>| {
        pool.is_none_or(|pool| member.pool == pool) && host.is_none_or(|host| member.host == Some(host))
    };
    for name in names {
        let candidates = all().filter(within).map(|member| (member.pool, member.name));
        Pattern::new(name).must_match(candidates)?;
    }
    let named = |member: &Member<'_>| {
        names.is_empty() || names.iter().any(|name| Pattern::new(name).matches(member.pool, member.name))
    };
    let chosen: Vec<Member<'a>> = all().filter(within).filter(named).collect();
    if chosen.is_empty() {
        let (pool, host) = (pool.unwrap_or_default(), host.unwrap_or_default());
        return Err(Failure::new(Code::NotFound, format!("no backend of pool {pool:?} is on host {host:?}")));
    }
    Ok(chosen)
}

/// What a request means: decided, not yet in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The runtime changes with it.
    pub overlay: Overlay,
    effects: Vec<Effect>,
    /// As they are after it; flows are not counted.
    backends: Vec<ChangedBackend>,
    force: Force,
}

/// Decides on `request`; `members` are those of all pools, or of those that it names. `by` is the user on record; `new_flows` is asked about the pools concerned alone.
///
/// # Errors
/// Usage, not found.
pub fn change(
    members: &[Member<'_>],
    new_flows: &dyn Fn(&Member<'_>) -> NewFlows,
    overlay: &Overlay,
    request: &BackendRequest,
    by: &str,
    now: Timestamp,
) -> Result<Change, Failure> {
    check(request)?;
    let chosen = select(members, &request.targets)?;
    let until = request.for_s.map(|seconds| now + Duration::from_secs(seconds));
    let note = || Note { by: by.to_owned(), since: now, reason: request.reason.clone() };
    let out = |state| AdminChange { state, remaining: Remaining::Usual, until, note: note() };
    let mut next = overlay.clone();
    let mut backends = Vec::with_capacity(chosen.len());
    for member in &chosen {
        let backend = BackendName::new(member.pool, member.name);
        match request.action {
            Action::Drain => next.set_admin(&backend, Some(out(Out::Draining))),
            Action::Maintenance => next.set_admin(&backend, Some(out(Out::Maintenance))),
            Action::Reset => {
                let Some(change) = overlay.admin(&backend, now).cloned() else {
                    let message = format!("{backend} is active: drain it before its flows are reset");
                    return Err(Failure::new(Code::Refused, message));
                };
                next.set_admin(&backend, Some(AdminChange { remaining: Remaining::Reset, ..change }));
            }
            Action::Ready => next.set_admin(&backend, None),
            Action::Weight { weight: None } => next.set_weight(&backend, None),
            Action::Weight { weight: Some(weight) } => next.set_weight(
                &backend,
                Some(WeightChange { weight, file_weight: member.file_weight, until, note: note() }),
            ),
        }
        backends.push(ChangedBackend {
            admin: next.admin(&backend, now).map_or("active", |change| change.state.name()).to_owned(),
            weight: next.weight(&backend, member.file_weight, now),
            pool: backend.pool,
            name: backend.name,
            flows: 0,
        });
    }
    let effects = effects(members, &chosen, request.action, new_flows);
    Ok(Change { overlay: next, effects, backends, force: request.force })
}

impl Change {
    /// Whether no guard stands against it.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.force == Force::Forced || !self.effects.iter().any(|effect| effect.empties_pool)
    }

    /// The backends that it means.
    pub fn backends(&self) -> impl Iterator<Item = BackendName> {
        self.backends.iter().map(|backend| BackendName::new(&backend.pool, &backend.name))
    }

    /// What to tell the caller, with the live flows of each backend, in the order of [`Self::backends`].
    ///
    /// # Errors
    /// Refused by the guard on a pool's last backends.
    pub fn told(mut self, flows: &[u64]) -> Result<Changed, Failure> {
        for (backend, flows) in self.backends.iter_mut().zip(flows) {
            backend.flows = *flows;
        }
        let told = |effect: &Effect| {
            let of_pool = self.backends.iter().filter(|backend| backend.pool == effect.pool);
            effect.told(of_pool.map(|backend| backend.flows).sum())
        };
        if !self.is_allowed() {
            let empties: Vec<String> =
                self.effects.iter().filter(|effect| effect.empties_pool).map(told).collect();
            return Err(Failure::new(
                Code::Refused,
                format!("{}: no backend would be left for new flows; --force overrides", empties.join("; ")),
            ));
        }
        let effects = self.effects.iter().map(told).collect();
        Ok(Changed { api: Api, effects, backends: self.backends })
    }
}

fn check(request: &BackendRequest) -> Result<(), Failure> {
    let usage = |message: String| Err(Failure::new(Code::Usage, message));
    match (request.action, request.for_s) {
        (Action::Weight { weight: Some(weight) }, _) if weight > MAX_WEIGHT => {
            usage(format!("weight {weight}: allowed are 0 to {MAX_WEIGHT}"))
        }
        (Action::Ready | Action::Reset | Action::Weight { weight: None }, Some(_)) => {
            usage("--for: only a drain, maintenance or a weight can end by itself".to_owned())
        }
        _ => check_record(&request.reason, request.for_s),
    }
}

/// What a request does to one pool.
#[derive(Clone, Debug, PartialEq)]
struct Effect {
    pool: String,
    action: Action,
    /// Backends of the pool that it means, and all.
    meant: usize,
    of: usize,
    /// Whether it takes the last backends that take new flows.
    empties_pool: bool,
}

impl Effect {
    /// `drains 1 of 3 backends of pool web, 812 live flows`.
    fn told(&self, flows: u64) -> String {
        let verb = match self.action {
            Action::Drain => "drains".to_owned(),
            Action::Maintenance => "takes out for maintenance".to_owned(),
            Action::Reset => "resets what is left on".to_owned(),
            Action::Ready => "readies".to_owned(),
            Action::Weight { weight: None } => "gives back its configured weight to".to_owned(),
            Action::Weight { weight: Some(weight) } => format!("sets weight {weight} for"),
        };
        let Self { pool, meant, of, .. } = self;
        format!("{verb} {meant} of {of} backends of pool {pool}, {} live flows", number(flows))
    }
}

fn effects(
    members: &[Member<'_>],
    chosen: &[Member<'_>],
    action: Action,
    new_flows: &dyn Fn(&Member<'_>) -> NewFlows,
) -> Vec<Effect> {
    // Of each pool concerned, the members that are meant and the others.
    let mut pools: BTreeMap<&str, [Vec<&Member<'_>>; 2]> =
        chosen.iter().map(|member| (member.pool, [Vec::new(), Vec::new()])).collect();
    let chosen: HashSet<&Member<'_>> = chosen.iter().collect();
    for member in members {
        if let Some([meant, others]) = pools.get_mut(member.pool) {
            if chosen.contains(member) { meant } else { others }.push(member);
        }
    }
    let takes = |member: &&Member<'_>| new_flows(member) == NewFlows::Taken;
    let effect = |(pool, [meant, others]): (&str, [Vec<&Member<'_>>; 2])| {
        let empties = takes_out(action) && !others.iter().any(takes) && meant.iter().any(takes);
        let (meant, of) = (meant.len(), meant.len() + others.len());
        Effect { pool: pool.to_owned(), action, meant, of, empties_pool: empties }
    };
    pools.into_iter().map(effect).collect()
}

fn takes_out(action: Action) -> bool {
    matches!(action, Action::Drain | Action::Maintenance | Action::Weight { weight: Some(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_795_000_000, 0);

    fn member(pool: &'static str, name: &'static str, host: &'static str) -> Member<'static> {
        Member { pool, name, host: Some(host), file_weight: 100 }
    }

    fn members() -> [Member<'static>; 4] {
        [
            member("api", "web-1", "h1"),
            member("web", "web-1", "h1"),
            member("web", "web-2", "h2"),
            member("web", "web-3", "h3"),
        ]
    }

    /// All take new flows but `web-3`.
    fn new_flows(member: &Member<'_>) -> NewFlows {
        if member.name == "web-3" { NewFlows::Refused } else { NewFlows::Taken }
    }

    fn flows(backend: &BackendName) -> u64 {
        match (&*backend.pool, &*backend.name) {
            ("api", _) => 5,
            (_, "web-1") => 812,
            (_, "web-2") => 1_000,
            _ => 0,
        }
    }

    fn targets(names: &[&str]) -> Targets {
        Targets { names: names.iter().map(|name| (*name).to_owned()).collect(), pool: None, host: None }
    }

    fn request(action: Action, names: &[&str]) -> BackendRequest {
        BackendRequest {
            action,
            targets: targets(names),
            reason: "kernel update".to_owned(),
            for_s: None,
            force: Force::Unforced,
            on_behalf_of: None,
        }
    }

    fn run(request: &BackendRequest) -> Result<(Overlay, Changed), Failure> {
        run_on(&Overlay::default(), request)
    }

    fn run_on(overlay: &Overlay, request: &BackendRequest) -> Result<(Overlay, Changed), Failure> {
        let change = change(&members(), &new_flows, overlay, request, "root", NOW)?;
        let (overlay, flows) = (change.overlay.clone(), change.backends().map(|name| flows(&name)));
        let flows: Vec<u64> = flows.collect();
        change.told(&flows).map(|changed| (overlay, changed))
    }

    #[test]
    fn for_targets_that_name_their_pools_the_members_of_those_are_enough() {
        for names in [&["web/web-1"][..], &["web/*"], &["api/web-1", "web/web-2"]] {
            let request = request(Action::Drain, names);
            let of = |members: &[Member<'_>]| {
                change(members, &new_flows, &Overlay::default(), &request, "root", NOW).expect("found")
            };
            let pools = request.targets.pools_named().expect("names pools");
            let some: Vec<Member<'_>> =
                members().into_iter().filter(|member| pools.contains(member.pool)).collect();
            assert_eq!(of(&some), of(&members()), "{names:?}");
        }
    }

    fn chosen(targets: &Targets) -> String {
        let members = members();
        let chosen = select(&members, targets).expect("found");
        chosen.iter().map(|member| format!("{}/{}", member.pool, member.name)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn names_pools_and_hosts_select_backends() {
        assert_eq!(chosen(&targets(&["web-1"])), "api/web-1 web/web-1");
        assert_eq!(chosen(&targets(&["web/web-1", "web-3"])), "web/web-1 web/web-3");
        assert_eq!(chosen(&targets(&["web/*"])), "web/web-1 web/web-2 web/web-3");
        let host = Targets { host: Some("h1".to_owned()), ..targets(&[]) };
        assert_eq!(chosen(&host), "api/web-1 web/web-1");
        assert_eq!(chosen(&Targets { pool: Some("web".to_owned()), ..host }), "web/web-1");
        assert_eq!(chosen(&Targets { pool: Some("api".to_owned()), ..targets(&["web-1"]) }), "api/web-1");
    }

    #[test]
    fn what_does_not_exist_is_not_found() {
        let failure = |targets: &Targets| select(&members(), targets).map(|_| ()).expect_err("refused");
        let unknown = failure(&targets(&["web-1", "web-9"]));
        assert_eq!(
            (unknown.code, unknown.message.as_str()),
            (Code::NotFound, r#"no such backend "web-9"; nearest: web-1, web-2, web-3"#)
        );
        let elsewhere =
            Targets { pool: Some("api".to_owned()), host: Some("h2".to_owned()), names: Vec::new() };
        assert_eq!(failure(&elsewhere).message, r#"no backend of pool "api" is on host "h2""#);
        assert_eq!(failure(&targets(&[])).code, Code::Usage);
    }

    #[test]
    fn a_drain_tells_its_effect_and_is_on_record() {
        let (overlay, changed) = run(&request(Action::Drain, &["web/web-1"])).expect("drains");
        assert_eq!(changed.effects, ["drains 1 of 3 backends of pool web, 812 live flows"]);
        assert_eq!((changed.backends[0].admin.as_str(), changed.backends[0].flows), ("draining", 812));
        let record = overlay.admin(&BackendName::new("web", "web-1"), NOW).expect("on record");
        assert_eq!(
            (&*record.note.by, record.note.since, &*record.note.reason),
            ("root", NOW, "kernel update")
        );
    }

    #[test]
    fn the_last_backends_of_a_pool_are_kept_unless_forced() {
        for action in [Action::Drain, Action::Maintenance, Action::Weight { weight: Some(0) }] {
            let mut request = request(action, &["web/web-1", "web/web-2"]);
            let refused = run(&request).expect_err("refused");
            assert_eq!(refused.code, Code::Refused);
            assert!(refused.message.ends_with(
                "2 of 3 backends of pool web, 1,812 live flows: no backend would be left for new flows; --force overrides"
            ));
            request.force = Force::Forced;
            run(&request).expect("forced");
        }
        run(&request(Action::Weight { weight: Some(1) }, &["web/web-1", "web/web-2"])).expect("still serve");
    }

    #[test]
    fn draining_what_takes_no_new_flows_anyway_is_not_refused() {
        run(&request(Action::Drain, &["web/web-3"])).expect("drains");
        let all = request(Action::Drain, &["*"]);
        let nobody = change(&members(), &|_| NewFlows::Refused, &Overlay::default(), &all, "root", NOW);
        assert!(nobody.expect("found").is_allowed());
    }

    #[test]
    fn ready_ends_a_drain_and_keeps_the_weight() {
        let web_1 = BackendName::new("web", "web-1");
        let (overlay, _) = run(&request(Action::Drain, &["web/web-1"])).expect("drains");
        let weight = request(Action::Weight { weight: Some(7) }, &["web/web-1"]);
        let (overlay, _) = run_on(&overlay, &weight).expect("weighs");
        let ready = request(Action::Ready, &["web/web-1"]);
        let (overlay, changed) = run_on(&overlay, &ready).expect("readies");
        assert_eq!((overlay.admin(&web_1, NOW), overlay.weight(&web_1, 100, NOW)), (None, 7));
        assert_eq!(changed.backends[0].weight, 7);
        let back = request(Action::Weight { weight: None }, &["web/web-1"]);
        let (overlay, _) = run_on(&overlay, &back).expect("weighs");
        assert_eq!(overlay, Overlay::default());
    }

    #[test]
    fn flows_are_reset_of_what_is_taken_out_alone_until_it_is_ready() {
        let web_1 = BackendName::new("web", "web-1");
        let reset = request(Action::Reset, &["web/web-1"]);
        let refused = run(&reset).expect_err("active");
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (Code::Refused, "web/web-1 is active: drain it before its flows are reset")
        );
        let drain = BackendRequest { for_s: Some(60), ..request(Action::Drain, &["web/web-1"]) };
        let (drained, _) = run(&drain).expect("drains");
        let (overlay, changed) = run_on(&drained, &reset).expect("resets");
        assert_eq!(changed.effects, ["resets what is left on 1 of 3 backends of pool web, 812 live flows"]);
        assert_eq!(changed.backends[0].admin, "draining");
        let (before, after) = (drained.admin(&web_1, NOW).cloned(), overlay.admin(&web_1, NOW).cloned());
        let expected = before.map(|change| AdminChange { remaining: Remaining::Reset, ..change });
        assert_eq!(after, expected, "who drained it, why and until when stay on record");
        assert!(overlay.changes(NOW, |_| Some(100))[0].resets);
        let (overlay, _) = run_on(&overlay, &request(Action::Ready, &["web/web-1"])).expect("readies");
        assert_eq!(overlay, Overlay::default());
    }

    #[test]
    fn requests_that_make_no_sense_are_usage_errors() {
        let mut cases = vec![request(Action::Weight { weight: Some(1001) }, &["web-1"])];
        cases.push(BackendRequest { for_s: Some(60), ..request(Action::Ready, &["web-1"]) });
        cases.push(BackendRequest { for_s: Some(60), ..request(Action::Reset, &["web-1"]) });
        cases.push(BackendRequest { for_s: Some(0), ..request(Action::Drain, &["web-1"]) });
        cases.push(BackendRequest { for_s: Some(u64::MAX), ..request(Action::Drain, &["web-1"]) });
        cases.push(BackendRequest { reason: "x".repeat(501), ..request(Action::Drain, &["web-1"]) });
        for case in cases {
            assert_eq!(run(&case).expect_err("refused").code, Code::Usage, "{case:?}");
        }
    }
}
