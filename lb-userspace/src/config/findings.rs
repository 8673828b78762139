//! Collects problems while the configuration is read, so that one run reports all of them.

use std::cell::RefCell;
use std::collections::HashMap;

use super::problem::{Problem, Problems, Severity};
use super::source::Place;

/// Problems found so far. Shared by every reader, hence the cell.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// By the order in which they were found.
    problems: RefCell<HashMap<Problem, usize>>,
}

impl Findings {
    /// Adds a problem that makes the configuration unusable.
    pub(crate) fn error(&self, place: &Place, subject: &str, key: &str, message: impl Into<String>) {
        self.add(Severity::Error, place, subject, key, message.into());
    }

    /// Adds a remark about a configuration that is used all the same.
    pub(crate) fn warning(&self, place: &Place, subject: &str, key: &str, message: impl Into<String>) {
        self.add(Severity::Warning, place, subject, key, message.into());
    }

    /// Drops repetitions: a value of `[defaults]` is read once per table that takes it.
    fn add(&self, severity: Severity, place: &Place, subject: &str, key: &str, message: String) {
        let problem = Problem {
            severity,
            file: place.source.file.clone(),
            line: Some(place.line),
            column: Some(place.column),
            subject: subject.to_owned(),
            key: key.to_owned(),
            message,
            source_line: Some(place.source.line(place.line).to_owned()),
        };
        let mut problems = self.problems.borrow_mut();
        let order = problems.len();
        problems.entry(problem).or_insert(order);
    }

    /// Whether the configuration is unusable.
    pub(crate) fn has_errors(&self) -> bool {
        self.problems.borrow().keys().any(|problem| problem.severity == Severity::Error)
    }

    /// Everything found, by file and place; files in the order in which they were first named.
    pub(crate) fn into_problems(self) -> Problems {
        let mut problems: Vec<(Problem, usize)> = self.problems.into_inner().into_iter().collect();
        problems.sort_by_key(|(_, order)| *order);
        let mut problems: Vec<Problem> = problems.into_iter().map(|(problem, _)| problem).collect();
        let mut files = Vec::new();
        for problem in &problems {
            if !files.contains(&problem.file) {
                files.push(problem.file.clone());
            }
        }
        problems.sort_by_key(|problem| {
            let file = files.iter().position(|file| *file == problem.file);
            (file, problem.line, problem.column)
        });
        Problems(problems)
    }
}
