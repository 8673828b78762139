//! The programs on switch ports: freeze the host behind a port, witness what was sent to it.
#![forbid(unsafe_code)]

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{Array, MapData, PerCpuArray},
    programs::{SchedClassifier, TcAttachType, Xdp, XdpMode},
};
use rustix::time::{ClockId, clock_gettime};

use crate::netns::Netns;

/// The time since boot by CLOCK_MONOTONIC: one clock for what tests do and what ports witness.
pub fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

/// What was sent to a host for a VIP (its own address does not count), tunnelled or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Witness {
    /// Packets.
    pub packets: u64,
    /// When the last packet was sent, by [`monotonic`]; zero before the first.
    pub last_packet: Duration,
    /// TCP SYNs: attempts to open a connection.
    pub syns: u64,
    /// When the last SYN was sent, by [`monotonic`]; zero before the first.
    pub last_syn: Duration,
}

/// The programs of one switch namespace.
pub(crate) struct Gates {
    /// Holds programs and links.
    _object: Ebpf,
    frozen: Arc<Mutex<Array<MapData, u32>>>,
    syn_loss: Arc<Mutex<Array<MapData, u32>>>,
    witness: Arc<PerCpuArray<MapData, [u64; 4]>>,
    ports: Vec<(String, u32)>,
}

impl Gates {
    /// Loads and attaches: `pass` on the far ends of weir's veths, gates on the backends' ports.
    pub(crate) fn attach(netns: &Netns, peers: &[String], ports: &[String]) -> Result<Self> {
        netns.run(|| {
            let mut object =
                Ebpf::load(lb_userspace::objects::LAB).context("load the lab's switch programs")?;
            let pass: &mut Xdp = object.program_mut("pass").context("find program pass")?.try_into()?;
            pass.load()?;
            for peer in peers {
                pass.attach(peer, XdpMode::Driver)
                    .with_context(|| format!("attach xdp to {peer} (native mode)"))?;
            }
            for (name, side) in [("gate_in", TcAttachType::Ingress), ("gate_out", TcAttachType::Egress)] {
                let gate = object.program_mut(name).with_context(|| format!("find program {name}"))?;
                let gate: &mut SchedClassifier = gate.try_into()?;
                gate.load()?;
                for port in ports {
                    gate.attach(port, side).with_context(|| format!("attach {name} to {port}"))?;
                }
            }
            let frozen = Array::try_from(object.take_map("FROZEN").context("find map FROZEN")?)?;
            let syn_loss = Array::try_from(object.take_map("SYN_LOSS").context("find map SYN_LOSS")?)?;
            let witness = PerCpuArray::try_from(object.take_map("TO_VIP").context("find map TO_VIP")?)?;
            let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
            let index = |port: &String| -> Result<(String, u32)> {
                Ok((port.clone(), rustix::net::netdevice::name_to_index(&socket, port)?))
            };
            let ports = ports.iter().map(index).collect::<Result<_>>()?;
            Ok(Self {
                _object: object,
                frozen: Mutex::new(frozen).into(),
                syn_loss: Mutex::new(syn_loss).into(),
                witness: witness.into(),
                ports,
            })
        })
    }

    /// The gate of a port.
    pub(crate) fn gate(&self, port: &str) -> Result<Gate> {
        let (_, index) =
            self.ports.iter().find(|(name, _)| name == port).context("find the backend's port")?;
        let (frozen, syn_loss) = (self.frozen.clone(), self.syn_loss.clone());
        Ok(Gate { frozen, syn_loss, witness: self.witness.clone(), port: *index })
    }
}

/// The gate of one switch port.
#[derive(Clone)]
pub(crate) struct Gate {
    frozen: Arc<Mutex<Array<MapData, u32>>>,
    syn_loss: Arc<Mutex<Array<MapData, u32>>>,
    witness: Arc<PerCpuArray<MapData, [u64; 4]>>,
    port: u32,
}

/// Whether frames pass a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    Open,
    Closed,
    /// What is for a VIP is lost, tunnelled or not.
    ClosedToVips,
}

impl Gate {
    pub(crate) fn set(&self, passage: Passage) -> Result<()> {
        let value = match passage {
            Passage::Open => 0u32,
            Passage::Closed => 1,
            Passage::ClosedToVips => 2,
        };
        let mut frozen = self.frozen.lock().unwrap_or_else(PoisonError::into_inner);
        frozen.set(self.port, value, 0).context("write map FROZEN")
    }

    /// Loses so many in a hundred TCP SYNs for a VIP.
    pub(crate) fn lose_syns(&self, percent: u32) -> Result<()> {
        let mut loss = self.syn_loss.lock().unwrap_or_else(PoisonError::into_inner);
        loss.set(self.port, percent, 0).context("write map SYN_LOSS")
    }

    pub(crate) fn witness(&self) -> Result<Witness> {
        let values = self.witness.get(&self.port, 0).context("read map TO_VIP")?;
        let add = |sum: Witness, [packets, last_packet, syns, last_syn]: &[u64; 4]| Witness {
            packets: sum.packets + packets,
            last_packet: sum.last_packet.max(Duration::from_nanos(*last_packet)),
            syns: sum.syns + syns,
            last_syn: sum.last_syn.max(Duration::from_nanos(*last_syn)),
        };
        Ok(values.iter().fold(Witness::default(), add))
    }
}
