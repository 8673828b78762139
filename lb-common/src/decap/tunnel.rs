//! Which tunnel an outer header belongs to, and where the inner packet is.

use super::ip::{Header, Ip};
use super::{Reason, Tables};
use crate::layout::Family;
use crate::packet::Packet;
use crate::wire::{Gue, Udp};

/// IP protocol numbers (RFC 2003, RFC 2473; RFC 4213; RFC 768).
const IPV4: u32 = 4;
const IPV6: u32 = 41;
const UDP: u32 = 17;

/// A tunnel packet of which the frame holds as much as the outer header claims.
pub(super) struct Tunnel {
    /// For which the packet leaves, if it is for a VIP.
    pub(super) reason: Reason,
    /// Of the inner packet.
    pub(super) family: Family,
    /// Offset of the inner packet in the frame.
    pub(super) inner_at: usize,
    /// Bytes that the tunnel has for it.
    pub(super) inner_space: usize,
}

/// Looks for a tunnel behind the outer header at `at`.
#[inline(always)]
pub(super) fn find<O: Ip, P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    outer: &Header,
    at: usize,
) -> Result<Tunnel, Reason> {
    let payload_at = at + O::HEADER;
    match outer.next {
        IPV4 | IPV6 => {
            check::<O, P>(packet, outer, at)?;
            let family = if outer.next == IPV4 { Family::V4 } else { Family::V6 };
            let inner_space = outer.length - outer.header_length;
            Ok(Tunnel { reason: Reason::OpenedIpip, family, inner_at: payload_at, inner_space })
        }
        // Behind options or in a later fragment a port would be something else.
        UDP if outer.header_length == O::HEADER => {
            let Some(udp) = packet.header::<Udp>(payload_at) else { return Err(Reason::NotTunnel) };
            if u16::from_be_bytes(udp.ports.destination) != tables.gue_port() {
                return Err(Reason::NotTunnel);
            }
            check::<O, P>(packet, outer, at)?;
            let length = u16::from_be_bytes(udp.length) as usize;
            if length < size_of::<Udp>() + size_of::<Gue>() || length > outer.length - outer.header_length {
                return Err(Reason::OuterMalformed);
            }
            let gue_at = payload_at + size_of::<Udp>();
            let Some(header) = packet.header(gue_at) else { return Err(Reason::OuterMalformed) };
            let family = gue(header)?;
            let inner_at = gue_at + size_of::<Gue>();
            let inner_space = length - size_of::<Udp>() - size_of::<Gue>();
            Ok(Tunnel { reason: Reason::OpenedGue, family, inner_at, inner_space })
        }
        _ => Err(Reason::NotTunnel),
    }
}

/// Believes the outer header of a tunnel packet, or not.
#[inline(always)]
fn check<O: Ip, P: Packet>(packet: &P, outer: &Header, at: usize) -> Result<(), Reason> {
    if !outer.is_sound::<O>() || at + outer.length > packet.length() {
        return Err(Reason::OuterMalformed);
    }
    if outer.header_length != O::HEADER {
        return Err(Reason::OuterOptions);
    }
    if !O::checksum_holds(packet, at) {
        return Err(Reason::OuterMalformed);
    }
    if outer.fragment != 0 {
        return Err(Reason::OuterFragment);
    }
    Ok(())
}

/// The family of the packet behind a GUE header.
#[inline(always)]
fn gue(header: &Gue) -> Result<Family, Reason> {
    if header.variant() != 0 {
        return Err(Reason::GueVariant);
    }
    if header.is_control() {
        return Err(Reason::GueControl);
    }
    if header.is_extended() {
        return Err(Reason::GueExtended);
    }
    match header.protocol as u32 {
        IPV4 => Ok(Family::V4),
        IPV6 => Ok(Family::V6),
        _ => Err(Reason::GueProtocol),
    }
}
