//! From a request to new runtime changes: which backends are meant, what the effect is, whether a guard refuses.
//!
//! Pure: members, time and overlay in; a new overlay and its description out. Nothing is applied here.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::overlay::{AdminChange, BackendName, Note, Out, Overlay, WeightChange};
use super::request::{Action, BackendRequest, Changed, ChangedBackend, Force, Targets};
use crate::failure::{Code, Failure};
use crate::view::filter::Pattern;
use crate::view::nearest::not_found;
use crate::view::{Api, number};

/// Longest `--for`: ten years.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Longest `--reason` in bytes.
const LONGEST_REASON: usize = 500;
/// Largest weight.
const MAX_WEIGHT: u16 = 1000;

/// A configured backend as selection and guards see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which.
    pub backend: BackendName,
    /// Host label.
    pub host: Option<String>,
    /// The config's weight.
    pub file_weight: u16,
    /// Whether new flows are sent to it at present.
    pub new_flows: NewFlows,
    /// Live flows.
    pub flows: u64,
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
pub fn select<'a>(members: &'a [Member], targets: &Targets) -> Result<Vec<&'a Member>, Failure> {
    let Targets { names, pool, host } = targets;
    if names.is_empty() && pool.is_none() && host.is_none() {
        return Err(Failure::new(Code::Usage, "no backend named: give names, --pool or --host"));
    }
    let all = || members.iter();
    if let Some(pool) = pool.as_deref().filter(|pool| !all().any(|member| member.backend.pool == **pool)) {
        return Err(not_found("pool", pool, all().map(|member| member.backend.pool.as_str())));
    }
    if let Some(host) =
        host.as_deref().filter(|host| !all().any(|member| member.host.as_deref() == Some(*host)))
    {
        return Err(not_found("host", host, all().filter_map(|member| member.host.as_deref())));
    }
    let within = |member: &&Member| {
        pool.as_ref().is_none_or(|pool| member.backend.pool == *pool)
            && host.as_ref().is_none_or(|host| member.host.as_ref() == Some(host))
    };
    for name in names {
        let candidates = all().filter(within).map(|m| (m.backend.pool.as_str(), m.backend.name.as_str()));
        Pattern::new(name).must_match(candidates)?;
    }
    let named = |member: &&Member| {
        let matches = |name: &String| Pattern::new(name).matches(&member.backend.pool, &member.backend.name);
        names.is_empty() || names.iter().any(matches)
    };
    let chosen: Vec<&Member> = all().filter(within).filter(named).collect();
    if chosen.is_empty() {
        let (pool, host) = (pool.as_deref().unwrap_or_default(), host.as_deref().unwrap_or_default());
        return Err(Failure::new(Code::NotFound, format!("no backend of pool {pool:?} is on host {host:?}")));
    }
    Ok(chosen)
}

/// The overlay after `request`, and what to tell the caller. `by` is the user on record.
///
/// # Errors
/// Usage, not found, or refused by the guard on a pool's last backends.
pub fn change(
    members: &[Member],
    overlay: &Overlay,
    request: &BackendRequest,
    by: &str,
    now: Timestamp,
) -> Result<(Overlay, Changed), Failure> {
    check(request)?;
    let chosen = select(members, &request.targets)?;
    let effects = effects(members, &chosen, request.action);
    let empties: Vec<&Effect> = effects.iter().filter(|effect| effect.empties_pool).collect();
    if let (false, Force::Unforced) = (empties.is_empty(), request.force) {
        let told: Vec<String> = empties.iter().map(|effect| effect.told.clone()).collect();
        return Err(Failure::new(
            Code::Refused,
            format!("{}: no backend would be left for new flows; --force overrides", told.join("; ")),
        ));
    }
    let until = request.for_s.map(|seconds| now + Duration::from_secs(seconds));
    let note = || Note { by: by.to_owned(), since: now, reason: request.reason.clone() };
    let mut next = overlay.clone();
    for member in &chosen {
        let backend = &member.backend;
        match request.action {
            Action::Drain => {
                next.set_admin(backend, Some(AdminChange { state: Out::Draining, until, note: note() }))
            }
            Action::Maintenance => {
                next.set_admin(backend, Some(AdminChange { state: Out::Maintenance, until, note: note() }));
            }
            Action::Ready => next.set_admin(backend, None),
            Action::Weight { weight: None } => next.set_weight(backend, None),
            Action::Weight { weight: Some(weight) } => next.set_weight(
                backend,
                Some(WeightChange { weight, file_weight: member.file_weight, until, note: note() }),
            ),
        }
    }
    let backends = chosen.iter().map(|member| ChangedBackend {
        pool: member.backend.pool.clone(),
        name: member.backend.name.clone(),
        admin: next.admin(&member.backend, now).map_or("active", |change| change.state.name()).to_owned(),
        weight: next.weight(&member.backend, member.file_weight, now),
        flows: member.flows,
    });
    let changed = Changed {
        api: Api,
        effects: effects.iter().map(|effect| effect.told.clone()).collect(),
        backends: backends.collect(),
    };
    Ok((next, changed))
}

fn check(request: &BackendRequest) -> Result<(), Failure> {
    let usage = |message: String| Err(Failure::new(Code::Usage, message));
    match (request.action, request.for_s) {
        (Action::Weight { weight: Some(weight) }, _) if weight > MAX_WEIGHT => {
            return usage(format!("weight {weight}: allowed are 0 to {MAX_WEIGHT}"));
        }
        (Action::Ready | Action::Weight { weight: None }, Some(_)) => {
            return usage("--for: only a drain, maintenance or a weight can end by itself".to_owned());
        }
        (_, Some(seconds)) if seconds == 0 || seconds > LONGEST.as_secs() => {
            return usage("--for: allowed are 1s to 3650d".to_owned());
        }
        _ => {}
    }
    if request.reason.len() > LONGEST_REASON {
        return usage(format!("--reason: {} bytes, at most {LONGEST_REASON}", request.reason.len()));
    }
    Ok(())
}

/// What a request does to one pool.
struct Effect {
    /// `drains 1 of 3 backends of pool web, 812 live flows`.
    told: String,
    /// Whether it takes the last backends that take new flows.
    empties_pool: bool,
}

fn effects(members: &[Member], chosen: &[&Member], action: Action) -> Vec<Effect> {
    let mut pools: BTreeMap<&str, Vec<&Member>> = BTreeMap::new();
    for member in chosen {
        pools.entry(&member.backend.pool).or_default().push(member);
    }
    pools
        .into_iter()
        .map(|(pool, taken)| {
            let in_pool = || members.iter().filter(|member| member.backend.pool == pool);
            let takes = |member: &&Member| member.new_flows == NewFlows::Taken;
            let left = in_pool().filter(takes).filter(|member| !taken.contains(member)).count();
            let verb = match action {
                Action::Drain => "drains".to_owned(),
                Action::Maintenance => "takes out for maintenance".to_owned(),
                Action::Ready => "readies".to_owned(),
                Action::Weight { weight: None } => "gives back its configured weight to".to_owned(),
                Action::Weight { weight: Some(weight) } => format!("sets weight {weight} for"),
            };
            let flows: u64 = taken.iter().map(|member| member.flows).sum();
            Effect {
                told: format!(
                    "{verb} {} of {} backends of pool {pool}, {} live flows",
                    taken.len(),
                    in_pool().count(),
                    number(flows)
                ),
                empties_pool: takes_out(action) && left == 0 && taken.iter().any(takes),
            }
        })
        .collect()
}

fn takes_out(action: Action) -> bool {
    matches!(action, Action::Drain | Action::Maintenance | Action::Weight { weight: Some(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_795_000_000, 0);

    fn member(pool: &str, name: &str, host: &str, new_flows: NewFlows, flows: u64) -> Member {
        let host = Some(host.to_owned());
        Member { backend: BackendName::new(pool, name), host, file_weight: 100, new_flows, flows }
    }

    fn members() -> Vec<Member> {
        vec![
            member("api", "web-1", "h1", NewFlows::Taken, 5),
            member("web", "web-1", "h1", NewFlows::Taken, 812),
            member("web", "web-2", "h2", NewFlows::Taken, 1_000),
            member("web", "web-3", "h3", NewFlows::Refused, 0),
        ]
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
        change(&members(), &Overlay::default(), request, "root", NOW)
    }

    fn chosen(targets: &Targets) -> String {
        let members = members();
        let chosen = select(&members, targets).expect("found");
        chosen.iter().map(|member| member.backend.to_string()).collect::<Vec<_>>().join(" ")
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
        let nobody: Vec<Member> =
            members().into_iter().map(|member| Member { new_flows: NewFlows::Refused, ..member }).collect();
        change(&nobody, &Overlay::default(), &request(Action::Drain, &["*"]), "root", NOW).expect("drains");
    }

    #[test]
    fn ready_ends_a_drain_and_keeps_the_weight() {
        let web_1 = BackendName::new("web", "web-1");
        let (overlay, _) = run(&request(Action::Drain, &["web/web-1"])).expect("drains");
        let weight = request(Action::Weight { weight: Some(7) }, &["web/web-1"]);
        let (overlay, _) = change(&members(), &overlay, &weight, "root", NOW).expect("weighs");
        let ready = request(Action::Ready, &["web/web-1"]);
        let (overlay, changed) = change(&members(), &overlay, &ready, "root", NOW).expect("readies");
        assert_eq!((overlay.admin(&web_1, NOW), overlay.weight(&web_1, 100, NOW)), (None, 7));
        assert_eq!(changed.backends[0].weight, 7);
        let back = request(Action::Weight { weight: None }, &["web/web-1"]);
        let (overlay, _) = change(&members(), &overlay, &back, "root", NOW).expect("weighs");
        assert_eq!(overlay, Overlay::default());
    }

    #[test]
    fn requests_that_make_no_sense_are_usage_errors() {
        let mut cases = vec![request(Action::Weight { weight: Some(1001) }, &["web-1"])];
        cases.push(BackendRequest { for_s: Some(60), ..request(Action::Ready, &["web-1"]) });
        cases.push(BackendRequest { for_s: Some(0), ..request(Action::Drain, &["web-1"]) });
        cases.push(BackendRequest { for_s: Some(u64::MAX), ..request(Action::Drain, &["web-1"]) });
        cases.push(BackendRequest { reason: "x".repeat(501), ..request(Action::Drain, &["web-1"]) });
        for case in cases {
            assert_eq!(run(&case).expect_err("refused").code, Code::Usage, "{case:?}");
        }
    }
}
