//! What must hold of every frame that went through, told from the frame alone.

mod answer;
mod translated;

use lb_common::forward::Egress;
use lb_common::pipeline::Outcome;
use lb_common::reason::{Reason, Verdict};

use crate::scene::GUE_PORT;

const ETHERNET: usize = 14;
/// Bytes of a UDP and a GUE header.
const GUE: usize = 12;
/// IP protocol number.
const UDP: u8 = 17;

/// Checks a frame that came as `input` and left as `output`.
///
/// # Errors
/// The promise that is broken.
pub fn check(input: &[u8], outcome: &Outcome, output: &[u8]) -> Result<(), String> {
    match outcome.reason.verdict() {
        // Those are found out last; the frame goes nowhere.
        Verdict::Drop if matches!(outcome.reason, Reason::NoTxPort | Reason::NoHeadroom) => Ok(()),
        Verdict::Answer if outcome.egress != Egress::NONE => answer::check(outcome.reason, input, output),
        Verdict::Pass | Verdict::Drop | Verdict::Answer if output != input => {
            Err(format!("{:?}: the frame was changed", outcome.reason))
        }
        Verdict::Pass | Verdict::Drop if outcome.egress != Egress::NONE => {
            Err(format!("{:?}: has an egress", outcome.reason))
        }
        Verdict::Pass | Verdict::Drop | Verdict::Answer => Ok(()),
        Verdict::Forward if outcome.egress == Egress::NONE => Err("forwarded without an egress".into()),
        Verdict::Forward if translated::is(outcome.reason, input, output) => translated::check(input, output),
        Verdict::Forward => forwarded(input, output),
    }
}

fn number(bytes: &[u8], offset: usize) -> Result<usize, String> {
    match bytes.get(offset..offset + 2) {
        Some([high, low]) => Ok(usize::from(*high) << 8 | usize::from(*low)),
        _ => Err(format!("{} bytes end before offset {offset}", bytes.len())),
    }
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, expected {expected:?}")) }
}

/// An IP packet's version, traffic class and length.
fn inner(packet: &[u8]) -> Result<(u8, u8, usize), String> {
    let first = number(packet, 0)?;
    match first >> 12 {
        4 => Ok((4, first as u8, number(packet, 2)?)),
        6 => Ok((6, (first >> 4) as u8, number(packet, 4)? + 40)),
        other => Err(format!("forwarded IP version {other}")),
    }
}

/// Bytes of the Ethernet header with up to two VLAN tags, and the ethertype of what follows.
fn link(frame: &[u8]) -> Result<(usize, usize), String> {
    let (mut length, mut ethertype) = (ETHERNET, number(frame, 12)?);
    while [0x8100, 0x88a8].contains(&ethertype) && length < ETHERNET + 8 {
        ethertype = number(frame, length + 2)?;
        length += 4;
    }
    Ok((length, ethertype))
}

fn forwarded(input: &[u8], output: &[u8]) -> Result<(), String> {
    let ((before, came_as), (after, goes_as)) = (link(input)?, link(output)?);
    let arrived = input.get(before..).ok_or("forwarded without an Ethernet header")?;
    let left = output.get(after..).ok_or("left without an Ethernet header")?;
    let (version, class, length) = inner(arrived)?;
    if length > arrived.len() {
        return Err(format!("forwarded {} bytes of an IP packet of {length}", arrived.len()));
    }
    let grown = left.len().checked_sub(arrived.len()).ok_or("the packet shrank")?;
    expect("inner packet", left.get(grown..), Some(arrived))?;
    let protocol = if version == 4 { 4 } else { 41 };
    match grown {
        0 => expect("ethertype", goes_as, came_as),
        20 => outer_v4(goes_as, left, protocol, class, length),
        40 => outer_v6(goes_as, left, protocol, class, length),
        32 => {
            outer_v4(goes_as, left, UDP, class, length + GUE)?;
            gue(&left[20..], protocol, length)
        }
        52 => {
            outer_v6(goes_as, left, UDP, class, length + GUE)?;
            gue(&left[40..], protocol, length)
        }
        other => Err(format!("grew by {other} bytes")),
    }
}

/// A UDP header to the tunnel's port, from a port of the dynamic range and without a checksum, and a GUE header of
/// variant 0 without optional fields.
fn gue(udp: &[u8], protocol: u8, inner: usize) -> Result<(), String> {
    expect("tunnel's source port is dynamic", number(udp, 0)? >= 0xc000, true)?;
    expect("tunnel's port", number(udp, 2)?, usize::from(GUE_PORT))?;
    expect("tunnel's length", number(udp, 4)?, inner + GUE)?;
    expect("tunnel's checksum", number(udp, 6)?, 0)?;
    expect("GUE header", &udp[8..12], &[0, protocol, 0, 0])
}

fn outer_v4(ethertype: usize, outer: &[u8], protocol: u8, class: u8, inner: usize) -> Result<(), String> {
    expect("ethertype", ethertype, 0x0800)?;
    expect("outer version, IHL", outer[0], 0x45)?;
    expect("outer DSCP, ECN", outer[1], class)?;
    expect("outer length", number(outer, 2)?, inner + 20)?;
    expect("outer flags, offset", number(outer, 6)?, 0x4000)?;
    expect("outer TTL, protocol", &outer[8..10], &[64, protocol])?;
    let sum = (0..10).map(|word| number(outer, word * 2)).sum::<Result<usize, String>>()?;
    expect("outer checksum", (sum & 0xffff) + (sum >> 16), 0xffff)
}

fn outer_v6(ethertype: usize, outer: &[u8], protocol: u8, class: u8, inner: usize) -> Result<(), String> {
    expect("ethertype", ethertype, 0x86dd)?;
    let first = number(outer, 0)?;
    expect("outer version", first >> 12, 6)?;
    expect("outer DSCP, ECN", (first >> 4) as u8, class)?;
    expect("outer flow label is set", (first & 0xf, number(outer, 2)?) != (0, 0), true)?;
    expect("outer length", number(outer, 4)?, inner)?;
    expect("outer protocol, hop limit", &outer[6..8], &[protocol, 64])
}

#[cfg(test)]
mod tests {
    use lb_common::layout::Family;

    use super::*;
    use crate::{Host, PORTS_FIRST, PacketSpec, Plain, Scene, SceneSizes, client, vip};

    /// A frame for a service (pool 2 has IPv4 backends, 3 IPv6 ones), and how it left.
    fn sent(service: u16) -> (Vec<u8>, Outcome, Vec<u8>) {
        let mut tables = Plain::new(&SceneSizes::SMALL);
        let geometry = SceneSizes::SMALL.geometry(Scene::START);
        Scene::fill(&mut tables, &geometry);
        for backend in 1..SceneSizes::SMALL.backends {
            Scene::next_hop_of(&mut tables, backend, 1);
        }
        let ports = (50_000, PORTS_FIRST + service);
        let frame = PacketSpec::syn(client(Family::V4, 1), vip(Family::V4, 0), ports).frame();
        let ran = Host::new(tables.slices(), geometry).run(&frame, 256);
        (frame, ran.outcome, ran.output)
    }

    #[test]
    fn a_change_of_any_byte_that_the_checks_cover_is_found() {
        // From the ethertype on; an outer IPv6 header's flow label and addresses are covered by no checksum.
        let cases =
            [(2, 12..74), (3, 12..15), (3, 18..22), (3, 54..94), (12, 12..54), (162, 12..34), (162, 36..86)];
        for (service, covered) in cases {
            let (frame, outcome, output) = sent(service);
            assert_eq!(check(&frame, &outcome, &output), Ok(()));
            for byte in covered {
                let mut changed = output.clone();
                changed[byte] ^= 0x10;
                assert!(check(&frame, &outcome, &changed).is_err(), "service {service}, byte {byte}");
            }
        }
    }

    #[test]
    fn a_frame_that_passes_must_be_as_it_came() {
        let (frame, _, output) = sent(2);
        let passed = Outcome { reason: lb_common::reason::Reason::NotVip, egress: Egress::NONE };
        assert_eq!(check(&frame, &passed, &frame), Ok(()));
        assert!(check(&frame, &passed, &output).is_err());
    }
}
