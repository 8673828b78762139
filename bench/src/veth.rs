//! A veth in a network namespace of the bench's own.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The end that frames are sent by.
pub(crate) const NEAR: &str = "near";
/// The end that the program under test is attached to.
pub(crate) const FAR: &str = "far";

/// The namespace; its name is removed when it goes, and it with its last process.
pub(crate) struct Veth {
    name: String,
}

impl Veth {
    /// Makes the namespace and the veth, and moves the calling thread into it for good.
    ///
    /// # Errors
    /// Without root or iproute2.
    pub(crate) fn enter() -> Result<Self> {
        let name = format!("weir-bench-{}", std::process::id());
        ip(&["netns", "add", &name])?;
        let veth = Self { name };
        let path = format!("/run/netns/{}", veth.name);
        let file = File::open(&path).with_context(|| format!("open {path}"))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("enter network namespace {}", veth.name))?;
        for end in [NEAR, FAR] {
            // Neighbour discovery would be frames that nobody sent.
            let path = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
            fs::write(path, "1").with_context(|| format!("write {path} for {end}"))?;
        }
        ip(&["link", "add", NEAR, "type", "veth", "peer", "name", FAR])?;
        for end in [NEAR, FAR] {
            ip(&["link", "set", end, "up"])?;
        }
        Ok(veth)
    }

    /// Moves the near end to a host of its own, 10.0.0.1, which has all of 10.64.0.0/10 behind it and answers for it;
    /// the far end is 10.0.0.2.
    ///
    /// # Errors
    /// Where `ip` refuses.
    pub(crate) fn with_router(self) -> Result<Self> {
        let router = self.router();
        ip(&["netns", "add", &router])?;
        ip(&["link", "set", NEAR, "netns", &router])?;
        ip(&["address", "add", "10.0.0.2/16", "dev", FAR])?;
        ip(&["route", "add", "10.64.0.0/10", "via", "10.0.0.1"])?;
        for line in [
            format!("address add 10.0.0.1/16 dev {NEAR}"),
            format!("link set {NEAR} up"),
            "link set lo up".to_owned(),
            "route add local 10.64.0.0/10 dev lo".to_owned(),
        ] {
            let words: Vec<&str> = ["-n", &router].into_iter().chain(line.split(' ')).collect();
            ip(&words)?;
        }
        Ok(self)
    }

    /// Runs something on that host, on a thread of its own.
    ///
    /// # Errors
    /// Where the host's namespace cannot be entered.
    ///
    /// # Panics
    /// Where it does.
    pub(crate) fn on_router<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = format!("/run/netns/{}", self.router());
        let file = File::open(&path).with_context(|| format!("open {path}"))?;
        thread::scope(|scope| {
            let entered = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work())
            });
            entered.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
        })
    }

    fn router(&self) -> String {
        format!("{}-router", self.name)
    }

    /// The number of an interface.
    ///
    /// # Errors
    /// Where there is none.
    pub(crate) fn index(&self, end: &str) -> Result<u32> {
        // The thread's own network, not the one that /sys was mounted for.
        let output = Command::new("ip").args(["-o", "link", "show", end]).output().context("run ip")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let number = text.split(':').next().and_then(|number| number.trim().parse().ok());
        number.with_context(|| format!("find the interface {end}"))
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        // What stays is an empty namespace of a name that no later process uses.
        for name in [self.router(), self.name.clone()] {
            if fs::exists(format!("/run/netns/{name}")).unwrap_or(false) {
                let _ = ip(&["netns", "delete", &name]);
            }
        }
    }
}

/// Runs `ip`.
///
/// # Errors
/// What it says.
pub(crate) fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("run ip; is iproute2 installed?")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
