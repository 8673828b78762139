//! Configuration: what the operator asks for.
//!
//! Receives text, gives a validated [`model::Config`] or every problem found, each with its line. One
//! way: text → spanned tree → drafts (each table alone) → resolved → validated. Never writes a file, and
//! reads none but the config, what it includes, lists of prefixes, and the hash seed's.

#![forbid(unsafe_code)]

pub mod model;

mod check;
pub mod decap;
mod draft;
mod findings;
mod global;
mod hook;
mod interface;
mod keys;
mod limit;
mod list;
mod pool;
mod ports;
mod problem;
mod quic;
mod reader;
mod report;
mod resolve;
mod scalar;
mod service;
mod sight;
mod snat;
mod source;
mod table_size;
mod validate;
mod vip;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::rc::Rc;

use findings::Findings;
use model::Config;
pub use problem::{Problem, Problems, Severity};
pub use report::{CheckDetection, MapMemory, PoolDetection, Report, check_report, detection_bound};
pub(crate) use scalar::show;
use source::Source;

/// A configuration, and what is worth saying about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Findings that do not keep it from being used.
    pub warnings: Problems,
}

/// Reads and validates a config file.
///
/// # Errors
/// Every problem of the file and of those that it includes.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    build(&read_source(path)?)
}

/// Reads a file; one that cannot be read is a problem of its own.
fn read_source(path: &Path) -> Result<Rc<Source>, Problems> {
    Source::read(path).map_err(|message| {
        Problems(vec![Problem {
            severity: Severity::Error,
            file: path.to_owned(),
            line: None,
            column: None,
            subject: String::new(),
            key: String::new(),
            message,
            source_line: None,
        }])
    })
}

/// Validates a config's text; `file` is what messages name, and what `include` and `hash_seed` are
/// relative to.
///
/// # Errors
/// Every problem of the text and of the files that it includes.
pub fn parse(text: &str, file: &Path) -> Result<Loaded, Problems> {
    build(&Source::new(file, text.to_owned()))
}

fn build(main: &Rc<Source>) -> Result<Loaded, Problems> {
    let findings = Findings::default();
    let resolved = draft::read(main, &findings).map(|drafts| {
        let (mut config, places) = resolve::resolve(drafts, &findings);
        validate::validate(&mut config, &places, &findings);
        config
    });
    let refused = findings.has_errors();
    let problems = findings.into_problems();
    match resolved {
        Some(config) if !refused => Ok(Loaded { config, warnings: problems }),
        _ => Err(problems),
    }
}
