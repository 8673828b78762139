//! The thread that counts live flows for services that choose backends by them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_common::time::Tick;

use crate::flows::{self, LoadCount, PARTS};
use crate::maps::set::MapSet;

/// Shortest time of a count.
const PERIOD: Duration = Duration::from_secs(1);
/// Most of a CPU that counting takes, as one part in so many.
const SHARE: u32 = 10;

/// Starts the thread; it ends with the process.
pub(super) fn start(maps: Arc<MapSet>) -> std::io::Result<()> {
    std::thread::Builder::new().name("loads".to_owned()).spawn(move || {
        loop {
            count(&maps);
        }
    })?;
    Ok(())
}

fn count(maps: &MapSet) {
    let now = || Tick::from_ns(flows::now_ns());
    let Some(mut count) = LoadCount::begin(maps) else {
        std::thread::sleep(PERIOD);
        return;
    };
    for part in 0..PARTS {
        let began = Instant::now();
        count.part(maps, part, now());
        std::thread::sleep((PERIOD / PARTS as u32).max(began.elapsed() * (SHARE - 1)));
    }
    count.publish(maps, now());
}
