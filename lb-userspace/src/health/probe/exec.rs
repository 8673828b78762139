//! `exec`: a program of the operator's, in a process group of its own, on the async runtime.
//!
//! At the timeout the whole group is killed, so that nothing of a program that hangs is left.

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};

use super::connect::Outcome;
use super::phases::TimeLeft;
use crate::config::model::ExecCheck;
use crate::health::judge::{Failure, Phase};

/// The end of the output that is kept, in bytes.
const OUTPUT_KEPT: usize = 4096;
/// The part of a line that is shown, in characters.
const LINE_SHOWN: usize = 200;

/// Kills a process group when it goes out of scope.
struct Group(Option<Pid>);

impl Group {
    /// Lets the group be: its first process has ended by itself.
    fn spare(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Fails where every process of the group has ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs the program about a backend, for at most `limit`.
pub(super) async fn probe(to: SocketAddr, check: &ExecCheck, backend: &str, limit: Duration) -> Outcome {
    let (child, output) = match start(to, check, backend) {
        Ok(started) => started,
        Err(error) => {
            let text = format!("start {}: {error}", check.program.display());
            return Outcome::NotTried(io::Error::new(error.kind(), text));
        }
    };
    let mut tail = Vec::new();
    let ended = TimeLeft::new(limit).phase(Phase::Command, None, run(child, output, &mut tail)).await;
    match ended {
        Err(failure) => Outcome::Failed(failure),
        Ok(Err(error)) => Outcome::NotTried(error),
        Ok(Ok(status)) if status.success() => Outcome::Open,
        Ok(Ok(status)) => Outcome::Failed(Failure::Command(describe(status, &tail))),
    }
}

/// Starts the program; both of its outputs go into one pipe.
fn start(to: SocketAddr, check: &ExecCheck, backend: &str) -> io::Result<(Child, Receiver)> {
    let (output, input) = io::pipe()?;
    let mut command = Command::new(&check.program);
    command.args(&check.arguments).current_dir("/").process_group(0).kill_on_drop(true);
    command.env("WEIR_BACKEND", backend).env("WEIR_ADDRESS", to.ip().to_string());
    // Zero stands for a check without a port.
    if to.port() != 0 {
        command.env("WEIR_PORT", to.port().to_string());
    }
    command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
    let child = command.spawn()?;
    Ok((child, Receiver::from_owned_fd(output.into())?))
}

/// Waits for the program's end; where nobody waits any more, its whole group ends.
async fn run(mut child: Child, mut output: Receiver, tail: &mut Vec<u8>) -> io::Result<ExitStatus> {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    // Dropped before `child`, which keeps the process id from meaning another process.
    let group = Group(pid);
    let mut reading = Reading::Open;
    let status = loop {
        tokio::select! {
            read = read(&mut output, tail), if reading == Reading::Open => reading = read,
            status = child.wait() => break status,
        }
    };
    group.spare();
    // What was written before the end is in the pipe; a process left behind may keep that open.
    let mut buffer = [0; OUTPUT_KEPT];
    while let Ok(length @ 1..) = output.try_read(&mut buffer) {
        keep(tail, &buffer[..length]);
    }
    status
}

/// Whether more output may come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Open,
    Done,
}

/// Reads some output.
async fn read(output: &mut Receiver, tail: &mut Vec<u8>) -> Reading {
    let mut buffer = [0; 1024];
    match output.read(&mut buffer).await {
        Ok(length @ 1..) => {
            keep(tail, &buffer[..length]);
            Reading::Open
        }
        Ok(0) | Err(_) => Reading::Done,
    }
}

/// Appends, and keeps the last part.
fn keep(tail: &mut Vec<u8>, more: &[u8]) {
    tail.extend_from_slice(more);
    let surplus = tail.len().saturating_sub(OUTPUT_KEPT);
    tail.drain(..surplus);
}

/// How the program ended, and its last words.
fn describe(status: ExitStatus, tail: &[u8]) -> String {
    let text = String::from_utf8_lossy(tail);
    let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let shown: String = last.chars().filter(|char| !char.is_control()).take(LINE_SHOWN).collect();
    match shown.is_empty() {
        true => status.to_string(),
        false => format!("{status}: {shown}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn the_last_line_that_says_something_is_shown() {
        let said = |code: i32, text: &str| describe(ExitStatus::from_raw(code << 8), text.as_bytes());
        assert_eq!(said(1, "asking\nreplica lags 40 s\n\n"), "exit status: 1: replica lags 40 s");
        assert_eq!(said(2, ""), "exit status: 2");
        assert_eq!(said(2, &"x".repeat(300)).len(), "exit status: 2: ".len() + 200);
        assert_eq!(describe(ExitStatus::from_raw(9), b""), "signal: 9 (SIGKILL)");
    }
}
