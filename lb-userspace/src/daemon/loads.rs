//! The threads that read the flow tables again and again, a part at a time: one counts live flows for services that choose
//! backends by them, one takes back the marks of second buckets, one forgets what expired long ago.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_common::time::Tick;

use crate::flows::{self, LoadCount, PARTS, Settling};
use crate::maps::set::MapSet;

/// Shortest time of a count.
const PERIOD: Duration = Duration::from_secs(1);
/// How often marks are looked after.
const SETTLES_EVERY: Duration = Duration::from_secs(60);
/// How often old entries are looked for; the first time at once, so that daemons that live for less than that get to it.
const FORGETS_EVERY: Duration = Duration::from_secs(3600);
/// Most of a CPU that a thread takes, as one part in so many.
const SHARE: u32 = 10;

/// Starts the threads; they end with the process.
pub(super) fn start(maps: Arc<MapSet>) -> std::io::Result<()> {
    start_one("loads", maps.clone(), count)?;
    start_one("overflow", maps.clone(), settle)?;
    start_one("expired", maps, forget_old)
}

fn start_one(name: &str, maps: Arc<MapSet>, work: fn(&MapSet)) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        loop {
            work(&maps);
        }
    })?;
    Ok(())
}

fn now() -> Tick {
    Tick::from_ns(flows::now_ns())
}

/// Reads all parts, with rests between them.
fn pace(mut read: impl FnMut(usize)) {
    for part in 0..PARTS {
        let began = Instant::now();
        read(part);
        std::thread::sleep((PERIOD / PARTS as u32).max(began.elapsed() * (SHARE - 1)));
    }
}

fn count(maps: &MapSet) {
    let Some(mut count) = LoadCount::begin(maps) else {
        std::thread::sleep(PERIOD);
        return;
    };
    pace(|part| count.part(maps, part, now()));
    count.publish(maps, now());
}

fn settle(maps: &MapSet) {
    std::thread::sleep(SETTLES_EVERY);
    if let Some(mut settling) = Settling::begin(maps, now()) {
        pace(|part| settling.part(maps, part, now()));
        settling.finish(maps, now());
    }
}

fn forget_old(maps: &MapSet) {
    let mut forgotten = 0;
    pace(|part| forgotten += flows::forget_old(maps, part, now()));
    tracing::debug!("forgot {forgotten} entries that expired long ago");
    std::thread::sleep(FORGETS_EVERY);
}
