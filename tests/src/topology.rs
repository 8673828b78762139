//! Wiring: namespaces, veths, bridges, addresses and routes as `crate::plan` draws them.
//!
//! A plan is collected first and then carried out by few processes: one `ip -batch` for all
//! namespaces, one for all links, one for each namespace.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::Write as _,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    netns::Netns,
    plan::{Addresses, Segment},
};

/// Settings of every namespace, before its interfaces exist. DAD would delay addresses by a second.
const SETTINGS: [(&str, &str); 14] = [
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/arp_ignore", "1"),
    ("ipv4/conf/default/arp_ignore", "1"),
    ("ipv4/conf/all/arp_announce", "2"),
    ("ipv4/conf/default/arp_announce", "2"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
];

/// Settings of the routers.
const ROUTER_SETTINGS: [(&str, &str); 2] = [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];

/// The plan of one namespace.
#[derive(Default)]
struct Plan {
    routes_for_others: bool,
    /// Lines of `ip -batch`, run inside.
    lines: String,
    devices: Vec<String>,
}

/// The plan of a lab.
#[derive(Default)]
pub(crate) struct Topology {
    /// By host name; namespaces are named `<prefix>-<host>`.
    plans: BTreeMap<String, Plan>,
    /// Lines of `ip -batch` that create veths.
    links: String,
    prefix: String,
}

/// One end of a veth.
pub(crate) struct End<'a> {
    pub(crate) host: &'a str,
    pub(crate) device: &'a str,
    pub(crate) mac: Option<[u8; 6]>,
}

impl Topology {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..Self::default() }
    }

    /// Adds a host that keeps to itself.
    pub(crate) fn host(&mut self, host: &str) {
        self.plan(host).lines.push_str("link set lo up\n");
    }

    /// Adds a host that forwards packets.
    pub(crate) fn router(&mut self, host: &str) {
        self.host(host);
        self.plan(host).routes_for_others = true;
    }

    fn plan(&mut self, host: &str) -> &mut Plan {
        self.plans.entry(host.to_owned()).or_default()
    }

    /// Adds a line of `ip -batch` on a host.
    pub(crate) fn line(&mut self, host: &str, line: &str) {
        let lines = &mut self.plan(host).lines;
        lines.push_str(line);
        lines.push('\n');
    }

    /// Adds a bridge with the gateway's address of a segment.
    pub(crate) fn bridge(&mut self, host: &str, device: &str, segment: Segment, number: u8, mtu: u16) {
        let mac = mac_text(segment.mac(number));
        let options = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0";
        self.line(host, &format!("link add {device} address {mac} mtu {mtu} {options}"));
        self.address(host, device, segment.host(number));
        self.line(host, &format!("link set {device} up"));
    }

    /// Adds an address of a segment to a device.
    pub(crate) fn address(&mut self, host: &str, device: &str, Addresses { v4, v6 }: Addresses) {
        self.line(host, &format!("addr add {v4}/24 dev {device}"));
        self.line(host, &format!("addr add {v6}/64 dev {device} nodad"));
    }

    /// Adds a VIP to a host's `lo`.
    pub(crate) fn vip(&mut self, host: &str, Addresses { v4, v6 }: Addresses) {
        self.line(host, &format!("addr add {v4}/32 dev lo"));
        self.line(host, &format!("addr add {v6}/128 dev lo nodad"));
    }

    /// Adds routes of both families to a gateway: the default ones, or those to a segment.
    pub(crate) fn route(&mut self, host: &str, to: Option<Segment>, via: Addresses) {
        let [v4, v6] = to.map_or(["default".into(), "default".into()], |segment| segment.prefixes());
        self.line(host, &format!("route add {v4} via {}", via.v4));
        self.line(host, &format!("route add {v6} via {}", via.v6));
    }

    /// Adds a veth between two hosts.
    pub(crate) fn veth(&mut self, one: End<'_>, other: End<'_>, mtu: u16) {
        let describe = |End { host, device, mac }: &End<'_>| {
            let mac = mac.map(|mac| format!(" address {}", mac_text(mac))).unwrap_or_default();
            format!("name {device}{mac} mtu {mtu} netns {}-{host}", self.prefix)
        };
        let (left, right) = (describe(&one), describe(&other));
        let _ = writeln!(self.links, "link add {left} type veth peer {right}");
        for End { host, device, .. } in [one, other] {
            self.plan(host).devices.push(device.to_owned());
            self.line(host, &format!("link set {device} up"));
        }
    }

    /// Puts a device into a bridge of its host.
    pub(crate) fn port(&mut self, host: &str, device: &str, bridge: &str) {
        self.line(host, &format!("link set {device} master {bridge}"));
    }

    /// The names of the namespaces.
    pub(crate) fn names(&self) -> Vec<String> {
        self.plans.keys().map(|host| format!("{}-{host}", self.prefix)).collect()
    }

    /// Carries the plan out, and opens the namespaces by host name.
    pub(crate) fn build(&self) -> Result<BTreeMap<String, Netns>> {
        let adds = self.names().iter().fold(String::new(), |text, name| text + "netns add " + name + "\n");
        batch(&adds).context("create network namespaces: root is needed")?;
        let open = |host: &String| Ok((host.clone(), Netns::open(&format!("{}-{host}", self.prefix))?));
        let namespaces: BTreeMap<_, _> = self.plans.keys().map(open).collect::<Result<_>>()?;
        for (host, plan) in &self.plans {
            namespaces[host].run(|| settings(plan)).with_context(|| format!("set up {host}"))?;
        }
        batch(&self.links).context("create veths")?;
        thread::scope(|scope| {
            let configure = |(host, plan)| {
                let netns: &Netns = &namespaces[host];
                scope.spawn(move || netns.run(|| configure(plan)).with_context(|| format!("set up {host}")))
            };
            let threads: Vec<_> = self.plans.iter().map(configure).collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(anyhow!("a set-up thread panicked")))
            })
        })?;
        Ok(namespaces)
    }
}

pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn settings(plan: &Plan) -> Result<()> {
    let router: &[(&str, &str)] = if plan.routes_for_others { &ROUTER_SETTINGS } else { &[] };
    for (key, value) in SETTINGS.iter().chain(router) {
        let path = format!("/proc/sys/net/{key}");
        fs::write(&path, value).with_context(|| format!("write {path}"))?;
    }
    Ok(())
}

fn configure(plan: &Plan) -> Result<()> {
    batch(&plan.lines)?;
    plan.devices.iter().try_for_each(|device| complete_checksums(device))
}

/// Turns off what would let a frame leave with an unfinished checksum or as several in one: XDP sees
/// frames as they are.
pub(crate) fn complete_checksums(device: &str) -> Result<()> {
    let words = ["-K", device, "tx", "off", "rx", "off", "tso", "off", "gso", "off", "gro", "off"];
    let output = Command::new("ethtool").args(words).output().context("run ethtool: is it installed?")?;
    if !output.status.success() {
        bail!("ethtool on {device}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Runs lines of `ip -batch` in the calling thread's namespace.
fn batch(lines: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("run ip: is iproute2 installed?")?;
    child.stdin.take().context("open ip's input")?.write_all(lines.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("ip -batch: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
