//! The `weir` binary on its host: the daemon as a process, and its command line.
#![forbid(unsafe_code)]

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::{host::Host, process::Process};

/// Names another binary than the one built beside the tests.
const BINARY_VARIABLE: &str = "WEIR_BIN";

/// How an instance of weir is run.
#[derive(Clone, Debug)]
pub struct WeirOptions {
    /// Names its directory and pins, so that several instances fit into a lab.
    pub name: String,
    /// What to wait for.
    pub wait: Wait,
    /// Environment of the daemon.
    pub environment: Vec<(String, String)>,
    /// How long it may take until it is ready.
    pub limit: Duration,
    /// Another build than the one beside the tests.
    pub binary: Option<PathBuf>,
}

/// What starting weir waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// `weir ready` exits with 0.
    Ready,
    /// The admin socket exists.
    Socket,
    /// Nothing: for configurations that the daemon must refuse.
    Nothing,
}

impl Default for WeirOptions {
    fn default() -> Self {
        Self {
            name: "weir".into(),
            wait: Wait::Ready,
            environment: Vec::new(),
            // The verifier alone takes ten seconds on a machine that is busy otherwise.
            limit: Duration::from_secs(40),
            binary: None,
        }
    }
}

/// An instance of weir: a daemon that may be running, its files and its command line.
///
/// Dropping it kills the daemon (SIGKILL); what it pinned goes with the lab.
#[derive(Debug)]
pub struct WeirProc {
    host: Host,
    binary: PathBuf,
    directory: PathBuf,
    bpffs: PathBuf,
    options: WeirOptions,
    process: Option<Process>,
}

impl WeirProc {
    pub(crate) fn start(
        host: Host,
        directory: PathBuf,
        bpffs: PathBuf,
        config: &str,
        options: WeirOptions,
    ) -> Result<Self> {
        let bpffs = bpffs.join(&options.name);
        let binary = options.binary.clone().map_or_else(binary, Ok)?;
        let mut weir = Self { host, binary, directory, bpffs, options, process: None };
        weir.write_config(config)?;
        weir.launch()?;
        Ok(weir)
    }

    /// Starts the daemon on the configuration in its file, and waits as the options say.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "weir runs already");
        let log = fs::File::options().create(true).append(true).open(self.log_path())?;
        let mut command = self.command(&["run"]);
        command.envs(self.options.environment.iter().map(|(key, value)| (key, value)));
        command.stdout(log.try_clone()?).stderr(log);
        self.process = Some(self.host.spawn(command)?);
        match self.options.wait {
            Wait::Ready => self.wait_until(|weir| Ok(weir.cli(&["ready"])?.status.success())),
            Wait::Socket => self.wait_until(|weir| Ok(weir.socket().exists())),
            Wait::Nothing => Ok(()),
        }
    }

    fn wait_until(&mut self, done: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + self.options.limit;
        loop {
            let done = done(self)?;
            if let Some(status) = self.process.as_mut().and_then(Process::exited) {
                bail!("weir ended ({status}) before it was ready:\n{}", self.log());
            }
            if done {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("weir is not ready after {:?}:\n{}", self.options.limit, self.log());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// A command of the binary with the paths of this instance, to be run on weir's host.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(self.config_path()).arg("--socket").arg(self.socket());
        command.arg("--state-dir").arg(self.state_dir()).arg("--bpffs").arg(&self.bpffs);
        command.args(arguments);
        command
    }

    /// Runs a verb of the command line on weir's host: `weir.cli(&["backend", "drain", "web-1"])`.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        self.host.output(&mut self.command(arguments))
    }

    /// Runs a verb that must succeed, and hands back its standard output.
    pub fn succeed(&self, arguments: &[&str]) -> Result<String> {
        let output = self.cli(arguments)?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("weir {}: {}: {}", arguments.join(" "), output.status, stderr.trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What `weir explain` says of a TCP SYN, against the instance and its live maps.
    pub fn explain(&self, from: SocketAddr, to: SocketAddr) -> Result<String> {
        let mut command = Command::new(&self.binary);
        command.arg("--socket").arg(self.socket()).arg("--bpffs").arg(&self.bpffs);
        command.args(["explain", "--from", &from.to_string(), "--to", &to.to_string()]);
        let output = self.host.output(&mut command)?;
        if !output.status.success() {
            bail!("weir explain: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a verb with `-o json`, and hands back what it printed.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.succeed(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("weir {} -o json: {text}", arguments.join(" ")))
    }

    /// Writes the configuration file; the daemon does not read it until told.
    pub fn write_config(&self, config: &str) -> Result<()> {
        fs::write(self.config_path(), config)
            .with_context(|| format!("write {}", self.config_path().display()))
    }

    /// Writes the configuration file and runs `weir reload`.
    pub fn reload(&self, config: &str) -> Result<Output> {
        self.write_config(config)?;
        self.cli(&["reload"])
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().context("weir does not run")?.signal(signal)
    }

    /// Kills the daemon (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Ends the daemon as a service manager does (SIGTERM) and waits for its end.
    pub fn terminate(&mut self) -> Result<()> {
        let mut process = self.process.take().context("weir does not run")?;
        process.signal(Signal::TERM)?;
        let status = process.wait(self.options.limit)?;
        ensure!(status.success(), "weir ended with {status} on SIGTERM:\n{}", self.log());
        Ok(())
    }

    /// Waits for a daemon that ends by itself, and hands back its exit code.
    pub fn exit_code(&mut self) -> Result<Option<i32>> {
        let mut process = self.process.take().context("weir does not run")?;
        Ok(process.wait(self.options.limit)?.code())
    }

    /// Forgets a daemon that has ended by itself, so that another one may be launched.
    pub fn forget_ended(&mut self) -> Result<()> {
        let ended = self.process.as_mut().is_none_or(|process| process.exited().is_some());
        ensure!(ended, "weir still runs");
        self.process = None;
        Ok(())
    }

    /// The daemon's process id.
    pub fn pid(&self) -> Option<Pid> {
        self.process.as_ref().map(Process::pid)
    }

    /// What the daemon printed so far, over all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The host it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Where it pins.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Where it keeps runtime changes.
    pub fn state_dir(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// The binary that is tested.
    pub fn binary() -> Result<PathBuf> {
        binary()
    }

    /// The admin socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("weir.sock")
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.directory.join("weir.toml")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("weir.log")
    }
}

impl Drop for WeirProc {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("--- the end of weir's log ---\n{tail}\n---");
        }
    }
}

/// The binary built beside the running executable, no older than its sources.
fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os(BINARY_VARIABLE) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "{BINARY_VARIABLE} names {}, which is no file", path.display());
        return Ok(path);
    }
    let executable = env::current_exe()?;
    // target/<profile>/deps/<test>-<hash>, or target/<profile>/xtask.
    let beside = executable.ancestors().skip(1).take(2).map(|directory| directory.join("weir"));
    let found = beside.into_iter().find(|path| path.is_file());
    let path = found.with_context(|| {
        format!(
            "no weir beside {}: run `cargo build -p lb-userspace` or `cargo xtask build`",
            executable.display()
        )
    })?;
    if let Some(source) = newer_source(&path)? {
        bail!(
            "{} is older than {source}: run `cargo build -p lb-userspace` or `cargo xtask build`",
            path.display()
        );
    }
    Ok(path)
}

/// A source file changed after the binary was built, by the dependencies cargo wrote down beside it.
fn newer_source(binary: &Path) -> Result<Option<String>> {
    let Ok(dependencies) = fs::read_to_string(binary.with_extension("d")) else { return Ok(None) };
    let built = fs::metadata(binary)?.modified()?;
    let sources = dependencies.split_once(": ").map_or("", |(_, sources)| sources);
    // Blanks inside a path are escaped.
    let sources = sources.replace("\\ ", "\0");
    let changed = |source: &String| {
        fs::metadata(source).and_then(|metadata| metadata.modified()).is_ok_and(|modified| modified > built)
    };
    Ok(sources.split_whitespace().map(|source| source.replace('\0', " ")).find(changed))
}
