//! The ring on a real disk: cut off at every byte, filled beyond its limit, read while it is written.

use std::collections::BTreeMap;

use super::*;
use crate::events::state::{Backend, Pool};

const LIMIT: u64 = 1 << 20;

fn time(second: i64) -> Timestamp {
    Timestamp::constant(1_795_000_000 + second, 0)
}

fn state(backends: usize) -> State {
    let backend = |number| {
        let backend = Backend {
            health: "up".to_owned(),
            since: time(0),
            why: "syn 10.0.0.11:80: 2 answered in a row".to_owned(),
            admin: "active".to_owned(),
            weight: 100,
            note: None,
        };
        (format!("web-{number}"), backend)
    };
    let backends = (0..backends).map(backend).collect();
    let pool = Pool { active_tier: Some(0), rollout: None, backends };
    State { pools: BTreeMap::from([("web".to_owned(), pool)]), ..State::default() }
}

fn down(backend: &str) -> Event {
    Event::new(Kind::Health, time(1))
        .of_backend("web", backend)
        .was("up")
        .is("down")
        .because("syn 10.0.0.11:80: connection refused (2 in a row)")
}

fn numbers(content: &Content) -> Vec<u64> {
    content.events.iter().map(|event| event.seq).collect()
}

fn size(directory: &Path) -> u64 {
    let files = files(&directory.join(DIRECTORY)).expect("lists");
    files.iter().map(|(_, path)| fs::metadata(path).expect("is there").len()).sum()
}

#[test]
fn events_are_read_back_in_order_also_by_the_next_daemon() {
    let directory = tempfile::tempdir().expect("directory");
    assert_eq!(read(directory.path(), None).expect("reads"), Content::default(), "no ring is an empty one");
    for daemon in 0..2 {
        let mut ring = Ring::open(directory.path(), LIMIT).expect("opens");
        ring.begin(state(2), time(daemon)).expect("begins");
        ring.append(&mut [down("web-0"), down("web-1")], time(daemon)).expect("appends");
        ring.sync().expect("syncs");
        assert_eq!(ring.state().pools["web"].backends["web-1"].health, "down");
    }
    let content = read(directory.path(), None).expect("reads");
    assert_eq!((numbers(&content), content.unreadable), (vec![1, 2, 3, 4, 5, 6], 0));
    let late = read(directory.path(), Some(4)).expect("reads");
    assert_eq!(numbers(&late), [4, 5, 6], "files of earlier numbers are left out");
}

#[test]
fn a_write_cut_off_at_any_byte_costs_that_event_alone() {
    let source = tempfile::tempdir().expect("directory");
    let mut ring = Ring::open(source.path(), LIMIT).expect("opens");
    ring.begin(state(1), time(0)).expect("begins");
    ring.append(&mut [down("web-0")], time(1)).expect("appends");
    let (_, path) = files(&source.path().join(DIRECTORY)).expect("lists").remove(0);
    let whole = fs::read(&path).expect("reads");
    let snapshot = whole.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    for cut in 0..=whole.len() {
        let directory = tempfile::tempdir().expect("directory");
        fs::create_dir(directory.path().join(DIRECTORY)).expect("makes");
        let torn = directory.path().join(DIRECTORY).join(path.file_name().expect("a name"));
        fs::write(&torn, &whole[..cut]).expect("writes");
        let survived = read(directory.path(), None).expect("reads").events.len();
        // A line without its newline is whole.
        let wanted = usize::from(cut + 1 >= snapshot) + usize::from(cut + 1 >= whole.len());
        assert_eq!(survived, wanted, "cut at {cut}");

        let mut ring = Ring::open(directory.path(), LIMIT).expect("opens");
        ring.begin(state(1), time(2)).expect("begins");
        ring.append(&mut [down("web-0")], time(3)).expect("appends");
        let content = read(directory.path(), None).expect("reads");
        assert_eq!(content.events.len(), survived + 2, "cut at {cut}");
        let numbers = numbers(&content);
        assert!(numbers.is_sorted_by(|a, b| a < b), "cut at {cut}: {numbers:?}");
    }
}

#[test]
fn the_ring_stays_within_its_limit_and_what_is_left_tells_a_state() {
    let directory = tempfile::tempdir().expect("directory");
    let mut ring = Ring::open(directory.path(), LIMIT).expect("opens");
    ring.begin(state(20), time(0)).expect("begins");
    let batch = || (0..50).map(|number| down(&format!("web-{}", number % 20))).collect::<Vec<_>>();
    for _ in 0..200 {
        ring.append(&mut batch(), time(1)).expect("appends");
        assert!(size(directory.path()) <= LIMIT, "{} bytes", size(directory.path()));
    }
    let content = read(directory.path(), None).expect("reads");
    assert!(size(directory.path()) > LIMIT / 2, "most of the limit is used");
    assert_eq!(content.events[0].kind, Kind::Snapshot);
    assert!(content.events[0].seq > 1, "the oldest went");
    let last = content.events.last().expect("events").seq;
    assert_eq!(numbers(&content), (content.events[0].seq..=last).collect::<Vec<_>>(), "none in between");
}

#[test]
fn a_snapshot_larger_than_a_file_does_not_make_every_event_a_file() {
    let directory = tempfile::tempdir().expect("directory");
    let mut ring = Ring::open(directory.path(), LIMIT).expect("opens");
    ring.begin(state(10_000), time(0)).expect("begins");
    for number in 0..500 {
        ring.append(&mut [down(&format!("web-{number}"))], time(1)).expect("appends");
    }
    assert_eq!(files(&directory.path().join(DIRECTORY)).expect("lists").len(), 1);
}

#[test]
fn a_full_disk_loses_events_and_no_file() {
    let directory = tempfile::tempdir().expect("directory");
    let mut ring = Ring::open(directory.path(), LIMIT).expect("opens");
    ring.begin(state(1), time(0)).expect("begins");
    // What a failed write leaves: half a line, and no file at hand.
    let (_, path) = files(&directory.path().join(DIRECTORY)).expect("lists").remove(0);
    let mut file = OpenOptions::new().append(true).open(path).expect("opens");
    file.write_all(b"{\"api\":\"weir/v1\",\"seq\":2,").expect("writes");
    ring.file = None;
    ring.append(&mut [down("web-0")], time(1)).expect("appends");
    let content = read(directory.path(), None).expect("reads");
    assert_eq!((content.events.len(), content.unreadable), (3, 1));
    assert_eq!(content.events[2].kind, Kind::Health);
}
