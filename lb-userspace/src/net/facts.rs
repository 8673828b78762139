//! Collects what preflight judges about an interface: the thin shell around [`super::preflight`].
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io;

use super::ethtool::{self, DriverFeatures};
use super::snapshot::{Link, XdpProgram};

/// What is known about one interface.
#[derive(Clone, Debug, PartialEq)]
pub struct InterfaceFacts {
    /// Its link.
    pub link: Link,
    /// Its driver's features.
    pub features: DriverFeatures,
    /// Its reverse-path filter, as it acts.
    pub rp_filter: Option<RpFilter>,
    /// Names of the attached XDP programs, where they could be read.
    pub program_names: BTreeMap<u32, String>,
}

/// `net.ipv4.conf.*.rp_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RpFilter {
    /// No check.
    Off,
    /// The source must be reachable by this interface.
    Strict,
    /// The source must be reachable.
    Loose,
}

/// Reads the facts about `link`, in the namespace of the calling thread.
///
/// # Errors
/// When the driver cannot be asked, for example because the interface vanished.
pub fn gather(link: &Link) -> io::Result<InterfaceFacts> {
    let features = ethtool::features(&link.name)?;
    Ok(InterfaceFacts {
        link: link.clone(),
        features,
        rp_filter: rp_filter(&link.name),
        program_names: names(&link.xdp),
    })
}

/// The kernel acts on the larger of `all` and the interface's value. `/proc/sys/net` is of the reader's
/// namespace, unlike `/sys/class/net`.
fn rp_filter(interface: &str) -> Option<RpFilter> {
    let read = |name: &str| -> Option<u8> {
        fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).ok()?.trim().parse().ok()
    };
    match read("all")?.max(read(interface)?) {
        0 => Some(RpFilter::Off),
        1 => Some(RpFilter::Strict),
        _ => Some(RpFilter::Loose),
    }
}

/// First and last port that the host itself connects from, in both families.
#[must_use]
pub fn local_ports() -> (u16, u16) {
    /// What the kernel has where nobody says otherwise.
    const USUAL: (u16, u16) = (32_768, 60_999);
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
    numbers.next().zip(numbers.next()).unwrap_or(USUAL)
}

fn names(programs: &[XdpProgram]) -> BTreeMap<u32, String> {
    if programs.is_empty() {
        return BTreeMap::new();
    }
    let loaded = aya::programs::loaded_programs().filter_map(Result::ok);
    let attached = loaded.filter(|info| programs.iter().any(|program| program.id == info.id()));
    attached.filter_map(|info| Some((info.id(), info.name_as_str()?.to_owned()))).collect()
}
