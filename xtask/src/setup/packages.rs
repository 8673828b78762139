//! The programs that the tests, the demo and the bench drive, and the Debian packages that bring them.

use anyhow::Result;

use super::installer::Installer;
use crate::process;

/// A program, and the package that brings it.
const PROGRAMS: [(&str, &str); 18] = [
    ("nginx", "nginx-light"),
    ("haproxy", "haproxy"),
    ("lighttpd", "lighttpd"),
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("bpftool", "bpftool"),
    ("tshark", "tshark"),
    ("traceroute", "traceroute"),
    ("dnsmasq", "dnsmasq-base"),
    ("openssl", "openssl"),
    ("update-ca-certificates", "ca-certificates"),
    ("iperf3", "iperf3"),
    ("bird", "bird2"),
    ("python3", "python3"),
    ("scapy", "python3-scapy"),
    ("cc", "gcc"),
    ("c++", "g++"),
];

/// Installs the packages of the programs that are missing.
pub(super) fn ensure(installer: &mut Installer) -> Result<()> {
    let missing = PROGRAMS.iter().filter(|(program, _)| process::find(program).is_none());
    let missing: Vec<String> = missing.map(|(_, package)| (*package).to_owned()).collect();
    if missing.is_empty() {
        let all = PROGRAMS.map(|(program, _)| program);
        installer.ok("programs", &all.join(" "));
        return Ok(());
    }
    installer.install_packages("programs", &missing)
}
