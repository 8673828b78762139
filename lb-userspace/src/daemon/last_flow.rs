//! When a backend was last sent a new flow, by the data plane's own counter.

use std::thread;
use std::time::{Duration, SystemTime};

/// Time between two looks.
const LOOK: Duration = Duration::from_micros(200);

/// Whether to look on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watch {
    On,
    Over,
}

/// Looks at a counter of new flows until it is over; the time of the last one since, to [`LOOK`]. Blocks.
pub(super) fn watch(
    mut count: impl FnMut() -> u64,
    mut whether: impl FnMut() -> Watch,
) -> Option<SystemTime> {
    let mut seen = count();
    let mut last = None;
    loop {
        let whether = whether();
        let now = count();
        if now != seen {
            (seen, last) = (now, Some(SystemTime::now()));
        }
        if whether == Watch::Over {
            return last;
        }
        thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_flow_is_the_last_change_of_the_counter() {
        let mut counts = [5, 5, 6, 7, 7].into_iter();
        let mut looks = [Watch::On, Watch::On, Watch::On, Watch::Over].into_iter();
        let before = SystemTime::now();
        let last = watch(|| counts.next().expect("a count"), || looks.next().expect("an end"));
        assert!(last.is_some_and(|last| last >= before));
        assert_eq!(watch(|| 5, || Watch::Over), None);
    }
}
