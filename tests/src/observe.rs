//! What weir left in the kernel, seen by another program: bpftool and the file system.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{host::Host, weir::WeirProc};

/// Maps that packets write.
const WRITTEN_BY_PACKETS: [&str; 13] = [
    "flows_v4",
    "flows_v6",
    "overflow_v4",
    "overflow_v6",
    "fragments",
    "loads",
    "nat_addresses",
    "nat_ports",
    "nat_lines",
    "reason_counters",
    "service_counters",
    "backend_counters",
    "backend_handshakes",
];

/// A pinned link as the kernel numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinnedLink {
    /// The link.
    pub link: u64,
    /// The program that it runs.
    pub program: u64,
}

impl WeirProc {
    /// The pinned link of an interface.
    pub fn attachment(&self, interface: &str) -> Result<PinnedLink> {
        let path = self.bpffs().join("links").join(interface);
        let shown = bpftool(&["link", "show", "pinned"], &path)?;
        let number = |key: &str| shown[key].as_u64().unwrap_or(0);
        Ok(PinnedLink { link: number("id"), program: number("prog_id") })
    }

    /// Everything in its directory of the bpffs, by path from there.
    pub fn pins(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        walk(self.bpffs(), &mut found)?;
        let relative = |path: PathBuf| {
            path.strip_prefix(self.bpffs()).map(|path| path.display().to_string()).map_err(Into::into)
        };
        let mut found = found.into_iter().map(relative).collect::<Result<Vec<_>>>()?;
        found.sort();
        Ok(found)
    }

    /// The kernel's numbers of the pinned maps, by name.
    pub fn map_ids(&self) -> Result<BTreeMap<String, u64>> {
        let id = |name: String| {
            let shown = bpftool(&["map", "show", "pinned"], &self.bpffs().join("maps").join(&name))?;
            Ok((name, shown["id"].as_u64().context("a map has an id")?))
        };
        self.map_names()?.into_iter().map(id).collect()
    }

    /// The contents of the pinned maps that only the control plane writes, by name, as bpftool prints them.
    pub fn tables(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let names = self.map_names()?.into_iter();
        let names = names.filter(|name| !WRITTEN_BY_PACKETS.contains(&name.as_str()));
        let dump = |name: String| {
            // Reading it as JSON takes seconds, for tens of megabytes.
            let dumped = bpftool_output(&["map", "dump", "pinned"], &self.bpffs().join("maps").join(&name))?;
            Ok((name, dumped))
        };
        names.map(dump).collect()
    }

    fn map_names(&self) -> Result<Vec<String>> {
        let pins = self.pins()?.into_iter();
        Ok(pins.filter_map(|pin| pin.strip_prefix("maps/").map(str::to_owned)).collect())
    }

    /// The packets of all reasons together.
    pub fn packets(&self) -> Result<u64> {
        let status = self.json(&["status"])?;
        let counters = status["counters"].as_object().context("status has counters")?;
        Ok(counters.values().filter_map(Value::as_u64).sum())
    }

    /// The backend of each live flow, as `pool/name`, by its client's address and port; of those that `filter`, arguments of
    /// `weir flows`, lets through.
    pub fn flow_backends(&self, filter: &[&str]) -> Result<BTreeMap<SocketAddr, String>> {
        let flows = self.json(&[&["flows", "--limit", "0"][..], filter].concat())?;
        let flow = |flow: &Value| {
            let client = flow["client"].as_str().context("a flow has a client")?.parse()?;
            let port = flow["client_port"].as_u64().context("a flow has a client port")?;
            let name = |key: &str| flow[key].as_str().unwrap_or_default();
            Ok((
                SocketAddr::new(client, u16::try_from(port)?),
                format!("{}/{}", name("pool"), name("backend")),
            ))
        };
        flows["flows"].as_array().context("flows is a list")?.iter().map(flow).collect()
    }

    /// A backend as `weir backends -o json` shows it.
    pub fn backend(&self, name: &str) -> Result<Value> {
        let shown = self.json(&["backends", "--backend", name])?;
        Ok(shown["backends"][0].clone())
    }
}

impl Host {
    /// The XDP program on an interface, by the kernel's number.
    pub fn xdp_program(&self, interface: &str) -> Result<Option<u64>> {
        let shown = self.exec("ip", &["-json", "link", "show", "dev", interface])?;
        let shown: Value = serde_json::from_str(&shown).context("read ip's json")?;
        Ok(shown[0]["xdp"]["prog"]["id"].as_u64())
    }
}

fn bpftool(words: &[&str], pin: &Path) -> Result<Value> {
    serde_json::from_slice(&bpftool_output(words, pin)?).context("read bpftool's json")
}

/// What bpftool prints in JSON.
fn bpftool_output(words: &[&str], pin: &Path) -> Result<Vec<u8>> {
    let output = Command::new("bpftool").arg("-j").args(words).arg(pin).output();
    let output = output.context("run bpftool: is it installed?")?;
    if !output.status.success() {
        bail!("bpftool {} {}: {}", words.join(" "), pin.display(), String::from_utf8_lossy(&output.stdout));
    }
    Ok(output.stdout)
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => walk(&entry.path(), found)?,
            false => found.push(entry.path()),
        }
    }
    Ok(())
}
