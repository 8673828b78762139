//! The log: one line an event on stderr, for people or as JSON.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::failure::{Code, Failure};

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people; systemd's journal adds the time.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// A level (`info`, `debug`), or a filter of tracing's: `warn,lb_userspace::health=debug`.
    pub level: String,
    /// Form.
    pub format: LogFormat,
}

/// Starts logging. Later calls of a process change nothing.
///
/// # Errors
/// When the level is neither a level nor a filter.
pub fn init(options: &LogOptions) -> Result<(), Failure> {
    let filter = filter(&options.level)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Told on stderr, which is what could not be written.
        .log_internal_errors(false)
        .with_ansi(anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never);
    let started = match (options.format, std::env::var_os("JOURNAL_STREAM")) {
        (LogFormat::Json, _) => builder.json().flatten_event(true).try_init(),
        (LogFormat::Text, Some(_)) => builder.compact().with_target(false).without_time().try_init(),
        (LogFormat::Text, None) => builder.compact().with_target(false).try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
    Ok(())
}

/// A bare level is weir's own; of the libraries' messages it lets warnings through.
fn filter(level: &str) -> Result<EnvFilter, Failure> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let directives = match LEVELS.contains(&level) {
        true => format!("warn,lb_userspace={level},weir={level}"),
        false => level.to_owned(),
    };
    if !LEVELS.contains(&level) && !level.contains(['=', ',']) {
        return Err(wrong(level));
    }
    EnvFilter::try_new(directives).map_err(|_| wrong(level))
}

fn wrong(level: &str) -> Failure {
    Failure::new(
        Code::Usage,
        format!(
            "--log-level `{level}`: expected error, warn, info, debug or trace, or a filter such as warn,lb_userspace::health=debug"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_applies_to_weir_and_leaves_libraries_at_warnings() {
        let filter = filter("debug").expect("reads").to_string();
        assert!(filter.contains("lb_userspace=debug") && filter.contains("warn"), "{filter}");
    }

    #[test]
    fn a_level_that_does_not_exist_is_a_usage_failure() {
        for level in ["loud", "", "lb_userspace=loud"] {
            assert_eq!(filter(level).expect_err("refused").code, Code::Usage, "{level}");
        }
        assert!(filter("warn,lb_userspace::health=debug").is_ok());
    }
}
