//! The way of a packet: parse → service → flow or select → forward → verdict.

mod ip;
mod parse;
mod steer;

use crate::forward::{Egress, forward};
use crate::packet::Packet;
use crate::reason::Reason;
use crate::tables::Tables;
use crate::wire::{EtherType, Ethernet};
use ip::{Ip, V4, V6};

/// How a packet left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Why; gives the verdict.
    pub reason: Reason,
    /// Where a forwarded frame leaves.
    pub egress: Option<Egress>,
}

/// Runs one frame through the tables: rewrites it where it is forwarded, counts it, says how it left.
#[inline(always)]
pub fn process<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Outcome {
    let bytes = packet.length() as u64;
    match route(packet, tables, bytes) {
        Ok(outcome) => outcome,
        Err(reason) => {
            tables.count(reason, bytes);
            Outcome { reason, egress: None }
        }
    }
}

#[inline(always)]
fn route<P: Packet, T: Tables>(packet: &mut P, tables: &T, bytes: u64) -> Result<Outcome, Reason> {
    let ethernet: &Ethernet = packet.header(0).ok_or(Reason::Truncated)?;
    match ethernet.ethertype() {
        EtherType::Ipv4 => balance::<1, V4, P, T>(packet, tables, bytes),
        EtherType::Ipv6 => balance::<3, V6, P, T>(packet, tables, bytes),
        EtherType::Vlan => Err(Reason::Vlan),
        EtherType::Other => Err(Reason::NotIp),
    }
}

#[inline(always)]
fn balance<const W: usize, I: Ip<W>, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    bytes: u64,
) -> Result<Outcome, Reason> {
    let parsed = parse::parse::<W, I, P, T>(packet, tables)?;
    let steered = steer::steer::<W, I, T>(tables, &parsed)?;
    let egress = forward(packet, tables, steered.backend, steered.mode, steered.inner)?;
    // After the frame is rewritten: asked before, it would have the verifier follow the rewriting three times.
    packet.leave_by(egress.port).map_err(|_| Reason::NoTxPort)?;
    tables.count(steered.reason, bytes);
    tables.count_forwarded(steered.service, steered.id, bytes);
    Ok(Outcome { reason: steered.reason, egress: Some(egress) })
}
