//! The MSS clamp on an interface's way out.
//!
//! A tcx link, pinned, where the kernel has them (Linux 6.6). Below, a filter of the clsact qdisc; what is pinned in the
//! link's place is the program then.

use std::fs;
use std::io;
use std::path::Path;

use aya::programs::links::{FdLink, LinkType, PinnedLink};
use aya::programs::tc::{
    self, NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError, TcHandle,
};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier};

use super::program::{CLASSIFIER, DecapPins, failed, in_place};
use crate::failure::{Code, Failure};
use crate::maps::attach;
use crate::maps::pins::innermost;

/// The filter's place among those of clsact.
const PRIORITY: u16 = 0x7765;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// How a program is kept on the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By a tcx link.
    Tcx,
    /// By a filter of the clsact qdisc.
    Clsact,
}

impl Way {
    /// The name in `status`.
    #[must_use]
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// What attaching did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attached {
    /// Nothing of weir's was there.
    Anew,
    /// Another program of weir's was there.
    Replaced,
}

/// Makes sure that `program` runs on the interface's way out.
pub(super) fn attach(
    pins: &DecapPins,
    program: &mut SchedClassifier,
    interface: &str,
    ifindex: u32,
) -> Result<Attached, Failure> {
    let refused = |error: &dyn std::error::Error| {
        let message = format!("attach the mss clamp to {interface} (tc egress): {}", innermost(error));
        Failure::new(Code::Failed, message)
    };
    if let Some(link) = live(pins, interface, ifindex) {
        replace(program, link).map_err(|error| refused(&error))?;
        return Ok(Attached::Replaced);
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    match program.attach_with_options(interface, TcAttachType::Egress, options) {
        Ok(id) => {
            let link = program.take_link(id).map_err(|error| refused(&error))?;
            let link = FdLink::try_from(link).map_err(|error| refused(&error))?;
            let pin = |next: &Path| link.pin(next).map(drop).map_err(io::Error::other);
            in_place(&pins.common, &pins.egress(interface), pin)?;
            Ok(Attached::Anew)
        }
        // A kernel without tcx does not know the attach type.
        Err(error) if attach::os_error(&error) == Some(libc::EINVAL) => {
            by_clsact(pins, program, interface).map_err(|error| refused(&error))
        }
        Err(error) => Err(refused(&error)),
    }
}

/// Attaches by netlink, in place of a filter that is there.
pub(super) fn by_clsact(
    pins: &DecapPins,
    program: &mut SchedClassifier,
    interface: &str,
) -> io::Result<Attached> {
    match tc::qdisc_add_clsact(interface) {
        Err(error) if attach::os_error(&error) != Some(libc::EEXIST) => return Err(io::Error::other(error)),
        _ => {}
    }
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    let attach = TcAttachOptions::Netlink(options);
    let (id, attached) = match program.attach_with_options(interface, TcAttachType::Egress, attach) {
        Ok(id) => (id, Attached::Anew),
        Err(error) if attach::os_error(&error) == Some(libc::EEXIST) => {
            let kind = TcAttachType::Egress;
            let link = SchedClassifierLink::attached(interface, kind, PRIORITY, HANDLE, None)?;
            (program.attach_to_link(link).map_err(io::Error::other)?, Attached::Replaced)
        }
        Err(error) => return Err(io::Error::other(error)),
    };
    // Dropping it would take the filter off.
    std::mem::forget(program.take_link(id).map_err(io::Error::other)?);
    let pin = |next: &Path| program.pin(next).map_err(io::Error::other);
    in_place(&pins.common, &pins.egress(interface), pin).map_err(io::Error::other)?;
    Ok(attached)
}

/// The pinned link of the interface, if its device is still the one of that index.
fn live(pins: &DecapPins, interface: &str, ifindex: u32) -> Option<FdLink> {
    pinned_link(&pins.egress(interface)).filter(|link| is_of(link, ifindex))
}

/// Whether a link is of the device with this index.
fn is_of(link: &FdLink, ifindex: u32) -> bool {
    link.info().is_ok_and(|info| attach::device(info.id()) == Some(ifindex))
}

/// Puts `program` on a link. The pin keeps the link alive.
fn replace(program: &mut SchedClassifier, link: FdLink) -> io::Result<()> {
    let link = SchedClassifierLink::try_from(link).map_err(io::Error::other)?;
    let id = program.attach_to_link(link).map_err(io::Error::other)?;
    // Dropping our reference leaves the link to its pin.
    drop(program.take_link(id).map_err(io::Error::other)?);
    Ok(())
}

/// Puts the pinned program back where another took its place.
pub(super) fn put_back(pins: &DecapPins, interface: &str, ifindex: u32) -> Result<(), Failure> {
    let path = pins.classifier();
    let mut program =
        SchedClassifier::from_pin(&path).map_err(|error: ProgramError| failed("open", &path, &error))?;
    attach(pins, &mut program, interface, ifindex).map(drop)
}

/// How the program runs on an interface's way out; `None` where it does not.
pub(super) fn way(pins: &DecapPins, interface: &str, ifindex: u32) -> Option<Way> {
    let path = pins.egress(interface);
    match pinned_link(&path) {
        Some(link) => is_of(&link, ifindex).then_some(Way::Tcx),
        None => path.exists().then_some(Way::Clsact),
    }
}

/// Takes the program off an interface; one that is not there is none.
pub(super) fn detach(pins: &DecapPins, interface: &str) -> Result<(), Failure> {
    let path = pins.egress(interface);
    let filter = pinned_link(&path).is_none() && path.exists();
    if filter && let Err(error) = tc::qdisc_detach_program(interface, TcAttachType::Egress, CLASSIFIER) {
        match &error {
            // The interface has gone, or somebody else took the filter off.
            TcError::IoError(_) => {}
            _ => return Err(failed("take the filter off with", &path, &error)),
        }
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path, &error)),
        _ => Ok(()),
    }
}

/// What is pinned, if it is a tcx link: the kernel tells of a program in the same call, with other numbers.
fn pinned_link(path: &Path) -> Option<FdLink> {
    let link = FdLink::from(PinnedLink::from_pin(path).ok()?);
    let kind = link.info().ok()?.link_type().ok()?;
    matches!(kind, LinkType::Tcx).then_some(link)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    use rustix::thread::{UnshareFlags, unshare_unsafe};

    use super::*;
    use crate::config::model::XdpMode;
    use crate::decap::{Mss, Programs, Settings};

    fn programs(pins: &DecapPins) -> Programs {
        let settings = Settings {
            interfaces: Vec::new(),
            vips: vec![[198, 51, 100, 10].into()],
            sources: Vec::new(),
            gue_port: 6080,
            mss: Mss::Auto,
            mode: XdpMode::Native,
        };
        Programs::load(pins, &settings, 1500).expect("the programs load")
    }

    /// Runs `test` with a bpffs and the loopback interface of a network namespace of its own.
    fn isolated(test: impl FnOnce(&DecapPins) + Send) {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: root (attaching BPF programs)");
            return;
        }
        let root = tempfile::tempdir().expect("directory");
        mount("bpf", root.path(), "bpf", MountFlags::empty(), None).expect("bpffs mounts");
        let pins = DecapPins::new(&root.path().join("decap"));
        pins.create().expect("the bpffs takes directories");
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // SAFETY: a network namespace of its own takes nothing from under this thread.
                unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("a namespace");
                test(&pins);
            });
            thread.join().expect("the test passes");
        });
        unmount(root.path(), UnmountFlags::DETACH).expect("bpffs unmounts");
    }

    #[test]
    fn a_filter_of_clsact_is_attached_replaced_and_taken_off() {
        isolated(|pins| {
            let attach = || {
                let mut programs = programs(pins);
                by_clsact(pins, programs.classifier().expect("program"), "lo").expect("attaches")
            };
            assert_eq!(way(pins, "lo", 1), None);
            assert_eq!(attach(), Attached::Anew);
            assert_eq!(way(pins, "lo", 1), Some(Way::Clsact));
            assert_eq!(attach(), Attached::Replaced);
            detach(pins, "lo").expect("detaches");
            assert_eq!(way(pins, "lo", 1), None);
            assert_eq!(attach(), Attached::Anew, "the filter was taken off");
        });
    }

    #[test]
    fn a_tcx_link_is_replaced_and_one_of_another_device_is_made_anew() {
        isolated(|pins| {
            let mut first = programs(pins);
            let attached = attach(pins, first.classifier().expect("program"), "lo", 1).expect("attaches");
            assert_eq!((attached, way(pins, "lo", 1)), (Attached::Anew, Some(Way::Tcx)));
            let mut second = programs(pins);
            let attached = attach(pins, second.classifier().expect("program"), "lo", 1).expect("attaches");
            assert_eq!(attached, Attached::Replaced);
            assert_eq!(way(pins, "lo", 7), None, "the link is of another device");
            detach(pins, "lo").expect("detaches");
            assert_eq!(way(pins, "lo", 1), None);
        });
    }
}
