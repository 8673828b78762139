//! Deadlines of a request's phases, on the async runtime.

#![forbid(unsafe_code)]

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::health::judge::{Failure, Phase};

/// A deadline noticed later than this says that this process was held up: the answer may be there, unread.
const LATE: Duration = Duration::from_millis(20);

/// The time that a probe has left.
#[derive(Debug)]
pub(super) struct TimeLeft {
    until: Instant,
}

impl TimeLeft {
    /// The whole probe has to be done within `limit`.
    pub(super) fn new(limit: Duration) -> Self {
        Self { until: Instant::now() + limit }
    }

    /// Runs a phase to its end, or to its deadline: `limit` from here, at most the end of the whole.
    ///
    /// A process that was stopped or starved meanwhile gets the phase's time once more.
    pub(super) async fn phase<T>(
        &mut self,
        phase: Phase,
        limit: Option<Duration>,
        work: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        tokio::pin!(work);
        let began = Instant::now();
        let until = limit.map_or(self.until, |limit| self.until.min(began + limit));
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = sleep_until(until) => {}
        }
        let late = until.elapsed();
        if late > LATE {
            let again = until.saturating_duration_since(began);
            self.until += late + again;
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = tokio::time::sleep(again) => {}
            }
        }
        Err(Failure::Stalled(phase))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_phase_ends_at_its_own_limit_and_at_the_end_of_the_whole() {
        let mut left = TimeLeft::new(100 * MS);
        let began = Instant::now();
        let forever = std::future::pending::<()>();
        assert_eq!(
            left.phase(Phase::Connect, Some(30 * MS), forever).await,
            Err(Failure::Stalled(Phase::Connect))
        );
        assert_eq!(began.elapsed().as_millis(), 30);
        assert_eq!(left.phase(Phase::Tls, None, tokio::time::sleep(50 * MS)).await, Ok(()));
        let forever = std::future::pending::<()>();
        assert_eq!(left.phase(Phase::Body, Some(90 * MS), forever).await, Err(Failure::Stalled(Phase::Body)));
        assert_eq!(began.elapsed().as_millis(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_was_held_up_waits_once_more() {
        let mut left = TimeLeft::new(100 * MS);
        // The clock jumps past the deadline before the runtime looks at it, as after SIGCONT.
        let work = async {
            tokio::time::advance(2000 * MS).await;
            tokio::time::sleep(50 * MS).await;
        };
        assert_eq!(left.phase(Phase::Connect, None, work).await, Ok(()));
        let forever = std::future::pending::<()>();
        assert_eq!(left.phase(Phase::Tls, None, forever).await, Err(Failure::Stalled(Phase::Tls)));
    }
}
