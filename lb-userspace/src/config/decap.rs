//! `/etc/weir/decap.toml`: what `weir decap` is to do on a backend. The options of the command line are read here, too.

use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;

use ipnet::IpNet;
use lb_common::wire::GUE_PORT;

use super::findings::Findings;
use super::model::XdpMode;
use super::reader::{Node, Table};
use super::source::Source;
use super::{Problems, draft, interface, keys, read_source, scalar};
use crate::decap::settings::{LARGEST_MSS, SMALLEST_MSS};
use crate::decap::{Mss, Settings};

/// Reads and validates the file.
///
/// # Errors
/// Every problem in it.
pub fn load(path: &Path) -> Result<Settings, Problems> {
    read(&read_source(path)?)
}

fn read(source: &Rc<Source>) -> Result<Settings, Problems> {
    let findings = Findings::default();
    let tree = draft::parse(source, &findings);
    let settings = tree.as_ref().map(|tree| settings(&Table::top(tree, keys::DECAP, source, &findings)));
    match settings {
        Some(settings) if !findings.has_errors() => Ok(settings),
        _ => Err(findings.into_problems()),
    }
}

fn settings(top: &Table<'_>) -> Settings {
    let interfaces = top.required("interface", "interface = \"eth0\"");
    let vips = top.required("vip", "vip = [\"198.51.100.10\"]");
    Settings {
        interfaces: list(interfaces, |node| node.interface_name()),
        vips: list(vips, |node| node.address()),
        sources: list(top.value("source"), |node| accept(node, node.string("a prefix")?, source)),
        gue_port: top.value("gue_port").and_then(|node| node.integer(1..=u16::MAX)).unwrap_or(GUE_PORT),
        mss: top.value("mss").and_then(|node| mss_of(&node)).unwrap_or_default(),
        mode: top.value("mode").and_then(|node| interface::mode(&node)).unwrap_or(XdpMode::Native),
    }
}

/// The elements of a list, each once; an empty list is a finding.
fn list<T: PartialEq>(node: Option<Node<'_>>, mut read: impl FnMut(&Node<'_>) -> Option<T>) -> Vec<T> {
    let Some(node) = node else { return Vec::new() };
    let items = node.items();
    if items.is_empty() {
        node.fail("is empty: give at least one, or leave it out where it has a default");
    }
    let mut found = Vec::new();
    for item in items {
        match read(&item) {
            Some(value) if found.contains(&value) => {
                item.fail(format_args!("{} is given twice", item.written()));
            }
            Some(value) => found.push(value),
            None => {}
        }
    }
    found
}

fn mss_of(node: &Node<'_>) -> Option<Mss> {
    match node.as_string() {
        Some(text) => accept(node, text, mss),
        None => node.integer(SMALLEST_MSS..=LARGEST_MSS).map(Mss::Limit),
    }
}

fn accept<T>(node: &Node<'_>, text: &str, read: fn(&str) -> Result<T, String>) -> Option<T> {
    read(text).map_err(|message| node.fail(message)).ok()
}

/// A VIP as it is written.
///
/// # Errors
/// What is wrong with it.
pub fn vip(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| format!("{text:?} is no IP address"))?;
    match scalar::unfit(address) {
        Some(why) => Err(format!("{text:?} is refused: {why}")),
        None => Ok(address),
    }
}

/// An address or a prefix, that of everything included.
///
/// # Errors
/// What is wrong with it.
pub fn source(text: &str) -> Result<IpNet, String> {
    let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let net =
        net.ok_or_else(|| format!("{text:?} is neither an address nor a prefix such as \"10.0.0.0/24\""))?;
    if net.addr() != net.network() {
        let right = net.trunc().to_string();
        return Err(format!("{text:?} has bits behind its prefix length; write {right:?}"));
    }
    Ok(net)
}

/// `auto`, `off`, or the largest MSS.
///
/// # Errors
/// What is allowed.
pub fn mss(text: &str) -> Result<Mss, String> {
    match (text, text.parse::<u16>()) {
        ("auto", _) => Ok(Mss::Auto),
        ("off", _) => Ok(Mss::Off),
        (_, Ok(limit)) if (SMALLEST_MSS..=LARGEST_MSS).contains(&limit) => Ok(Mss::Limit(limit)),
        _ => Err(format!("{text:?}: expected auto, off, or {SMALLEST_MSS} to {LARGEST_MSS}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        read(&Source::new(Path::new("decap.toml"), text.to_owned())).map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_short_file_has_defaults_and_a_full_one_none() {
        let short = parse("interface = \"eth0\"\nvip = \"198.51.100.10\"\n").expect("valid");
        assert_eq!((short.gue_port, short.mss, short.mode), (6080, Mss::Auto, XdpMode::Native));
        assert_eq!(short.sources, []);
        let full = parse(
            "interface = [\"eth0\", \"eth1\"]\nvip = [\"198.51.100.10\", \"2001:db8::10\"]\n\
             source = [\"10.0.0.1\", \"fd00::/64\", \"0.0.0.0/0\"]\ngue_port = 6081\nmss = 1400\nmode = \"generic\"\n",
        )
        .expect("valid");
        assert_eq!((full.interfaces.len(), full.vips.len(), full.sources.len()), (2, 2, 3));
        assert_eq!((full.gue_port, full.mss, full.mode), (6081, Mss::Limit(1400), XdpMode::Generic));
    }

    #[test]
    fn every_problem_is_named_with_its_line() {
        let cases = [
            ("vip = \"198.51.100.10\"", "`interface` is missing"),
            ("interface = \"eth0\"", "`vip` is missing"),
            ("interface = \"eth0\"\nvip = []", "decap.toml:2: vip is empty"),
            (
                "interface = \"eth0\"\nvip = [\"::1\"]",
                "decap.toml:2: vip \"::1\" is refused: it is a loopback",
            ),
            (
                "interface = \"eth0\"\nvip = [\"192.0.2.1\", \"192.0.2.1\"]",
                "decap.toml:2: vip \"192.0.2.1\" is given twice",
            ),
            ("interfaces = \"eth0\"", "unknown key `interfaces`: did you mean `interface`?"),
            ("source = \"10.0.0.1/8\"", "decap.toml:1: source \"10.0.0.1/8\" has bits behind"),
            ("gue_port = 0", "decap.toml:1: gue_port must be an integer from 1 to 65535"),
            ("mss = \"most\"", "decap.toml:1: mss \"most\": expected auto, off, or 536 to 65495"),
            ("mss = 100", "decap.toml:1: mss must be an integer from 536 to 65495"),
            ("mode = \"fast\"", "decap.toml:1: mode \"fast\" is unknown"),
            ("vip =", "not valid TOML"),
        ];
        for (text, expected) in cases {
            let problems = parse(text).expect_err(text);
            assert!(problems.contains(expected), "{text}: {problems}");
        }
    }
}
