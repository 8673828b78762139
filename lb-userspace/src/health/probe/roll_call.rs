//! Whether every core has handled the packets that it has received.
//!
//! Answers can be in this host and yet in no socket. After two milliseconds of soft interrupts in a row the kernel leaves the
//! rest to the core's `ksoftirqd`, an ordinary thread, which on a busy core waits for a time slice of each other one; a
//! hypervisor may take a core away for longer. Every packet of the devices that the core was polling waits with it,
//! whichever core they are sent from, and no backend is silent.
//!
//! So there is a thread on each core that goes before ordinary ones. Called, it takes and releases a lock of the network's,
//! which runs what waits on its core (`__local_bh_enable_ip`, kernel/softirq.c), and answers. Once all have, what had arrived at the
//! time of the call is in the sockets. A core that does not answer in time is not waited for again until it has.
//!
//! Kernels before 6.5 leave the packets to a `ksoftirqd` that is awake: there a call finds only cores that do not run at all.

#![forbid(unsafe_code)]

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use rustix::net::connect_unspec;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::realtime;
use crate::health::time::Moment;

/// A judgement waits no longer than this for a core.
const PATIENCE: Duration = Duration::from_millis(50);
/// How often the answers are looked at.
const LOOK: Duration = Duration::from_micros(50);
/// All that a thread does fits in this.
const STACK: usize = 64 * 1024;
/// The call that ends the threads.
const END: u64 = u64::MAX;

/// The cores that this process may use.
#[derive(Debug, Default)]
pub(super) struct RollCall {
    cores: Vec<Core>,
    /// Number of the last call; what it is read from is shared by all.
    called: Arc<AtomicU64>,
    /// When the call was made that is not answered by all.
    open: Option<Moment>,
    /// When the last call was made that all have answered, or that has been given up.
    done: Moment,
}

/// How a call ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Time since the call.
    pub(super) took: Duration,
    /// Cores that have not answered.
    pub(super) missing: Vec<usize>,
}

/// A core's thread.
#[derive(Debug)]
struct Core {
    number: usize,
    thread: Thread,
    /// The last call that it answered.
    answered: Arc<AtomicU64>,
    /// A call that it was not waited for any longer; it is waited for again when it has answered.
    missed: Option<u64>,
}

impl RollCall {
    /// Starts the threads; without real-time priority they would wait like `ksoftirqd`.
    pub(super) fn start() -> io::Result<Self> {
        let may_use = sched_getaffinity(None)?;
        let called = Arc::new(AtomicU64::new(0));
        let cores = (0..CpuSet::MAX_CPU).filter(|core| may_use.is_set(*core));
        let cores = cores.map(|number| Core::start(number, called.clone())).collect::<io::Result<_>>()?;
        Ok(Self { cores, called, open: None, done: Moment::default() })
    }

    /// Looks who has answered; to be called before sockets are read. Tells how a call ended.
    pub(super) fn look(&mut self, now: Moment) -> Option<Ended> {
        let called_at = self.open?;
        let call = self.called.load(Ordering::Relaxed);
        let took = now.since(called_at);
        let late: Vec<&mut Core> = self.cores.iter_mut().filter_map(|core| core.if_late(call)).collect();
        if took < PATIENCE && !late.is_empty() {
            return None;
        }
        (self.open, self.done) = (None, called_at);
        let missing = late.into_iter().map(|core| {
            core.missed = Some(call);
            core.number
        });
        Some(Ended { took, missing: missing.collect() })
    }

    /// What had arrived by this moment has been read where sockets have just been read, at `now`.
    pub(super) fn handled_by(&self, now: Moment) -> Moment {
        if self.cores.is_empty() { now } else { self.done }
    }

    /// When to look again before anybody is judged who is due since `due`; `None` if what had arrived by then has been read.
    pub(super) fn wait_for(&mut self, due: Moment, now: Moment) -> Option<Moment> {
        if self.done >= due || self.cores.is_empty() {
            return None;
        }
        if self.open.is_none() {
            self.open = Some(now);
            self.called.fetch_add(1, Ordering::Relaxed);
            self.cores.iter().for_each(|core| core.thread.unpark());
        }
        Some(now + LOOK)
    }
}

impl Drop for RollCall {
    fn drop(&mut self) {
        self.called.store(END, Ordering::Relaxed);
        // Nobody waits for them: one may be on a core that does not run.
        self.cores.iter().for_each(|core| core.thread.unpark());
    }
}

impl Core {
    fn start(number: usize, called: Arc<AtomicU64>) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let answered = Arc::new(AtomicU64::new(0));
        let answers = answered.clone();
        let name = format!("weir-core/{number}");
        let thread = thread::Builder::new().name(name).stack_size(STACK).spawn(move || {
            let mut only = CpuSet::new();
            only.set(number);
            if let Err(error) = sched_setaffinity(None, &only).map_err(io::Error::from).and(realtime::enter())
            {
                tracing::warn!("keep a thread on core {number}: {error}");
            }
            loop {
                thread::park();
                let call = called.load(Ordering::Relaxed);
                if call == END {
                    return;
                }
                // Disconnecting takes the lock; it cannot fail, and a core that runs has answered in any case.
                let _ = connect_unspec(&socket);
                answers.store(call, Ordering::Release);
            }
        })?;
        Ok(Self { number, thread: thread.thread().clone(), answered, missed: None })
    }

    /// This core, if a call still waits for it.
    fn if_late(&mut self, call: u64) -> Option<&mut Self> {
        let answered = self.answered.load(Ordering::Acquire);
        self.missed = self.missed.filter(|missed| answered < *missed);
        (self.missed.is_none() && answered < call).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLED: Moment = Moment(1_000_000);

    /// Cores whose threads do nothing, and the calls that they have answered.
    fn cores(count: usize) -> (RollCall, Vec<Arc<AtomicU64>>) {
        let answered: Vec<_> = (0..count).map(|_| Arc::new(AtomicU64::new(0))).collect();
        let of = |(number, answered): (usize, &Arc<AtomicU64>)| Core {
            number,
            thread: thread::current(),
            answered: answered.clone(),
            missed: None,
        };
        let cores = answered.iter().enumerate().map(of).collect();
        let called = Arc::new(AtomicU64::new(0));
        (RollCall { cores, called, open: None, done: Moment::default() }, answered)
    }

    #[test]
    fn a_judgement_waits_for_all_cores_and_for_none_too_long() {
        let (mut calls, answered) = cores(2);
        assert_eq!(calls.wait_for(CALLED, CALLED), Some(CALLED + LOOK));
        answered[0].store(1, Ordering::Relaxed);
        assert_eq!(calls.look(CALLED + LOOK), None, "core 1 has not answered");
        assert!(calls.wait_for(CALLED, CALLED + LOOK).is_some());
        let end = calls.look(CALLED + PATIENCE).expect("an end");
        assert_eq!((end.took, end.missing), (PATIENCE, vec![1]));
        assert_eq!(calls.wait_for(CALLED, CALLED + PATIENCE), None);
        // What is due later needs another call, in which core 1 is not waited for.
        let later = CALLED + PATIENCE * 2;
        assert!(calls.wait_for(later, later).is_some());
        answered[0].store(2, Ordering::Relaxed);
        assert_eq!(calls.look(later + LOOK).expect("an end").missing, Vec::<usize>::new());
        // It is again when it has answered.
        answered[1].store(2, Ordering::Relaxed);
        let last = later + PATIENCE;
        assert!(calls.wait_for(last, last).is_some());
        answered[0].store(3, Ordering::Relaxed);
        assert_eq!(calls.look(last + LOOK), None);
        answered[1].store(3, Ordering::Relaxed);
        assert!(calls.look(last + LOOK).is_some());
    }

    #[test]
    fn a_call_that_was_made_before_is_not_enough() {
        let (mut calls, answered) = cores(1);
        assert!(calls.wait_for(CALLED, CALLED).is_some());
        let due = CALLED + LOOK / 2;
        answered[0].store(1, Ordering::Relaxed);
        assert!(calls.look(CALLED + LOOK).is_some());
        assert_eq!(calls.wait_for(CALLED, CALLED + LOOK), None);
        assert_eq!(calls.wait_for(due, CALLED + LOOK), Some(CALLED + LOOK * 2));
    }

    #[test]
    fn threads_answer_on_every_core_and_none_is_waited_for_where_there_are_none() {
        let mut calls = RollCall::start().expect("threads");
        assert!(!calls.cores.is_empty());
        let now = Moment::now();
        assert!(calls.wait_for(now, now).is_some());
        let end = loop {
            if let Some(end) = calls.look(now + LOOK) {
                break end;
            }
            thread::yield_now();
        };
        assert_eq!(end.missing, Vec::<usize>::new());
        assert_eq!(RollCall::default().wait_for(now, now), None);
    }
}
