//! What the probe thread has to do, and when.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

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

/// Tasks by time. Times lie on grids, so that many tasks have the same.
#[derive(Debug, Default)]
pub(super) struct Timers {
    ahead: BTreeMap<Moment, Vec<(Task, StreamId)>>,
    /// The time whose turn has come, and what is left of its tasks, the next one last.
    turn: (Moment, Vec<(Task, StreamId)>),
}

impl Timers {
    /// Adds a task.
    pub(super) fn at(&mut self, at: Moment, stream: StreamId, task: Task) {
        self.ahead.entry(at).or_default().push((task, stream));
    }

    /// The time of the first task.
    pub(super) fn first(&self) -> Option<Moment> {
        let (turn, left) = &self.turn;
        let ahead = self.ahead.first_key_value().map(|(at, _)| *at);
        ahead.into_iter().chain((!left.is_empty()).then_some(*turn)).min()
    }

    /// Takes the first task if it is due. What is added for a time whose turn has come is next after that time's tasks.
    pub(super) fn pop_due(&mut self, now: Moment) -> Option<(Moment, StreamId, Task)> {
        if self.turn.1.is_empty() {
            let first = self.ahead.first_entry().filter(|first| *first.key() <= now)?;
            self.turn = first.remove_entry();
            self.turn.1.sort_unstable_by(|one, other| other.cmp(one));
        }
        let (at, left) = &mut self.turn;
        left.pop().map(|(task, stream)| (*at, stream, task))
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
