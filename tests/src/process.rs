//! Processes inside namespaces that never outlive the lab.

use std::{
    fs, io,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{
    Pid, Signal, kill_process, kill_process_group, set_parent_process_death_signal, test_kill_process_group,
};

use crate::netns::Netns;

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(1);

/// How long killed descendants may take to end.
const KILL_LIMIT: Duration = Duration::from_secs(2);

/// How long init takes at most until it has reaped a killed descendant, as a rule.
const REAP_LIMIT: Duration = Duration::from_millis(20);

/// Starts processes from one thread that lives as long as the lab.
///
/// The kernel sends the death signal when the *thread* that forked ends, so a test's own short-lived
/// threads must not fork.
#[derive(Debug)]
pub(crate) struct Spawner {
    requests: mpsc::Sender<Request>,
}

struct Request {
    netns: Netns,
    command: Command,
    answer: mpsc::Sender<Result<Child>>,
}

impl Spawner {
    /// Starts the thread; it ends when the spawner is dropped.
    pub(crate) fn new() -> Self {
        let (requests, inbox) = mpsc::channel::<Request>();
        thread::spawn(move || {
            for Request { netns, mut command, answer } in inbox {
                let child = netns.enter().and_then(|()| Ok(command.spawn()?));
                // Nobody waits for the answer only if the asking thread panicked.
                let _ = answer.send(child);
            }
        });
        Self { requests }
    }

    /// Starts a program in a namespace, in a process group of its own.
    ///
    /// `on_orphaned` is what the kernel sends it when the lab's process dies without cleaning up.
    pub(crate) fn spawn(&self, netns: &Netns, mut command: Command, on_orphaned: Signal) -> Result<Process> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.process_group(0);
        let prepare = move || set_parent_process_death_signal(Some(on_orphaned)).map_err(io::Error::from);
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(prepare) };
        let (answer, reply) = mpsc::channel();
        let request = Request { netns: netns.clone(), command, answer };
        self.requests.send(request).map_err(|_| anyhow!("start {program}: the lab is gone"))?;
        let child = reply.recv().context("the spawner thread ended")?;
        let child = child.with_context(|| format!("start {program} in {}", netns.name()))?;
        Ok(Process { child, program })
    }
}

/// A running program and its descendants; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    program: String,
}

impl Process {
    /// The process id, which is also its process group's.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Takes the standard output, if the command piped it.
    pub fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// The exit status, if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap_or_else(|_| Some(ExitStatus::from_raw(0)))
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid(), signal).with_context(|| format!("signal {}", self.program))
    }

    /// Sends a signal to the process and its descendants.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        kill_process_group(self.pid(), signal)
            .with_context(|| format!("signal {} and its children", self.program))
    }

    /// Kills the process and its descendants at once (SIGKILL), and waits for their end: their ports
    /// are free then.
    pub fn kill(&mut self) {
        // Refused only when nobody is left in the group.
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
        let begin = Instant::now();
        // A look through /proc takes a processor for longer than most need to die: a measurement would suffer from it.
        while group_is_known(self.pid()) && begin.elapsed() < REAP_LIMIT {
            thread::sleep(POLL);
        }
        while group_is_known(self.pid()) && group_lives(self.pid()) && begin.elapsed() < KILL_LIMIT {
            thread::sleep(POLL);
        }
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.exited() {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} still runs after {limit:?}", self.program);
            }
            thread::sleep(POLL);
        }
    }
}

/// Whether a process group has a member, a zombie that nobody has reaped yet or any other.
fn group_is_known(group: Pid) -> bool {
    test_kill_process_group(group).is_ok()
}

/// Whether a process group has a member that is no zombie: a zombie has closed its sockets.
fn group_lives(group: Pid) -> bool {
    let Ok(entries) = fs::read_dir("/proc") else { return false };
    let lives = |stat: String| {
        // pid (name) state parent group …; the name may hold anything.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?;
        let of: i32 = fields.nth(1)?.parse().ok()?;
        Some(of == group.as_raw_nonzero().get() && state != "Z" && state != "X")
    };
    let stats = entries.flatten().filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    stats.filter_map(lives).any(|lives| lives)
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
