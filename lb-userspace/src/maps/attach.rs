//! Attaching the packet program to interfaces, and keeping it there.
//!
//! A link is pinned as `links/<interface>`, so that it outlives the daemon. A link whose device has vanished is dead
//! and is replaced.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpMode as Flags};
use aya::programs::{Xdp, loaded_programs};
use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

use super::pins::{Pins, innermost};
use crate::config::model::XdpMode;
use crate::net::ethtool::{self, Switch};
use crate::net::snapshot::{Link, XdpPlace};

/// What attaching to an interface did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// The pinned link already runs this program.
    Kept,
    /// The pinned link ran another program, and now runs this one; no packet saw neither.
    Replaced,
    /// Nothing was attached.
    Anew(XdpPlace),
    /// The pinned link's device had vanished; attached to the interface that has its name now.
    Again(XdpPlace),
}

/// Why the program is not on an interface.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The driver has no XDP.
    #[error(
        "attach xdp to {interface} (native mode): the driver has no native XDP; set `xdp_mode = \"auto\"` or \
         `\"generic\"` for it, or use another interface"
    )]
    NotNative {
        /// Interface.
        interface: String,
    },
    /// In generic mode it would see merged packets.
    #[error(
        "attach xdp to {interface} (generic mode): generic receive offload is on, and xdp would see merged packets; \
         `ethtool -K {interface} gro off`, or use an interface whose driver has native XDP"
    )]
    Merges {
        /// Interface.
        interface: String,
    },
    /// Somebody else's program is there.
    #[error(
        "attach xdp to {interface}: another XDP program is attached ({programs}); detach it first (`ip link set dev \
         {interface} xdp off`, or the tool that attached it)"
    )]
    Busy {
        /// Interface.
        interface: String,
        /// Their kernel ids.
        programs: String,
    },
    /// The kernel attaches, but gives no link that could be pinned.
    #[error("attach xdp to {interface}: the kernel makes no BPF link; Linux 5.9 or newer is needed")]
    NoLink {
        /// Interface.
        interface: String,
    },
    /// The program that runs there cannot be replaced.
    #[error("replace the xdp program of {interface}: {cause}")]
    Replace {
        /// Interface.
        interface: String,
        /// What the kernel says.
        cause: String,
    },
    /// Anything else.
    #[error("attach xdp to {interface} ({mode} mode): {cause}")]
    Other {
        /// Interface.
        interface: String,
        /// `native` or `generic`.
        mode: &'static str,
        /// What the kernel says.
        cause: String,
    },
    /// The link cannot be pinned.
    #[error("pin the link of {interface} in {path}: {cause}")]
    Pin {
        /// Interface.
        interface: String,
        /// The pin.
        path: String,
        /// What the kernel says.
        cause: String,
    },
}

/// What becomes of a capture's program on the links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Captures {
    /// It runs on until the capture ends: it works with the same maps.
    Stay,
    /// It is replaced: its maps are given up.
    End,
}

/// Makes sure that `program`, or a capture's where that may stay, runs on `link`.
///
/// # Errors
/// Where it cannot; what ran there before still does.
pub fn attach(
    pins: &Pins,
    program: &mut Xdp,
    link: &Link,
    mode: XdpMode,
    captures: Captures,
) -> Result<Attached, AttachError> {
    let path = pins.link(&link.name);
    let own = program.info().map(|info| info.id()).unwrap_or(0);
    let dead = match PinnedLink::from_pin(&path).map(FdLink::from) {
        Err(_) => false,
        Ok(pinned) => match pinned.info() {
            Ok(info) if device(info.id()) == Some(link.ifindex) => {
                let captured = || captures == Captures::Stay && is_captured(pins);
                if info.program_id() == own || captured() {
                    return Ok(Attached::Kept);
                }
                let refused = |error: io::Error| AttachError::Replace {
                    interface: link.name.clone(),
                    cause: innermost(&error),
                };
                return replace(program, pinned).map(|()| Attached::Replaced).map_err(refused);
            }
            _ => true,
        },
    };
    let (fresh, place) = attach_anew(program, link, mode)?;
    let pin = |cause: String| AttachError::Pin {
        interface: link.name.clone(),
        path: path.display().to_string(),
        cause,
    };
    // Pinned beside its place and moved there: a dead link is replaced without a moment that has none.
    let next = pins.root().join("link_next");
    // Left by a start that was cut off; absent otherwise.
    let _ = fs::remove_file(&next);
    fresh.pin(&next).map_err(|error| pin(innermost(&error)))?;
    fs::rename(&next, &path).map_err(|error| pin(error.to_string()))?;
    Ok(if dead { Attached::Again(place) } else { Attached::Anew(place) })
}

/// Whether a capture has its program on the links; it puts the pinned one back when it ends. The lock that tells ends with
/// its process, so that a capture that was killed is cleaned up by whoever attaches next.
fn is_captured(pins: &Pins) -> bool {
    let Ok(links) = fs::File::open(pins.links()) else { return false };
    flock(&links, FlockOperation::NonBlockingLockShared).is_err()
}

/// The device of a BPF link that this process has open; 0 once the device has vanished. The kernel's word, which
/// notifications may lag behind.
pub(crate) fn device(link_id: u32) -> Option<u32> {
    let number = |text: &str, key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key))?;
        value.trim().parse::<u32>().ok()
    };
    let infos = fs::read_dir("/proc/self/fdinfo").ok()?.flatten();
    let texts = infos.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    texts.filter(|text| number(text, "link_id:") == Some(link_id)).find_map(|text| number(&text, "ifindex:"))
}

/// Puts `program` on the pinned link of an interface.
///
/// # Errors
/// Where the link cannot be opened or updated.
pub fn put_back(pins: &Pins, program: &mut Xdp, interface: &str) -> io::Result<()> {
    let pinned = PinnedLink::from_pin(pins.link(interface)).map_err(io::Error::other)?;
    replace(program, FdLink::from(pinned))
}

/// Puts `program` on a link in place of the one that runs there. The pin keeps the link alive.
fn replace(program: &mut Xdp, link: FdLink) -> io::Result<()> {
    let link = XdpLink::try_from(link).map_err(io::Error::other)?;
    let id = program.attach_to_link(link).map_err(io::Error::other)?;
    // Dropping our reference leaves the link to its pin.
    drop(program.take_link(id).map_err(io::Error::other)?);
    Ok(())
}

fn attach_anew(program: &mut Xdp, link: &Link, mode: XdpMode) -> Result<(FdLink, XdpPlace), AttachError> {
    let native = match mode {
        XdpMode::Native | XdpMode::Auto => Some(try_attach(program, link, XdpPlace::Native)),
        XdpMode::Generic => None,
    };
    match (native, mode) {
        (Some(Err(AttachError::NotNative { .. })), XdpMode::Auto) | (None, _) => {
            try_attach(program, link, XdpPlace::Generic).map(|fresh| (fresh, XdpPlace::Generic))
        }
        (Some(result), _) => result.map(|fresh| (fresh, XdpPlace::Native)),
    }
}

fn try_attach(program: &mut Xdp, link: &Link, place: XdpPlace) -> Result<FdLink, AttachError> {
    let interface = || link.name.clone();
    let (flags, mode) = match place {
        XdpPlace::Generic if merges(link) => return Err(AttachError::Merges { interface: interface() }),
        XdpPlace::Generic => (Flags::Skb, "generic"),
        XdpPlace::Native | XdpPlace::Offload => (Flags::Driver, "native"),
    };
    let id = program.attach_to_if_index(link.ifindex, flags).map_err(|error| match os_error(&error) {
        Some(libc::EOPNOTSUPP) => AttachError::NotNative { interface: interface() },
        Some(libc::EBUSY | libc::EEXIST) => {
            // The kernel does not tell of programs that links bring, so they may be unknown here.
            let ids: Vec<String> = link.xdp.iter().map(|program| format!("id {}", program.id)).collect();
            let programs = if ids.is_empty() { "`bpftool net` shows it".to_owned() } else { ids.join(", ") };
            AttachError::Busy { interface: interface(), programs }
        }
        _ => AttachError::Other { interface: interface(), mode, cause: innermost(&error) },
    })?;
    let fresh = program.take_link(id).map_err(|error| AttachError::Other {
        interface: interface(),
        mode,
        cause: innermost(&error),
    })?;
    // Without a BPF link aya attaches by netlink; dropping that detaches again.
    FdLink::try_from(fresh).map_err(|_| AttachError::NoLink { interface: interface() })
}

/// Whether packets are merged before a generic program sees them.
fn merges(link: &Link) -> bool {
    ethtool::features(&link.name).is_ok_and(|features| features.gro == Some(Switch::On))
}

/// The number of the system error behind `error`.
pub(crate) fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        next = error.source();
    }
    None
}

/// The interfaces that have a pinned link, by name.
///
/// # Errors
/// Where the directory cannot be read; a missing one is empty.
pub fn pinned(pins: &Pins) -> io::Result<Vec<String>> {
    match fs::read_dir(pins.links()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(entries) => {
            let name =
                |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().replace(':', "."));
            let mut names = entries.map(name).collect::<io::Result<Vec<String>>>()?;
            names.sort();
            Ok(names)
        }
    }
}

/// Kernel ids of the programs that pinned links run.
#[must_use]
pub fn own_programs(pins: &Pins) -> BTreeSet<u32> {
    let links = pinned(pins).unwrap_or_default();
    let links = links.iter().filter_map(|name| PinnedLink::from_pin(pins.link(name)).ok());
    links.filter_map(|link| FdLink::from(link).info().ok()).map(|info| info.program_id()).collect()
}

/// Waits until the kernel has unloaded all of these programs, so that no interface runs one; not for longer than `limit`.
pub fn wait_until_unloaded(programs: &BTreeSet<u32>, limit: Duration) {
    let begin = Instant::now();
    let loaded = || loaded_programs().flatten().any(|program| programs.contains(&program.id()));
    while loaded() && begin.elapsed() < limit {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Takes the program off an interface.
///
/// # Errors
/// Where the pin cannot be removed.
pub fn detach(pins: &Pins, interface: &str) -> io::Result<()> {
    fs::remove_file(pins.link(interface))
}
