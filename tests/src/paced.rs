//! Work at a steady pace on a thread of its own, with a record of when it was done.
#![forbid(unsafe_code)]

use std::{
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::gate::monotonic;

/// How often a paused thread looks whether it is to go on.
const NAP: Duration = Duration::from_millis(1);

/// Before whatever else hurries: of threads with one priority a load would wait while a killed server with the other ends of its
/// memory goes, for a millisecond and more.
const PRIORITY_OF_LOADS: u8 = 2;

/// A thread that does something at a steady pace; stopped when dropped.
#[derive(Debug)]
pub struct Paced {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Whether something was done that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// It was, just now.
    Done,
    /// Not this time.
    Missed,
}

#[derive(Debug, Default)]
struct Shared {
    order: AtomicU8,
    /// Times of deeds, by [`monotonic`], ascending.
    done: Mutex<Vec<Duration>>,
}

/// What the thread is to do.
mod order {
    pub(super) const GO: u8 = 0;
    pub(super) const PAUSE: u8 = 1;
    pub(super) const STOP: u8 = 2;
}

impl Shared {
    fn done(&self) -> MutexGuard<'_, Vec<Duration>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Paced {
    /// Starts calling `act` with ascending numbers, each `pace` after the last.
    pub(crate) fn start(
        name: &str,
        pace: Duration,
        mut act: impl FnMut(u32) -> Deed + Send + 'static,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let run = move || {
            realtime(PRIORITY_OF_LOADS);
            let mut due = monotonic();
            for number in 0.. {
                while of_thread.order.load(Ordering::Relaxed) == order::PAUSE {
                    thread::sleep(NAP);
                    due = monotonic();
                }
                thread::sleep(due.saturating_sub(monotonic()));
                if of_thread.order.load(Ordering::Relaxed) == order::STOP {
                    return;
                }
                if act(number) == Deed::Done {
                    of_thread.done().push(monotonic());
                }
                // What was missed is not made up for: a burst would hide a gap.
                due = (due + pace).max(monotonic());
            }
        };
        let thread = thread::Builder::new().name(name.into()).spawn(run).context("start the load")?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Does nothing more until [`Paced::resume`].
    pub fn pause(&self) {
        self.shared.order.store(order::PAUSE, Ordering::Relaxed);
    }

    /// Goes on after a [`Paced::pause`].
    pub fn resume(&self) {
        self.shared.order.store(order::GO, Ordering::Relaxed);
    }

    /// The number of deeds so far.
    pub fn count(&self) -> usize {
        self.shared.done().len()
    }

    /// The number of deeds between two moments.
    pub fn count_between(&self, from: Duration, to: Duration) -> usize {
        let done = self.shared.done();
        done.partition_point(|at| *at <= to) - done.partition_point(|at| *at < from)
    }

    /// Deeds a second, over the whole time so far.
    pub fn rate(&self) -> f64 {
        let done = self.shared.done();
        let (Some(first), Some(last)) = (done.first(), done.last()) else { return 0.0 };
        done.len() as f64 / last.saturating_sub(*first).as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The longest time without a deed between two moments: what is measured by them is known to this.
    pub fn worst_gap(&self, from: Duration, to: Duration) -> Duration {
        let done = self.shared.done();
        let first = done.partition_point(|at| *at < from);
        let last = done.partition_point(|at| *at <= to);
        let within = done[first..last].iter().copied();
        let edges = [from].into_iter().chain(within.clone());
        edges
            .zip(within.chain([to]))
            .map(|(before, after)| after.saturating_sub(before))
            .max()
            .unwrap_or_default()
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.shared.order.store(order::STOP, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed.
            let _ = thread.join();
        }
    }
}

/// Puts the calling thread before all ordinary ones: what it does at a certain moment is done then, on a busy
/// machine too. Threads and processes that it starts later are like that as well.
///
/// Where that is refused it says so; [`Paced::worst_gap`] shows what that did to a load.
pub fn hurry() {
    realtime(1);
}

/// Moves the calling thread to SCHED_FIFO.
fn realtime(priority: u8) {
    let priority = priority.to_string();
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let status = Command::new("chrt").args(["--fifo", "--pid", &priority, &thread]).status();
    if !status.as_ref().is_ok_and(|status| status.success()) {
        eprintln!("no real-time priority: chrt: {status:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paced(done: &[u64]) -> Paced {
        let done = done.iter().map(|ms| Duration::from_millis(*ms)).collect();
        let shared = Shared { done: Mutex::new(done), ..Shared::default() };
        Paced { shared: Arc::new(shared), thread: None }
    }

    #[test]
    fn the_worst_gap_counts_both_ends_of_the_window() {
        let ms = Duration::from_millis;
        let load = paced(&[1, 2, 5, 6, 20]);
        assert_eq!(load.worst_gap(ms(1), ms(6)), ms(3));
        assert_eq!(load.worst_gap(ms(2), ms(12)), ms(6));
        assert_eq!(load.worst_gap(ms(7), ms(15)), ms(8));
        assert_eq!(load.count_between(ms(2), ms(6)), 3);
    }

    #[test]
    fn a_paused_thread_does_nothing_until_it_goes_on() {
        let load = Paced::start("test", Duration::from_millis(1), |_| Deed::Done).expect("a thread");
        let waits_for = |more: usize| {
            let from = load.count();
            while load.count() < from + more {
                thread::sleep(NAP);
            }
        };
        waits_for(3);
        load.pause();
        thread::sleep(20 * NAP);
        let paused = load.count();
        thread::sleep(20 * NAP);
        assert_eq!(load.count(), paused);
        load.resume();
        waits_for(3);
    }
}
