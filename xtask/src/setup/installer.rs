//! Runs installing commands and shows their progress; where they must not run, collects them to be printed.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::process;

/// What may be done about a missing item.
enum Means {
    /// Root on Debian: install it.
    Install,
    /// Anybody else: tell the commands.
    Tell { commands: Vec<String>, reason: &'static str },
}

/// Installs missing items one by one.
pub(super) struct Installer {
    means: Means,
    lists_are_fresh: bool,
    item_started: Instant,
}

impl Installer {
    /// Looks at who runs this and on which system.
    pub(super) fn for_this_machine() -> Self {
        // The owner of this process' folder is its effective user.
        let root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
        let tell = |reason| Means::Tell { commands: Vec::new(), reason };
        let means = match (is_debian(), root) {
            (true, true) => Means::Install,
            (true, false) => tell("installing needs root"),
            (false, _) => tell("this is not Debian: take these as a list of what is missing"),
        };
        Self { means, lists_are_fresh: false, item_started: Instant::now() }
    }

    /// Whether commands run, as opposed to being told.
    pub(super) fn installs(&self) -> bool {
        matches!(self.means, Means::Install)
    }

    /// Says that an item is there.
    pub(super) fn ok(&mut self, item: &str, detail: &str) {
        println!("{item:<20} ok: {detail} ({})", seconds(self.item_started));
        self.item_started = Instant::now();
    }

    /// Runs `commands`, or notes them down to be told at the end.
    ///
    /// # Errors
    /// When one of them fails; the later ones are then not run.
    pub(super) fn install(&mut self, item: &str, what: &str, commands: Vec<Command>) -> Result<()> {
        match &mut self.means {
            Means::Tell { commands: told, .. } => {
                println!("{item:<20} missing: {what}");
                told.extend(commands.iter().map(process::shell_line));
            }
            Means::Install => {
                print!("{item:<20} installing {what} … ");
                std::io::stdout().flush()?;
                for mut command in commands {
                    if let Err(error) = process::output(&mut command) {
                        println!("failed ({})", seconds(self.item_started));
                        self.item_started = Instant::now();
                        return Err(error.context(format!("install {what}")));
                    }
                }
                println!("installed ({})", seconds(self.item_started));
            }
        }
        self.item_started = Instant::now();
        Ok(())
    }

    /// Installs Debian packages, without starting the services some of them bring.
    ///
    /// # Errors
    /// When apt-get fails, or would have to remove a package.
    pub(super) fn install_packages(&mut self, item: &str, packages: &[String]) -> Result<()> {
        let _services = if self.installs() { HeldServices::hold()? } else { None };
        self.refresh_lists();
        let mut install = self.apt_get();
        install.args(["install", "--yes", "--no-install-recommends", "--no-remove"]).args(packages);
        let mut commands = vec![install];
        let daemons = packages.iter().filter_map(|package| match package.as_str() {
            "nginx-light" => Some("nginx"),
            "haproxy" => Some("haproxy"),
            "lighttpd" => Some("lighttpd"),
            _ => None,
        });
        let daemons: Vec<&str> = daemons.collect();
        if !daemons.is_empty() && process::find("systemctl").is_some() {
            let mut disable = self.as_root("systemctl");
            disable.args(["disable", "--quiet"]);
            if Path::new("/run/systemd/system").exists() {
                disable.arg("--now");
            }
            disable.args(daemons);
            commands.push(disable);
        }
        self.install(item, &packages.join(" "), commands)
    }

    /// Whether Debian has `package`; yes where that cannot be asked.
    pub(super) fn debian_has(&mut self, package: &str) -> bool {
        if !is_debian() {
            return true;
        }
        if self.installs() {
            self.refresh_lists();
        }
        let policy = process::output(process::command("apt-cache").args(["policy", package]));
        policy.is_ok_and(|text| {
            let candidate = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
            candidate.is_some_and(|version| version != "(none)")
        })
    }

    /// Ends the run.
    ///
    /// # Errors
    /// When something is missing and had to be told instead of installed.
    pub(super) fn finish(self) -> Result<()> {
        match self.means {
            Means::Tell { commands, reason } if !commands.is_empty() => {
                println!("\nrun these, then this task again ({reason}):");
                commands.iter().for_each(|line| println!("  {line}"));
                bail!("set up this machine: something is missing, see above")
            }
            _ => Ok(()),
        }
    }

    /// Fetches the lists of packages, once a run.
    fn refresh_lists(&mut self) {
        if std::mem::replace(&mut self.lists_are_fresh, true) {
            return;
        }
        let mut update = self.apt_get();
        update.arg("update");
        match &mut self.means {
            // Where one source of several does not answer, what comes next still may be on the other lists.
            Means::Install => drop(process::output(&mut update)),
            Means::Tell { commands, .. } => commands.push(process::shell_line(&update)),
        }
    }

    fn apt_get(&self) -> Command {
        let mut command = self.as_root("apt-get");
        if self.installs() {
            // Some packages ask questions, tshark among them.
            command.env("DEBIAN_FRONTEND", "noninteractive");
        }
        command
    }

    fn as_root(&self, program: &str) -> Command {
        match self.means {
            Means::Install => process::command(program),
            Means::Tell { .. } => {
                let mut command = process::command("sudo");
                command.arg(program);
                command
            }
        }
    }
}

/// Keeps Debian from starting services while packages are installed; the tests start their own.
struct HeldServices;

impl HeldServices {
    const POLICY: &str = "/usr/sbin/policy-rc.d";
    const MARK: &str = "# cargo xtask setup";

    fn hold() -> Result<Option<Self>> {
        match fs::read_to_string(Self::POLICY) {
            Ok(text) if !text.contains(Self::MARK) => return Ok(None),
            _ => {}
        }
        // Should this process be killed, the file that stays allows everything again.
        let script =
            format!("#!/bin/sh\n{}\n[ -d /proc/{} ] && exit 101\nexit 0\n", Self::MARK, std::process::id());
        fs::write(Self::POLICY, script).with_context(|| format!("write {}", Self::POLICY))?;
        fs::set_permissions(Self::POLICY, fs::Permissions::from_mode(0o755))?;
        Ok(Some(Self))
    }
}

impl Drop for HeldServices {
    fn drop(&mut self) {
        let _ = fs::remove_file(Self::POLICY);
    }
}

fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.lines().any(|line| line == "ID=debian")
}

fn seconds(since: Instant) -> String {
    format!("{:.1} s", since.elapsed().as_secs_f64())
}
