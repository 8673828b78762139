//! Real-time scheduling of the calling thread.

use std::io;
use std::num::NonZeroU64;

use rustix::thread::set_current_timer_slack;

/// Above ordinary threads, below the kernel's own.
const PRIORITY: libc::c_int = 10;

/// Moves the calling thread to `SCHED_FIFO`, and lets its timers fire exactly where that is refused.
pub(super) fn enter() -> io::Result<()> {
    // Real-time threads have no slack anyway; for others the default is 50 µs.
    let _ = set_current_timer_slack(NonZeroU64::new(1));
    let parameters = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: the pointer is to a live, initialised `sched_param` that the call only reads; 0 is this thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
