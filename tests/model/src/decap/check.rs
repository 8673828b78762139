//! What must hold of frames at a backend, told from the frames alone.

use lb_common::decap::mss::Finding;
use lb_common::decap::{Reason, Verdict};

use super::generate::internet_sum;
use super::{SETTINGS, key, sources, vips};

fn part(bytes: &[u8], from: usize, length: usize) -> Result<&[u8], String> {
    bytes.get(from..from + length).ok_or(format!("{} bytes end before {from} + {length}", bytes.len()))
}

fn number(bytes: &[u8], at: usize) -> Result<usize, String> {
    part(bytes, at, 2).map(|pair| usize::from(pair[0]) << 8 | usize::from(pair[1]))
}

/// Bytes of the link header, tags included.
fn link_length(frame: &[u8]) -> Result<usize, String> {
    let mut at = 12;
    while [0x8100, 0x88a8].contains(&number(frame, at)?) {
        at += 4;
    }
    Ok(at + 2)
}

/// Whether a packet's source or destination is one of `prefixes`.
fn address_at(packet: &[u8], v4_at: usize, v6_at: usize) -> Result<std::net::IpAddr, String> {
    match packet.first().map(|first| first >> 4) {
        Some(4) => Ok(<[u8; 4]>::try_from(part(packet, v4_at, 4)?).map_err(|e| e.to_string())?.into()),
        Some(6) => Ok(<[u8; 16]>::try_from(part(packet, v6_at, 16)?).map_err(|e| e.to_string())?.into()),
        other => Err(format!("IP version {other:?}")),
    }
}

/// Checks a frame that came in as `input` and went on as `output`.
///
/// # Errors
/// The promise that is broken.
pub fn check_incoming(input: &[u8], reason: Reason, output: &[u8]) -> Result<(), String> {
    let gue = match (reason, reason.verdict()) {
        (Reason::Inconsistent, _) => return Err("a defect".into()),
        (_, Verdict::Pass | Verdict::Drop) if input != output => {
            return Err(format!("{reason:?}: the frame was changed"));
        }
        (_, Verdict::Pass | Verdict::Drop) => return Ok(()),
        (Reason::OpenedIpip, Verdict::Open) => 0,
        (_, Verdict::Open) => 12,
    };
    let link = link_length(input)?;
    if link > 14 + 8 {
        return Err("opened behind more than two tags".into());
    }
    let outer = &input[link..];
    if !sources().iter().any(|prefix| address_at(outer, 12, 8).is_ok_and(|a| prefix.covers(key(a)))) {
        return Err("opened a tunnel of another source".into());
    }
    let (header, outer_class) = if outer[0] >> 4 == 4 {
        if outer[0] != 0x45 || internet_sum(&outer[..20]) != 0xffff || number(outer, 6)? & 0x3fff != 0 {
            return Err("opened an outer header that is damaged, has options or is a fragment".into());
        }
        (20, outer[1])
    } else {
        (40, (number(outer, 0)? >> 4) as u8)
    };
    let inner = outer.get(header + gue..).ok_or("opened more than there is")?;
    if !address_at(inner, 16, 24).is_ok_and(|address| vips().contains(&key(address))) {
        return Err("opened a packet that is not for a VIP".into());
    }
    if output.len() != link + inner.len() || output[..link - 2] != input[..link - 2] {
        return Err("the link header is not the frame's".into());
    }
    let left = &output[link..];
    let (ethertype, length, class, left_class) = if inner[0] >> 4 == 4 {
        (0x0800, number(inner, 2)?, inner[1], left[1])
    } else {
        let class = |packet| number(packet, 0).map(|word| (word >> 4) as u8);
        (0x86dd, number(inner, 4)? + 40, class(inner)?, class(left)?)
    };
    if number(output, link - 2)? != ethertype || length > inner.len() {
        return Err(format!("ethertype, or an inner length of {length}"));
    }
    // RFC 6040: a mark of either header stays a mark; where the inner sender is not capable there is none.
    let (mark, outer_mark) = (class & 3, outer_class & 3);
    let expected = match (mark, outer_mark) {
        (0, 3) => return Err("a marked packet of a sender that is not capable went on".into()),
        (0, _) => 0,
        (_, 3) => 3,
        (2, 1) => 1,
        _ => mark,
    };
    if left_class != class & !3 | expected {
        return Err(format!("traffic class {left_class:#04x} of {class:#04x} in {outer_class:#04x}"));
    }
    let ihl = usize::from(inner[0] & 0xf) * 4;
    if inner[0] >> 4 == 4 {
        let sums = [inner, left].map(|packet| part(packet, 0, ihl).map(internet_sum));
        if let [Ok(0xffff), Ok(sum)] = sums
            && sum != 0xffff
        {
            return Err("the inner header's checksum is wrong".into());
        }
    }
    let differs = |at: usize| inner[at] != left[at];
    let may_differ: &[usize] = if inner[0] >> 4 == 4 { &[1, 10, 11] } else { &[0, 1] };
    match (0..inner.len()).find(|at| differs(*at) && !may_differ.contains(at)) {
        Some(at) => Err(format!("byte {at} of the inner packet was changed")),
        None => Ok(()),
    }
}

/// Checks a frame that went out as `input` and left as `output`.
///
/// # Errors
/// The promise that is broken.
pub fn check_answer(input: &[u8], finding: Option<Finding>, output: &[u8]) -> Result<(), String> {
    if finding != Some(Finding::Lowered) {
        return if input == output { Ok(()) } else { Err(format!("{finding:?}: the frame was changed")) };
    }
    let link = link_length(input)?;
    let packet = &input[link..];
    let v4 = packet[0] >> 4 == 4;
    if !address_at(packet, 12, 8).is_ok_and(|address| vips().contains(&key(address))) {
        return Err("lowered the MSS of somebody else".into());
    }
    let tcp = link + if v4 { usize::from(packet[0] & 0xf) * 4 } else { 40 };
    let limit = if v4 { SETTINGS.mss_v4 } else { SETTINGS.mss_v6 };
    let changed: Vec<usize> = (0..input.len()).filter(|at| input[*at] != output[*at]).collect();
    let value = changed.iter().copied().filter(|at| *at >= tcp + 20).collect::<Vec<_>>();
    if input.len() != output.len() || value.is_empty() || value.len() > 2 {
        return Err(format!("changed bytes {changed:?}"));
    }
    if changed.iter().any(|at| *at < tcp + 20 && !(tcp + 16..tcp + 18).contains(at)) {
        return Err(format!("changed bytes {changed:?}"));
    }
    // Where only one byte of the two changed, the value begins there or one before.
    let starts = [value[0], value[0] - 1];
    if !starts.iter().any(|at| number(output, *at).is_ok_and(|mss| mss == usize::from(limit))) {
        return Err("the MSS is not the limit".into());
    }
    let sum = |frame: &[u8]| {
        let pseudo = if v4 { link + 12..link + 20 } else { link + 8..link + 40 };
        let length = ((frame.len() - tcp) as u16).to_be_bytes();
        internet_sum(&[&frame[pseudo], &[0, 6], &length, &frame[tcp..]].concat())
    };
    if sum(input) == 0xffff && sum(output) != 0xffff {
        return Err("the TCP checksum is wrong".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choice::Splitmix;
    use crate::decap::{Backend, Outer, answer};
    use crate::packet::PacketSpec;

    #[test]
    fn a_change_of_any_byte_of_an_opened_packet_is_found() {
        for (source, tunnel) in [("10.0.0.1", "10.0.1.11"), ("fd00::2", "fd00:1::11")] {
            for vip in ["198.51.100.10", "2001:db8::10"] {
                let client = if vip.contains(':') { "2001:db8:c::9" } else { "203.0.113.9" };
                let [client, vip] = [client, vip].map(|text| text.parse().expect("address"));
                let packet = PacketSpec { traffic_class: 0xb9, ..PacketSpec::syn(client, vip, (50_000, 80)) };
                let frame = Outer { traffic_class: 3, ..Outer::ipip(source, tunnel) }.around(&packet.frame());
                let (reason, output) = Backend::default().incoming(&frame);
                assert_eq!(check_incoming(&frame, reason, &output), Ok(()));
                assert!(check_incoming(&frame, Reason::NotVip, &output).is_err());
                for byte in 0..output.len() {
                    let mut changed = output.clone();
                    changed[byte] ^= 0x11;
                    assert!(check_incoming(&frame, reason, &changed).is_err(), "byte {byte}");
                }
            }
        }
    }

    #[test]
    fn a_change_of_any_byte_of_a_lowered_answer_is_found() {
        let (backend, mut choice, mut seen) = (Backend::default(), Splitmix(7), 0);
        while seen < 20 {
            let frame = answer(&mut choice);
            let (finding, output) = backend.outgoing(&frame);
            assert_eq!(check_answer(&frame, finding, &output), Ok(()));
            // A frame that is cut short has no checksum to go by.
            let claimed = if frame[12] == 8 {
                number(&frame, 16)
            } else {
                number(&frame, 18).map(|length| length + 40)
            };
            if finding != Some(Finding::Lowered) || claimed != Ok(frame.len() - 14) {
                continue;
            }
            seen += 1;
            for byte in 14..output.len() {
                let mut changed = output.clone();
                changed[byte] ^= 0x11;
                assert!(check_answer(&frame, finding, &changed).is_err(), "byte {byte} of {frame:02x?}");
            }
        }
    }
}
