//! Pools played without sockets: what the data plane is told, what survives an update.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use std::collections::BTreeMap;

use super::*;
use crate::config::model::{Backend, Check, Inside, LastResort, Pool, PortOf, Through};
use crate::health::event::{GuardEvent, NoWay, Wrapped};
use crate::health::machine::{FailureKind, Health};
use crate::health::pool_view::{Admin, Remaining, Slot, SlotState};
use crate::health::snapshot::Adopted;

#[path = "board_tests/doubt.rs"]
mod doubt;
#[path = "board_tests/drill.rs"]
mod drill;
#[path = "board_tests/handshakes.rs"]
mod handshakes;
#[path = "board_tests/objection.rs"]
mod objection;
#[path = "board_tests/tunnel.rs"]
mod tunnel;

/// What the data plane was told, in order, and the guard's turns.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<(String, SlotState, u16)>>>, Arc<Mutex<Vec<&'static str>>>);

impl Recorder {
    fn turns(&self) -> MutexGuard<'_, Vec<&'static str>> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(String, SlotState, u16)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<(String, SlotState)> {
        self.lock().drain(..).map(|(name, state, _)| (name, state)).collect()
    }
}

impl Applier for Recorder {
    fn apply(&mut self, backend: &BackendKey, slot: Slot) {
        self.lock().push((backend.to_string(), slot.state, slot.admit));
    }

    fn label(&mut self, _event: &HealthEvent) {}

    fn room(&self, _backend: &BackendKey, _inside: Inside) -> Result<usize, NoWay> {
        Err(NoWay::Unresolved)
    }

    fn wrap(&self, _backend: &BackendKey, _inside: Inside, _packet: &[u8]) -> Result<Wrapped, NoWay> {
        Err(NoWay::Unresolved)
    }

    fn guard_turned(&mut self, event: &GuardEvent) {
        self.turns().push(event.kind.name());
    }

    fn pool_changed(&mut self, _pool: &str, view: &PoolView) {
        assert!(view.usable.is_sorted());
    }
}

fn check(kind: CheckKind) -> Check {
    Check {
        kind,
        port: Some(80),
        port_of: PortOf::Check,
        interval: Duration::from_millis(5),
        timeout: Duration::from_millis(5),
        rise: 1,
        fall: 1,
        through: Through::Direct,
        inside: None,
    }
}

fn backend(name: &str, last: u8) -> Backend {
    let address = IpAddr::from([10, 0, 0, last]);
    Backend {
        name: name.to_owned(),
        address,
        port: None,
        weight: 100,
        tier: 0,
        host: None,
        mac: None,
        server_ids: Vec::new(),
    }
}

fn pool(name: &str, checks: Vec<Check>, backends: Vec<Backend>) -> Pool {
    Pool {
        name: name.to_owned(),
        tier_takeover_below: 0.0,
        last_resort: LastResort::Keep,
        max_ejected: 0.5,
        passive_sample: 20,
        passive_excess: 0.5,
        slow_start: Duration::ZERO,
        hold_down: Duration::from_secs(1),
        hold_down_max: Duration::from_secs(300),
        checks,
        backends: backends.into_iter().map(|backend| (backend.name.clone(), backend)).collect(),
    }
}

fn named(pools: Vec<Pool>) -> BTreeMap<String, Pool> {
    pools.into_iter().map(|pool| (pool.name.clone(), pool)).collect()
}

fn board() -> (Board, Recorder, UnboundedReceiver<HealthEvent>) {
    let (sender, events) = unbounded_channel();
    let recorder = Recorder::default();
    (Board::new(Box::new(recorder.clone()), sender), recorder, events)
}

fn at(millis: u64) -> Moment {
    Moment(millis * 1_000_000)
}

impl Board {
    fn load(&mut self, pools: Vec<Pool>, now: Moment) -> StreamChanges {
        self.update(&Targets { pools: named(pools), ..Targets::default() }, now)
    }

    /// Lets one probe of every stream pass.
    fn pass(&mut self, seq: Sequence, now: Moment) {
        for id in self.by_check.values().copied().collect::<Vec<_>>() {
            self.sent(id, seq, now, now);
            self.answered(id, seq, now, now);
        }
        self.flush(now);
    }

    fn stream_of(&self, last: u8) -> StreamId {
        let address = IpAddr::from([10, 0, 0, last]);
        let found = self.by_check.iter().find(|((of, ..), _)| *of == address);
        found.map(|(_, id)| *id).expect("a stream of that address")
    }

    fn health_of(&self, name: &str) -> Health {
        let all = self.snapshot(&Which::All, at(0));
        all.iter().find(|one| one.key.to_string() == name).map(|one| one.health).expect("a backend")
    }
}

#[test]
fn equal_checks_of_one_address_share_a_stream_and_each_pool_hears_its_result() {
    let (mut board, recorder, mut events) = board();
    let backends = || vec![backend("a", 1), backend("b", 2)];
    let pools = vec![
        pool("x", vec![check(CheckKind::Tcp)], backends()),
        pool("y", vec![check(CheckKind::Tcp)], backends()),
    ];
    assert_eq!(board.load(pools, at(0)).added.len(), 2);
    board.pass(1, at(1));
    recorder.take();
    while events.try_recv().is_ok() {}
    let id = board.stream_of(1);
    board.sent(id, 2, at(10), at(10));
    board.failed(id, 2, Failure::Refused, at(11));
    let down = |name: &str| (name.to_owned(), SlotState::Down);
    assert_eq!(recorder.take(), [down("x/a"), down("y/a")]);
    let event = events.try_recv().expect("an event");
    assert_eq!((event.from, event.to, event.kind), (Health::Up, Health::Down, Some(FailureKind::Hard)));
    assert_eq!(event.reason, "tcp 10.0.0.1:80: connection refused (1 in a row)");
    assert_eq!(event.detected_after, Duration::from_millis(1));
    assert_eq!(event.evidence.probes.last().and_then(|probe| probe.failure.clone()), Some(Failure::Refused));
}

#[test]
fn a_backend_adopted_as_suspect_stays_so_until_a_check_says_otherwise() {
    let (mut board, recorder, mut events) = board();
    let left =
        Adopted { health: Health::Suspect, kind: None, age: Duration::from_secs(1), why: "slow".to_owned() };
    let targets = Targets {
        pools: named(vec![pool(
            "x",
            vec![check(CheckKind::Tcp), check(CheckKind::Ping)],
            vec![backend("a", 1), backend("b", 2)],
        )]),
        adopted: [(BackendKey::new("x", "a"), left)].into(),
        ..Targets::default()
    };
    let ids = board.update(&targets, at(0)).added;
    assert_eq!(board.health_of("x/a"), Health::Suspect);
    board.sent(ids[1], 1, at(1), at(1));
    board.answered(ids[1], 1, at(1), at(1));
    board.flush(at(1));
    assert_eq!(board.health_of("x/a"), Health::Suspect, "of two checks one has said nothing");
    assert!(!recorder.take().contains(&("x/a".to_owned(), SlotState::Active)), "no new flows meanwhile");
    assert!(events.try_recv().is_err());
    board.pass(2, at(2));
    assert_eq!(board.health_of("x/a"), Health::Up);
}

#[test]
fn backend_is_up_only_when_all_its_checks_are() {
    let (mut board, _, _events) = board();
    let checks = vec![check(CheckKind::Tcp), check(CheckKind::Ping)];
    let ids = board.load(vec![pool("x", checks, vec![backend("a", 1)])], at(0)).added;
    board.sent(ids[0], 1, at(1), at(1));
    board.answered(ids[0], 1, at(1), at(1));
    assert_eq!(board.health_of("x/a"), Health::Unknown);
    board.sent(ids[1], 1, at(2), at(2));
    board.answered(ids[1], 1, at(2), at(2));
    assert_eq!(board.health_of("x/a"), Health::Up);
}

#[test]
fn backend_without_a_check_is_up_at_once() {
    let (mut board, recorder, _events) = board();
    board.load(vec![pool("x", vec![check(CheckKind::None)], vec![backend("a", 1)])], at(0));
    assert_eq!(board.health_of("x/a"), Health::Up);
    assert_eq!(recorder.take(), [("x/a".to_owned(), SlotState::Active)]);
}

#[test]
fn update_keeps_state_and_counters_of_equal_checks_and_starts_new_ones_unknown() {
    let (mut board, recorder, _events) = board();
    let tcp = || vec![check(CheckKind::Tcp)];
    let backends = vec![backend("a", 1), backend("b", 2), backend("c", 3)];
    board.load(vec![pool("x", tcp(), backends)], at(0));
    board.pass(1, at(1));
    board.pass(2, at(2));
    let kept = board.stream_of(1);
    recorder.take();
    // `b` moves to another address, `c` goes, `d` comes.
    let changes =
        board.load(vec![pool("x", tcp(), vec![backend("a", 1), backend("b", 9), backend("d", 4)])], at(3));
    assert_eq!((changes.added.len(), changes.removed.len()), (2, 2));
    assert_eq!(board.stream_of(1), kept);
    assert_eq!(board.stream(kept).map(|stream| stream.judge.counters()), Some((2, 0)));
    let health = ["x/a", "x/b", "x/d"].map(|name| board.health_of(name));
    assert_eq!(health, [Health::Up, Health::Unknown, Health::Unknown]);
    let kept_away = |name: &str| (name.to_owned(), SlotState::Suspect);
    assert_eq!(recorder.take(), [kept_away("x/b"), kept_away("x/d")]);
    assert!(changes.removed.iter().all(|id| board.stream(*id).is_none()));
}

fn adopted(health: Health, kind: Option<FailureKind>) -> Adopted {
    Adopted { health, kind, age: Duration::from_secs(60), why: "as it was".to_owned() }
}

#[test]
fn adopted_health_and_admin_state_hold_from_the_first_store() {
    let (mut board, recorder, _events) = board();
    let pools = named(vec![pool(
        "x",
        vec![check(CheckKind::Tcp)],
        vec![backend("a", 1), backend("b", 2), backend("c", 3)],
    )]);
    let key = |name: &str| BackendKey::new("x", name);
    let adopted = HashMap::from([
        (key("a"), adopted(Health::Up, None)),
        (key("b"), adopted(Health::Down, Some(FailureKind::Hard))),
        (key("c"), adopted(Health::Up, None)),
    ]);
    let admin = HashMap::from([(key("c"), Admin::Draining(Remaining::Usual))]);
    board.update(&Targets { pools, admin, adopted, ..Targets::default() }, at(0));
    let told = recorder.take();
    let wanted = [("x/a", SlotState::Active), ("x/b", SlotState::Down), ("x/c", SlotState::Draining)];
    assert_eq!(told, wanted.map(|(name, state)| (name.to_owned(), state)));
    let wish = |weight| Wish { admin: Admin::Active, weight };
    assert_eq!(board.set_wish(&key("c"), wish(100), at(1)), Some(()));
    assert_eq!(recorder.take(), [("x/c".to_owned(), SlotState::Active)]);
    assert_eq!(board.set_wish(&key("z"), wish(100), at(1)), None);
    assert_eq!(board.set_wish(&key("a"), wish(0), at(1)), Some(()));
    assert_eq!(recorder.take(), [("x/a".to_owned(), SlotState::Draining)]);
}

#[test]
fn slow_start_raises_the_share_step_by_step() {
    let (mut board, recorder, _events) = board();
    let ramped = Pool {
        slow_start: Duration::from_secs(2),
        ..pool("x", vec![check(CheckKind::Tcp)], vec![backend("a", 1), backend("b", 2)])
    };
    board.load(vec![ramped], at(0));
    board.pass(1, at(1));
    let id = board.stream_of(1);
    board.sent(id, 2, at(10), at(10));
    board.failed(id, 2, Failure::Refused, at(10));
    board.sent(id, 3, at(20), at(20));
    recorder.take();
    board.answered(id, 3, at(20), at(20));
    board.flush(at(20));
    while let Some(deadline) = board.next_deadline() {
        board.on_time(deadline);
        board.flush(deadline);
    }
    let shares: Vec<u16> = recorder.lock().iter().map(|(_, _, admit)| *admit).collect();
    assert_eq!((shares.first(), shares.last()), (Some(&100), Some(&1000)));
    assert!(shares.is_sorted() && shares.len() >= 15, "{shares:?}");
}

#[test]
fn reload_of_ten_thousand_backends_keeps_all_counters() {
    let (mut board, _, _events) = board();
    let backends = |count: u16| {
        let one = |index: u16| {
            let [high, low] = index.to_be_bytes();
            Backend { address: IpAddr::from([10, 1, high, low]), ..backend(&format!("b{index:05}"), 0) }
        };
        (0..count).map(one).collect::<Vec<_>>()
    };
    board.load(vec![pool("x", vec![check(CheckKind::Syn)], backends(10_000))], at(0));
    for id in board.by_check.values().copied().collect::<Vec<_>>() {
        board.stream_mut(id).expect("a stream").judge.sent(1, at(1), at(1));
        board.stream_mut(id).expect("a stream").judge.answered(1, at(1), at(1));
    }
    let started = std::time::Instant::now();
    let changes = board.load(vec![pool("x", vec![check(CheckKind::Syn)], backends(10_000))], at(2));
    println!("reload of 10,000 backends: {:?}", started.elapsed());
    assert!(changes.added.is_empty() && changes.removed.is_empty());
    assert!(board.streams.iter().flatten().all(|stream| stream.judge.counters() == (1, 0)));
}

#[test]
fn members_of_an_idle_tier_are_checked_and_their_slots_say_so() {
    let (mut board, recorder, _events) = board();
    let spare = |name, last| Backend { tier: 1, ..backend(name, last) };
    let backends = vec![backend("a", 1), spare("b", 2), spare("c", 3)];
    let changes = board.load(vec![pool("x", vec![check(CheckKind::Tcp)], backends)], at(0));
    assert_eq!(changes.added.len(), 3);
    board.pass(1, at(1));
    recorder.take();
    // The spare fails while nothing goes to it: when its tier is needed, that is known.
    let spare = board.stream_of(2);
    board.sent(spare, 2, at(10), at(10));
    board.failed(spare, 2, Failure::Refused, at(10));
    assert_eq!(recorder.take(), [("x/b".to_owned(), SlotState::Down)]);
    let first = board.stream_of(1);
    board.sent(first, 2, at(20), at(20));
    board.failed(first, 2, Failure::Refused, at(20));
    assert_eq!(recorder.take(), [("x/a".to_owned(), SlotState::Down)]);
    assert_eq!(board.pools[0].view.active_tier, Some(1));
    assert_eq!(board.pools[0].view.usable, [2]);
}
