//! Interfaces of weir's host that go and come, and programs of somebody else on them.
#![forbid(unsafe_code)]

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf,
    programs::{Program, Xdp, XdpMode},
};

use crate::{
    host::Host,
    lab::Lab,
    plan::{BEHIND_GATEWAY, DIRECT, FRONT, GATEWAY, VIPS},
    topology::{complete_checksums, mac_text},
};

/// An interface of weir's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// `eth0`, to the edge router.
    Front,
    /// `eth1`, to the direct backends.
    Direct,
}

/// A program that passes every packet; gone from its interface when dropped.
pub struct PassingProgram {
    _object: Ebpf,
}

impl Host {
    /// Attaches a program that passes every packet, as another tool would.
    pub fn attach_passing_program(&self, interface: &str) -> Result<PassingProgram> {
        let mut object = Ebpf::load(lb_userspace::objects::LAB).context("load the lab's programs")?;
        let pass: &mut Xdp = object.program_mut("pass").context("find program pass")?.try_into()?;
        pass.load()?;
        self.run(|| pass.attach(interface, XdpMode::Driver))
            .with_context(|| format!("attach xdp to {interface} of {} (native mode)", self.name()))?;
        Ok(PassingProgram { _object: object })
    }
}

/// A program of somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// Drops IPv4 echo requests and passes everything else.
    EchoFilter,
    /// A tc program.
    Tc,
    /// An XDP program that takes frames of several buffers.
    Frags,
}

/// Loads and pins a program, as another tool would.
pub fn pin_program(program: Foreign, path: &Path) -> Result<()> {
    let (object, name) = match program {
        Foreign::EchoFilter => (lb_userspace::objects::LAB, "refuse_echo"),
        Foreign::Tc => (lb_userspace::objects::LAB, "gate_in"),
        Foreign::Frags => (lb_userspace::objects::DECAP, "weir_decap"),
    };
    let mut object = Ebpf::load(object).context("load the object")?;
    let pinned = match object.program_mut(name).with_context(|| format!("find program {name}"))? {
        Program::Xdp(xdp) => {
            xdp.load()?;
            xdp.pin(path)
        }
        Program::SchedClassifier(tc) => {
            tc.load()?;
            tc.pin(path)
        }
        other => bail!("program {name} is a {:?}", other.prog_type()),
    };
    pinned.with_context(|| format!("pin {}", path.display()))
}

impl Lab {
    /// Deletes an interface of weir's host, and with it the other end.
    pub fn unplug(&self, interface: Interface) -> Result<()> {
        self.weir.ip(&format!("link delete {}", interface.ends().0)).map(drop)
    }

    /// Makes an interface that was deleted anew, as it was in the beginning: MAC addresses, addresses, routes. The far
    /// end's program must be held as long as the interface is used.
    pub fn plug(&self, interface: Interface) -> Result<PassingProgram> {
        let (device, far) = interface.ends();
        let (segment, far_mac) = match interface {
            Interface::Front => (FRONT, format!(" address {}", mac_text(FRONT.mac(GATEWAY)))),
            Interface::Direct => (DIRECT, String::new()),
        };
        let near_mac = mac_text(segment.mac(BEHIND_GATEWAY));
        let (weir, edge) = (self.weir.netns().name(), self.edge.netns().name());
        let link = format!(
            "link add name {device} address {near_mac} mtu 1600 netns {weir} type veth peer name {far}{far_mac} mtu \
             1600 netns {edge}"
        );
        let made = Command::new("ip").args(link.split_whitespace()).output().context("run ip")?;
        anyhow::ensure!(made.status.success(), "ip {link}: {}", String::from_utf8_lossy(&made.stderr));
        let passing = self.edge.attach_passing_program(far)?;
        self.edge.run(|| complete_checksums(far))?;
        self.weir.run(|| complete_checksums(device))?;
        self.edge.ip(&format!("link set {far} up"))?;
        self.weir.ip(&format!("link set {device} up"))?;
        let near = segment.host(BEHIND_GATEWAY);
        self.weir.ip(&format!("address add {}/24 dev {device}", near.v4))?;
        self.weir.ip(&format!("address add {}/64 dev {device} nodad", near.v6))?;
        match interface {
            Interface::Direct => drop(self.edge.ip(&format!("link set {far} master direct"))?),
            Interface::Front => {
                let gateway = FRONT.host(GATEWAY);
                self.edge.ip(&format!("address add {}/24 dev {far}", gateway.v4))?;
                self.edge.ip(&format!("address add {}/64 dev {far} nodad", gateway.v6))?;
                let [v4, v6] = VIPS.prefixes();
                self.edge.ip(&format!("route add {v4} via {}", near.v4))?;
                self.edge.ip(&format!("route add {v6} via {}", near.v6))?;
                self.weir.ip(&format!("route add default via {}", gateway.v4))?;
                self.weir.ip(&format!("route add default via {}", gateway.v6))?;
            }
        }
        Ok(passing)
    }
}

impl Interface {
    /// Its name, and the name of the far end on the edge router.
    fn ends(self) -> (&'static str, &'static str) {
        match self {
            Self::Front => ("eth0", "to-weir"),
            Self::Direct => ("eth1", "weir-direct"),
        }
    }
}
