//! What runs, read from the pinned objects.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use aya::programs::links::{FdLink, PinnedLink};
use ipnet::IpNet;
use jiff::Timestamp;
use lb_common::decap::{Reason, Verdict};
use serde::{Deserialize, Serialize};

use super::apply::ingress_interfaces;
use super::program::{DecapPins, Pinned};
use super::{egress, observe};
use crate::failure::{Code, Failure};
use crate::maps::attach;
use crate::net::{NetState, vip};
use crate::view::table::{Align, Cell, Table, Tone};
use crate::view::{Api, Render, number};

/// The document of `weir decap` and `weir decap status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version mark.
    pub api: Api,
    /// What is wrong, one sentence each.
    pub problems: Vec<String>,
    /// What is good to know, one sentence each.
    pub notes: Vec<String>,
    /// Interfaces that the programs were attached to.
    pub interfaces: Vec<Interface>,
    /// Addresses that this host serves.
    pub vips: Vec<String>,
    /// Outer sources whose packets are opened.
    pub sources: Vec<String>,
    /// UDP port of GUE.
    pub gue_port: u16,
    /// The largest MSS that answers announce; absent where they are left alone.
    pub mss: Option<MssLimits>,
    /// Packets by reason, and SYN-ACKs by what was found of their MSS.
    pub counters: BTreeMap<String, u64>,
}

/// The largest MSS of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MssLimits {
    /// Of IPv4 answers.
    pub v4: u16,
    /// Of IPv6 answers.
    pub v6: u16,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// Whether the XDP program runs there.
    pub attached: bool,
    /// `native` or `generic`; empty where it is not attached.
    pub mode: String,
    /// How the MSS clamp is kept on the way out: `tcx` or `clsact`; absent where there is none.
    pub egress: Option<String>,
}

/// Reads what is pinned under `root`, in the network namespace of the calling thread.
///
/// # Errors
/// Not found where nothing is pinned; what keeps it from being read.
pub fn status(root: &Path) -> Result<Status, Failure> {
    let pins = DecapPins::new(root);
    if !pins.exist()? {
        let message = format!(
            "nothing is pinned in {}: `weir decap` has not run here, or was detached",
            root.display()
        );
        return Err(Failure::new(Code::NotFound, message));
    }
    let network = observe::network()?;
    let pinned = Pinned::read(&pins)?;
    let names = ingress_interfaces(&pins)?;
    let interfaces: Vec<Interface> = names.iter().map(|name| interface(&pins, &network, name)).collect();
    let text = |net: &IpNet| match net.prefix_len() == net.max_prefix_len() {
        true => net.addr().to_string(),
        false => net.to_string(),
    };
    let numbers = pinned.numbers;
    Ok(Status {
        api: Api,
        problems: problems(&interfaces, &pinned, &network),
        notes: notes(&pinned),
        interfaces,
        vips: pinned.vips.iter().map(text).collect(),
        sources: pinned.sources.iter().map(text).collect(),
        gue_port: numbers.gue_port,
        mss: (numbers.mss_v4 != 0).then_some(MssLimits { v4: numbers.mss_v4, v6: numbers.mss_v6 }),
        counters: pinned.counters.iter().map(|(name, packets)| ((*name).to_owned(), *packets)).collect(),
    })
}

fn interface(pins: &DecapPins, network: &NetState, name: &str) -> Interface {
    let link = network.link_named(name);
    let info = PinnedLink::from_pin(pins.common.link(name)).map(FdLink::from);
    let attached = info.ok().and_then(|pinned| {
        let info = pinned.info().ok()?;
        let link = link.filter(|link| attach::device(info.id()) == Some(link.ifindex))?;
        let program = link.xdp.iter().find(|program| program.id == info.program_id());
        Some(program.map_or("", |program| program.place.name()).to_owned())
    });
    let way = link.and_then(|link| egress::way(pins, name, link.ifindex));
    Interface {
        name: name.to_owned(),
        attached: attached.is_some(),
        mode: attached.unwrap_or_default(),
        egress: way.map(|way| way.name().to_owned()),
    }
}

fn problems(interfaces: &[Interface], pinned: &Pinned, network: &NetState) -> Vec<String> {
    let detached = interfaces.iter().filter(|interface| !interface.attached).map(|interface| {
        format!("interface {}: it has vanished or was made anew: run `weir decap` again", interface.name)
    });
    let vips = vip::ownership(network, pinned.vips.iter().map(IpNet::addr));
    let foreign = vips.filter(|vip| !vip.is_local()).map(|vip| {
        let vip = vip.vip;
        let prefix = if vip.is_ipv4() { 32 } else { 128 };
        format!(
            "vip {vip}: not an address of this host, which drops the packets: `ip address add {vip}/{prefix} dev lo`"
        )
    });
    detached.chain(foreign).collect()
}

fn notes(pinned: &Pinned) -> Vec<String> {
    let open = pinned.sources.iter().any(|source| source.prefix_len() == 0);
    let note = "tunnels are opened from any source: name weir's addresses with `source`";
    open.then(|| note.to_owned()).into_iter().collect()
}

impl Render for Status {
    fn render(&self, _now: Timestamp) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        for problem in &self.problems {
            let _ = writeln!(text, "{}", Tone::Bad.paint(problem));
        }
        for note in &self.notes {
            let _ = writeln!(text, "{}", Tone::Faint.paint(note));
        }
        if !text.is_empty() {
            text.push('\n');
        }
        let mut interfaces =
            Table::new(&[("INTERFACE", Align::Left), ("XDP", Align::Left), ("EGRESS", Align::Left)]);
        for interface in &self.interfaces {
            let xdp = match (interface.attached, interface.mode.as_str()) {
                (false, _) => Cell::toned("detached", Tone::Bad),
                (true, "") => "attached".into(),
                (true, mode) => mode.into(),
            };
            let egress = interface.egress.as_deref().unwrap_or("-");
            interfaces.row([interface.name.as_str().into(), xdp, egress.into()]);
        }
        text += &interfaces.render();
        let mss = match self.mss {
            Some(MssLimits { v4, v6 }) => format!("{v4} (IPv4), {v6} (IPv6)"),
            None => "off".to_owned(),
        };
        let (vips, sources) = (self.vips.join(", "), self.sources.join(", "));
        let _ = write!(
            text,
            "\nvips      {vips}\nsources   {sources}\ngue port  {}\nmss       {mss}\n\n",
            self.gue_port
        );
        let mut counters = Table::new(&[("REASON", Align::Left), ("PACKETS", Align::Right)]);
        for (name, packets) in self.counters.iter().filter(|(_, packets)| **packets > 0) {
            let dropped =
                Reason::ALL.iter().any(|reason| reason.name() == name && reason.verdict() == Verdict::Drop);
            let tone = if dropped { Tone::Bad } else { Tone::Plain };
            counters.row([Cell::toned(name.as_str(), tone), number(*packets).into()]);
        }
        text + &counters.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_what_is_wrong_first_and_only_what_was_counted() {
        let interface = |name: &str, attached| Interface {
            name: name.to_owned(),
            attached,
            mode: if attached { "native" } else { "" }.to_owned(),
            egress: attached.then(|| "tcx".to_owned()),
        };
        let counters = [("opened_ipip", 12_345), ("not_source", 3), ("ecn_conflict", 0), ("mss_lowered", 7)];
        let status = Status {
            problems: vec!["vip 198.51.100.10: not an address of this host".to_owned()],
            interfaces: vec![interface("eth0", true), interface("eth1", false)],
            vips: vec!["198.51.100.10".to_owned(), "2001:db8::10".to_owned()],
            sources: vec!["10.0.0.0/24".to_owned()],
            gue_port: 6080,
            mss: Some(MssLimits { v4: 1428, v6: 1408 }),
            counters: counters.map(|(name, packets)| (name.to_owned(), packets)).into(),
            ..Status::default()
        };
        let page = anstream::adapter::strip_str(&status.render(Timestamp::UNIX_EPOCH)).to_string();
        insta::assert_snapshot!(page, @r"
        vip 198.51.100.10: not an address of this host

        INTERFACE  XDP       EGRESS
        eth0       native    tcx
        eth1       detached  -

        vips      198.51.100.10, 2001:db8::10
        sources   10.0.0.0/24
        gue port  6080
        mss       1428 (IPv4), 1408 (IPv6)

        REASON       PACKETS
        mss_lowered        7
        not_source         3
        opened_ipip   12,345
        ");
    }
}
