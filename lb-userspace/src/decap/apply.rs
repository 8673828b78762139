//! Attaching what was asked for, all of it or nothing; and taking everything off again.

use std::fs;
use std::io;
use std::path::Path;

use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;

use super::egress;
use super::observe;
use super::program::{DecapPins, Programs, failed};
use super::settings::{Mss, Settings};
use super::status::{Status, status};
use crate::cli::host::Detached;
use crate::config::model::Interface;
use crate::failure::{Code, Failure};
use crate::maps::attach::{self, AttachError};
use crate::maps::bpffs;
use crate::net::preflight::{self, Plan, Severity};
use crate::net::snapshot::Link;
use crate::net::{NetState, facts};
use crate::state::lock::Lock;

/// What was done to an interface, to be undone where a later one refuses.
enum Done {
    Xdp(Link, attach::Attached),
    Egress(Link, egress::Attached),
}

/// Makes what runs equal to `settings`: interfaces, programs, VIPs, sources. No packet sees neither the old nor the new.
///
/// # Errors
/// Where an interface is missing or refuses; everything is as it was then.
pub fn apply(root: &Path, settings: &Settings) -> Result<Status, Failure> {
    let pins = DecapPins::new(root);
    bpffs::ensure(root).map_err(|error| failed("mount bpffs for", root, &error))?;
    if !bpffs::holds(root).map_err(|error| failed("look at", root, &error))? {
        let message = format!("{}: not in a bpffs, so nothing can be pinned there", root.display());
        return Err(Failure::new(Code::Failed, format!("{message}; `mount -t bpf bpf DIR`")));
    }
    pins.create().map_err(|error| failed("make", root, &error))?;
    // Held until what a failed run made is gone again: another one's work is not this one's to remove.
    let _lock = Lock::acquire(root)?;
    let existed = pins.exist()?;
    let result = locked(root, &pins, settings);
    if result.is_err() && !existed {
        // Only empty directories and counters that nothing counts in.
        let _ = remove_all(&pins);
    }
    result
}

fn locked(root: &Path, pins: &DecapPins, settings: &Settings) -> Result<Status, Failure> {
    let network = observe::network()?;
    let links = links(pins, settings, &network)?;
    let mtu = links.iter().map(|link| link.mtu).min().unwrap_or(0);
    let mut programs = Programs::load(pins, settings, mtu)?;
    let mut done = Vec::new();
    if let Err(failure) = attach_all(pins, settings, &links, &mut programs, &mut done) {
        undo(pins, done);
        return Err(failure);
    }
    programs.pin(pins)?;
    detach_others(pins, settings)?;
    let mut status = status(root)?;
    if let Some(wanted) = settings.mode.required() {
        let others = status.interfaces.iter().filter(|interface| interface.mode != wanted);
        status.problems.extend(others.map(|interface| {
            format!(
                "interface {}: the program runs in {} mode, not in {wanted} mode: a link keeps the mode that it was \
                 made in; `weir decap detach`, then run it again",
                interface.name, interface.mode
            )
        }));
    }
    Ok(status)
}

/// The links of the interfaces, none of which has anything against it.
fn links(pins: &DecapPins, settings: &Settings, network: &NetState) -> Result<Vec<Link>, Failure> {
    let plan = Plan {
        modes: Vec::new(),
        tagged: preflight::tagged_ports(network),
        own_programs: attach::own_programs(&pins.common),
    };
    let (mut links, mut refused) = (Vec::new(), Vec::new());
    for name in &settings.interfaces {
        let Some(link) = network.link_named(name) else {
            refused.push(format!(
                "interface {name}: no such interface; `ip link` lists those of this network namespace"
            ));
            continue;
        };
        let facts = facts::gather(link).map_err(|error| {
            Failure::new(Code::Failed, format!("interface {name}: look at the driver: {error}"))
        })?;
        let interface =
            Interface { name: name.clone(), xdp_mode: settings.mode, mtu: None, gateway_mac: None };
        let findings = preflight::judge(&facts, &interface, &plan).into_iter();
        let findings = findings.filter(|finding| finding.severity == Severity::Refuse);
        refused.extend(findings.map(|finding| format!("{}; remedy: {}", finding.what, finding.remedy)));
        links.push(link.clone());
    }
    match refused.is_empty() {
        true => Ok(links),
        false => Err(Failure::new(Code::Failed, refused.join("\n"))),
    }
}

fn attach_all(
    pins: &DecapPins,
    settings: &Settings,
    links: &[Link],
    programs: &mut Programs,
    done: &mut Vec<Done>,
) -> Result<(), Failure> {
    for link in links {
        let attached = attach::attach(
            &pins.common,
            programs.decapsulator()?,
            link,
            settings.mode,
            attach::Captures::Stay,
        );
        let attached = attached.map_err(refused)?;
        done.push(Done::Xdp(link.clone(), attached));
        if settings.mss != Mss::Off {
            let attached = egress::attach(pins, programs.classifier()?, &link.name, link.ifindex)?;
            done.push(Done::Egress(link.clone(), attached));
        }
    }
    Ok(())
}

/// The failure to attach, with this command's names for the remedy.
fn refused(error: AttachError) -> Failure {
    let message = match error {
        AttachError::NotNative { interface } => format!(
            "attach xdp to {interface} (native mode): the driver has no native XDP; use mode auto or generic, or \
             another interface"
        ),
        error => error.to_string(),
    };
    Failure::new(Code::Failed, message)
}

/// Puts interfaces back to what they were: the programs that were pinned still are. What cannot be put back stays as it
/// is, and the failure that led here is told.
fn undo(pins: &DecapPins, done: Vec<Done>) {
    for done in done.into_iter().rev() {
        let _ = match done {
            Done::Xdp(_, attach::Attached::Kept) => Ok(()),
            Done::Xdp(link, attach::Attached::Anew(_) | attach::Attached::Again(_)) => {
                attach::detach(&pins.common, &link.name)
            }
            Done::Xdp(link, attach::Attached::Replaced) => {
                Xdp::from_pin(pins.decapsulator(), XdpAttachType::Interface)
                    .map_err(io::Error::other)
                    .and_then(|mut program| attach::put_back(&pins.common, &mut program, &link.name))
            }
            Done::Egress(link, egress::Attached::Anew) => {
                egress::detach(pins, &link.name).map_err(io::Error::other)
            }
            Done::Egress(link, egress::Attached::Replaced) => {
                egress::put_back(pins, &link.name, link.ifindex).map_err(io::Error::other)
            }
        };
    }
}

/// Takes the programs off interfaces where they are not wanted.
fn detach_others(pins: &DecapPins, settings: &Settings) -> Result<(), Failure> {
    for name in ingress_interfaces(pins)? {
        if !settings.interfaces.contains(&name) {
            let link = pins.common.link(&name);
            attach::detach(&pins.common, &name).map_err(|error| failed("remove", &link, &error))?;
        }
    }
    for name in egress_interfaces(pins)? {
        if settings.mss == Mss::Off || !settings.interfaces.contains(&name) {
            egress::detach(pins, &name)?;
        }
    }
    Ok(())
}

pub(super) fn ingress_interfaces(pins: &DecapPins) -> Result<Vec<String>, Failure> {
    attach::pinned(&pins.common).map_err(|error| failed("list", &pins.common.links(), &error))
}

pub(super) fn egress_interfaces(pins: &DecapPins) -> Result<Vec<String>, Failure> {
    names(&pins.egress_dir()).map_err(|error| failed("list", &pins.egress_dir(), &error))
}

/// The interfaces with a pin in a directory; a missing one has none.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(entries) => {
            let name =
                |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().replace(':', "."));
            entries.map(name).collect()
        }
    }
}

/// Takes the programs off all interfaces and removes everything pinned. Nothing pinned is an empty answer.
///
/// # Errors
/// What could not be removed.
pub fn detach(root: &Path) -> Result<Detached, Failure> {
    let pins = DecapPins::new(root);
    if !root.try_exists().map_err(|error| failed("look into", root, &error))? {
        return Ok(Detached::default());
    }
    let _lock = Lock::acquire(root)?;
    let mut interfaces = ingress_interfaces(&pins)?;
    let on_the_way_out = egress_interfaces(&pins)?;
    let mut unpinned = pins.common.all().map_err(|error| failed("list", root, &error))?;
    unpinned.extend(on_the_way_out.iter().map(|name| pins.egress(name)));
    unpinned.extend(Some(pins.classifier()).filter(|path| path.exists()));
    interfaces.extend(on_the_way_out);
    interfaces.sort();
    interfaces.dedup();
    remove_all(&pins)?;
    let unpinned = unpinned.iter().map(|path| path.display().to_string()).collect();
    Ok(Detached { interfaces, unpinned, ..Detached::default() })
}

fn remove_all(pins: &DecapPins) -> Result<(), Failure> {
    for name in egress_interfaces(pins)? {
        egress::detach(pins, &name)?;
    }
    let root = pins.common.root();
    for path in [pins.classifier(), root.join("next")] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &path, &error));
            }
            _ => {}
        }
    }
    match fs::remove_dir(pins.egress_dir()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &pins.egress_dir(), &error));
        }
        _ => {}
    }
    pins.common.remove_all().map_err(|error| failed("remove what is pinned in", root, &error))
}
