//! What a command or an admin request failed with: a code for scripts, a message for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::api::Api;

/// Exit codes of `weir`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// It was tried and failed; also the answer "no" of `ready` and `status --check`.
    Failed = 1,
    /// Wrong usage, or an invalid config.
    Usage = 2,
    /// No daemon answers.
    Unreachable = 3,
    /// A named object does not exist.
    NotFound = 4,
    /// A guard refused; nothing was changed.
    Refused = 5,
    /// A deadline passed before the work was done.
    Deadline = 6,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Kinds of failure: the `code` of JSON errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Wrong options or arguments, or a request that cannot be read.
    Usage,
    /// The config has errors.
    InvalidConfig,
    /// The caller may not do this.
    Forbidden,
    /// No daemon answers.
    Unreachable,
    /// A named object does not exist.
    NotFound,
    /// A guard refused.
    Refused,
    /// A deadline passed.
    Deadline,
    /// Anything else; unknown codes read as this one.
    #[serde(other)]
    Failed,
}

impl Code {
    /// The exit code that goes with it.
    #[must_use]
    pub fn exit(self) -> Exit {
        match self {
            Self::Usage | Self::InvalidConfig => Exit::Usage,
            Self::Unreachable => Exit::Unreachable,
            Self::NotFound => Exit::NotFound,
            Self::Refused => Exit::Refused,
            Self::Deadline => Exit::Deadline,
            Self::Forbidden | Self::Failed => Exit::Failed,
        }
    }
}

/// A failure, as it is printed, sent and mapped to an exit code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For scripts.
    pub code: Code,
    /// For people: object, operation, cause, remedy.
    pub message: String,
}

impl Failure {
    /// A failure with this code and message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// A failure as a JSON document: `{"api":"weir/v1","error":{"code":"…","message":"…"}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureDocument {
    /// Version mark.
    #[serde(default)]
    pub api: Api,
    /// The failure.
    pub error: Failure,
}

impl From<Failure> for FailureDocument {
    fn from(error: Failure) -> Self {
        Self { api: Api, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_json_with_a_code_and_a_message() {
        let document =
            FailureDocument::from(Failure::new(Code::InvalidConfig, "weir.toml:3: unknown key `prot`"));
        let json = serde_json::to_string(&document).expect("serialises");
        assert_eq!(
            json,
            r#"{"api":"weir/v1","error":{"code":"invalid_config","message":"weir.toml:3: unknown key `prot`"}}"#
        );
        assert_eq!(serde_json::from_str::<FailureDocument>(&json).expect("parses"), document);
    }

    #[test]
    fn codes_of_a_newer_daemon_read_as_failed() {
        let failure: Failure =
            serde_json::from_str(r#"{"code":"from_the_future","message":"m"}"#).expect("parses");
        assert_eq!((failure.code, failure.code.exit()), (Code::Failed, Exit::Failed));
    }

    #[test]
    fn every_code_has_its_exit_code() {
        let codes = [
            (Code::Failed, 1),
            (Code::Forbidden, 1),
            (Code::Usage, 2),
            (Code::InvalidConfig, 2),
            (Code::Unreachable, 3),
            (Code::NotFound, 4),
            (Code::Refused, 5),
            (Code::Deadline, 6),
        ];
        for (code, exit) in codes {
            assert_eq!(code.exit() as u8, exit, "{code:?}");
        }
    }
}
