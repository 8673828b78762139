//! What the probe thread has to do, and when.

#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::health::board::StreamId;
use crate::health::judge::Sequence;
use crate::health::time::Moment;

/// A thing to do for a stream. The order breaks ties: judge before sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    /// Judge silence.
    Judge,
    /// Send a probe's second packet if the first is unanswered.
    Repeat(Sequence),
    /// Send the next probe.
    Send,
}

/// Tasks by time.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Moment, Task, StreamId)>>,
}

impl Timers {
    /// Adds a task.
    pub(super) fn at(&mut self, at: Moment, stream: StreamId, task: Task) {
        self.heap.push(Reverse((at, task, stream)));
    }

    /// The time of the first task.
    pub(super) fn first(&self) -> Option<Moment> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    /// Takes the first task if it is due.
    pub(super) fn pop_due(&mut self, now: Moment) -> Option<(Moment, StreamId, Task)> {
        self.first().filter(|at| *at <= now)?;
        self.heap.pop().map(|Reverse((at, task, stream))| (at, stream, task))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_come_in_order_of_time_and_judging_before_sending() {
        let stream = StreamId { index: 0, generation: 1 };
        let mut timers = Timers::default();
        timers.at(Moment(20), stream, Task::Judge);
        timers.at(Moment(10), stream, Task::Send);
        timers.at(Moment(10), stream, Task::Judge);
        assert_eq!(timers.pop_due(Moment(9)), None);
        assert_eq!(timers.pop_due(Moment(10)), Some((Moment(10), stream, Task::Judge)));
        assert_eq!(timers.pop_due(Moment(10)), Some((Moment(10), stream, Task::Send)));
        assert_eq!((timers.pop_due(Moment(10)), timers.first()), (None, Some(Moment(20))));
    }
}
