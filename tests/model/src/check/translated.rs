//! What must hold of a packet that was translated: a sound header, the payload as it came, and a checksum that is right
//! where it was.

use std::net::IpAddr;

use lb_common::reason::Reason;

use super::expect;
use crate::nat::{ends, is_snat, untagged};
use crate::packet::{checksum, pseudo_sum};

/// IP protocol numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Whether a frame that was forwarded for this reason was translated.
pub(super) fn is(reason: Reason, input: &[u8], output: &[u8]) -> bool {
    let source_of = |frame| untagged(frame).and_then(ends).map(|(source, ..)| source);
    let source = source_of(output);
    match reason {
        Reason::NatReply => true,
        // Errors come from the address that their receiver talks to.
        Reason::IcmpError => {
            source.is_some_and(is_snat) || source != source_of(input) && is_error_of_weir(output)
        }
        _ => source.is_some_and(is_snat),
    }
}

/// An error without an outer header whose source is the destination of what it quotes: what weir writes for a client.
fn is_error_of_weir(output: &[u8]) -> bool {
    let Some(packet) = untagged(output) else { return false };
    let Some((source, _, at)) = ends(packet) else { return false };
    let quoted = packet.get(at + 8..).and_then(ends);
    protocol(packet).is_some_and(|(protocol, _)| matches!(protocol, 1 | 58))
        && quoted.is_some_and(|(_, destination, _)| destination == source)
}

/// Protocol and length that the fixed header says.
fn protocol(packet: &[u8]) -> Option<(u8, usize)> {
    let number = |at: usize| Some(usize::from(*packet.get(at)?) << 8 | usize::from(*packet.get(at + 1)?));
    match packet.first()? >> 4 {
        4 => Some((*packet.get(9)?, number(2)?)),
        _ => Some((*packet.get(6)?, number(4)? + 40)),
    }
}

fn length(address: IpAddr) -> usize {
    if address.is_ipv4() { 20 } else { 40 }
}

/// Checks a packet that came as `input` and left as `output`.
pub(super) fn check(input: &[u8], output: &[u8]) -> Result<(), String> {
    let packet = untagged(output).ok_or("left as no IP packet")?;
    let (source, destination, at) = ends(packet).ok_or("left without a whole header")?;
    let (protocol, total) = protocol(packet).ok_or("left without a whole header")?;
    expect("header length", at, length(source))?;
    let packet = packet.get(..total).ok_or("left shorter than it says")?;
    if source.is_ipv4() {
        expect("header checksum", checksum(&packet[..20], 0), 0)?;
    }
    let body = &packet[at..];
    let sum = |protocol| pseudo_sum(source, destination, protocol, body.len());
    match protocol {
        1 => expect("message's checksum", checksum(body, 0), 0),
        58 => expect("message's checksum", checksum(body, sum(58)), 0),
        TCP | UDP => transported(input, body, protocol, checksum(body, sum(protocol))),
        other => Err(format!("translated protocol {other}")),
    }
}

/// `wrong` is 0 where the checksum of what left is right.
fn transported(input: &[u8], left: &[u8], protocol: u8, wrong: u16) -> Result<(), String> {
    let came = untagged(input).ok_or("translated what is no IP packet")?;
    let (source, destination, _) = ends(came).ok_or("translated without a whole header")?;
    let (_, total) = self::protocol(came).ok_or("translated without a whole header")?;
    let came = came.get(..total).ok_or("translated what the frame does not hold")?;
    let start = came.len().checked_sub(left.len()).ok_or("the payload grew")?;
    let came = &came[start..];
    // Behind the ports, and but for the checksum and the MSS.
    let header = if protocol == TCP { usize::from(left[12] >> 4) * 4 } else { 8 };
    expect("payload", &left[header..], &came[header..])?;
    let fixed = if protocol == TCP { 4..16 } else { 4..6 };
    expect("header", &left[fixed.clone()], &came[fixed])?;
    let was = checksum(came, pseudo_sum(source, destination, protocol, came.len()));
    let absent = protocol == UDP && came[6..8] == [0, 0];
    match (absent, was) {
        (true, _) => {
            let made = left[6..8] != [0, 0];
            expect("a checksum that was made is right", made && wrong != 0, false)
        }
        // Both forms of zero.
        (false, 0 | 0xffff) => expect("checksum stays right", matches!(wrong, 0 | 0xffff), true),
        (false, _) => expect("checksum stays wrong", matches!(wrong, 0 | 0xffff), false),
    }
}
