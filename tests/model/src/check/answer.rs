//! What must hold of a frame that was answered.

use std::net::IpAddr;

use lb_common::reason::Reason;

use super::{expect, link, number};
use crate::packet::{checksum, pseudo_sum};

/// An IP packet that was answered, or its answer.
struct Packet<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// The IP packet's bytes, without what follows it in the frame.
    bytes: &'a [u8],
    /// The same behind the fixed header and IPv4 options.
    payload: &'a [u8],
}

fn read(bytes: &[u8]) -> Result<Packet<'_>, String> {
    let cut = |from, to| bytes.get(from..to).ok_or(format!("an IP packet ends before {to}"));
    let v4 = |at: usize| <[u8; 4]>::try_from(cut(at, at + 4)?).map(IpAddr::from).map_err(|e| e.to_string());
    let v6 = |at: usize| <[u8; 16]>::try_from(cut(at, at + 16)?).map(IpAddr::from).map_err(|e| e.to_string());
    match bytes.first().ok_or("no IP packet")? >> 4 {
        4 => {
            let (header, length) = (usize::from(bytes[0] & 0xf) * 4, number(bytes, 2)?);
            Ok(Packet {
                source: v4(12)?,
                destination: v4(16)?,
                protocol: cut(9, 10)?[0],
                bytes: cut(0, length)?,
                payload: cut(header, length)?,
            })
        }
        _ => {
            let length = number(bytes, 4)? + 40;
            Ok(Packet {
                source: v6(8)?,
                destination: v6(24)?,
                protocol: cut(6, 7)?[0],
                bytes: cut(0, length)?,
                payload: cut(40, length)?,
            })
        }
    }
}

pub(super) fn check(reason: Reason, input: &[u8], output: &[u8]) -> Result<(), String> {
    let ((before, came_as), (after, goes_as)) = (link(input)?, link(output)?);
    expect("ethertype", goes_as, came_as)?;
    expect("destination MAC", &output[..6], &input[6..12])?;
    expect("source MAC", &output[6..12], &input[..6])?;
    expect("VLAN tags", &output[12..after], &input[12..before])?;
    let (asked, answer) = (read(&input[before..])?, read(&output[after..])?);
    expect("source", answer.source, asked.destination)?;
    expect("destination", answer.destination, asked.source)?;
    let ttl = if answer.source.is_ipv4() { 8 } else { 7 };
    expect("TTL", answer.bytes[ttl], 64)?;
    if answer.source.is_ipv4() {
        expect("IP header checksum", canonical(checksum(&answer.bytes[..20], 0)), ip_damage(&asked, reason))?;
    }
    match (reason, answer.protocol) {
        (Reason::EchoAnswered, protocol) => echo(&asked, &answer, protocol),
        (_, 6) => reset(&asked, &answer, output.len() - after),
        (_, 1 | 58) => error(reason, &asked, &answer, output.len() - after),
        (_, other) => Err(format!("answered by protocol {other}")),
    }
}

/// What a right checksum leaves over: nothing, but for an echo request that came with a wrong one.
fn ip_damage(asked: &Packet<'_>, reason: Reason) -> u16 {
    match reason {
        Reason::EchoAnswered => canonical(checksum(&asked.bytes[..20], 0)),
        _ => 0,
    }
}

/// Both forms of zero are one.
fn canonical(left: u16) -> u16 {
    if left == 0xffff { 0 } else { left }
}

/// What is left over of the checksum of what follows the IP header.
fn left_over(packet: &Packet<'_>) -> u16 {
    let pseudo = match packet.protocol {
        1 => 0,
        protocol => pseudo_sum(packet.source, packet.destination, protocol, packet.payload.len()),
    };
    canonical(checksum(packet.payload, pseudo))
}

fn echo(asked: &Packet<'_>, answer: &Packet<'_>, protocol: u8) -> Result<(), String> {
    expect("echo type", answer.payload[0], if protocol == 1 { 0 } else { 129 })?;
    expect("echo code", answer.payload[1], asked.payload[1])?;
    expect("echo content", &answer.payload[4..], &asked.payload[4..])?;
    expect("echo checksum", left_over(answer), left_over(asked))
}

fn reset(asked: &Packet<'_>, answer: &Packet<'_>, rest: usize) -> Result<(), String> {
    expect("length", answer.bytes.len(), rest)?;
    expect("TCP header", answer.payload.len(), 20)?;
    expect("TCP checksum", left_over(answer), 0)?;
    let flags = answer.payload[13];
    expect("RST", flags & 0xef, 0x04)?;
    // Behind options and extension headers the segment is found by its ports, which the answer has the other way round.
    let ports = [&answer.payload[2..4], &answer.payload[..2]].concat();
    let Some(at) = (0..asked.payload.len().saturating_sub(19)).find(|at| {
        asked.payload[*at..].starts_with(&ports) && {
            let acknowledged = asked.payload[at + 13] & 0x10 != 0;
            let sequence = &asked.payload[at + 8..at + 12];
            acknowledged == (flags == 0x04) && (!acknowledged || sequence == &answer.payload[4..8])
        }
    }) else {
        return Err("no segment that this reset answers".into());
    };
    expect("answers no reset", asked.payload[at + 13] & 0x04, 0)
}

fn error(reason: Reason, asked: &Packet<'_>, answer: &Packet<'_>, rest: usize) -> Result<(), String> {
    let most = if answer.protocol == 1 { 576 } else { 1280 };
    expect("length", answer.bytes.len(), rest)?;
    expect("ICMP checksum", left_over(answer), 0)?;
    let quote = &answer.payload[8..];
    expect("quote", Some(quote), asked.bytes.get(..quote.len()))?;
    expect("quotes all that may be", answer.bytes.len() == most || quote.len() == asked.bytes.len(), true)?;
    let about = (answer.protocol, answer.payload[0], answer.payload[1]);
    let size = number(answer.payload, 6)?;
    match (reason, about) {
        (Reason::TooBig, (1, 3, 4) | (58, 2, 0)) if size < asked.bytes.len() => Ok(()),
        (
            Reason::UnmatchedReject | Reason::NoBackendReset | Reason::NatExhausted | Reason::NatNoFlow,
            (1, 3, 2 | 3) | (58, 1, 4) | (58, 4, 1),
        ) => Ok(()),
        (_, about) => Err(format!("answered by {about:?}, {size}, to {} bytes", asked.bytes.len())),
    }
}
