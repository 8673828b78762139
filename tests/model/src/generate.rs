//! Frames of all kinds: sound, mutated, for other hosts, random.

use std::net::IpAddr;

use lb_common::layout::Family;

use crate::choice::Choice;
use crate::icmp::IcmpSpec;
use crate::packet::{Extension, PacketSpec, Transport};
use crate::quic::{QuicHeader, quic};
use crate::scene::{CID_CONFIG, OTHER_CID_CONFIG, PORTS_FIRST, Scene, client, not_vip, vip};

/// Longest frame: what the kernel's test run takes without fragments.
const MAX_FRAME: usize = 3520;
/// Shortest frame: the kernel gives no program less.
const MIN_FRAME: usize = 14;

/// Frame `number` of a run: most are for VIPs of [`Scene`], from few enough clients for flows to meet again.
pub fn frame(choice: &mut impl Choice, number: u32) -> Vec<u8> {
    let mut frame = match choice.below(100) {
        0..25 => spec(choice).frame(),
        25..75 => regular(choice, number).frame(),
        75..80 => {
            let mut spec = spec(choice);
            let family = if spec.destination.is_ipv4() { Family::V4 } else { Family::V6 };
            spec.destination = not_vip(family);
            spec.frame()
        }
        80..84 => tagged(choice),
        84..86 => fragment(choice, number),
        86..88 => {
            let mut frame = spec(choice).frame();
            frame.splice(12..14, choice.pick(&[[0x08, 0x06], [0x88, 0xcc], [0x05, 0xdc], [0x86, 0xde]]));
            frame
        }
        88..94 => icmp(choice, number),
        94..96 => by_connection_id(choice),
        _ => noise(choice),
    };
    if choice.chance(20) {
        for _ in 0..=choice.below(3) {
            mutate(&mut frame, choice);
        }
    }
    if choice.chance(2) {
        // TTL, hop limit.
        set(&mut frame, choice.pick(&[22, 21]), 0);
    }
    if choice.chance(5) {
        // What a driver leaves after a short packet.
        frame.resize(frame.len().max(60), 0);
    }
    frame.resize(frame.len().clamp(MIN_FRAME, MAX_FRAME), 0);
    frame
}

fn spec(choice: &mut impl Choice) -> PacketSpec {
    let family = choice.pick(&[Family::V4, Family::V6]);
    let port = match choice.below(20) {
        0..14 => PORTS_FIRST + 1 + choice.below(Scene::services() as usize) as u16,
        14..16 => 2000 + choice.below(300) as u16,
        16..18 => 3000 + choice.below(450) as u16,
        _ => choice.word() as u16,
    };
    let source_port = 40_000 + choice.below(4) as u16;
    let destination = vip(family, choice.pick(&[0, 0, 0, 0, 1, 1, 2, 3, 7, 19]));
    let mut spec = PacketSpec::syn(client(family, choice.below(24) as u32), destination, (source_port, port));
    if choice.chance(6) {
        let (other, nobody) = (vip(family, choice.below(3) as u32), martian(family, choice.below(4)));
        spec.source = choice.pick(&[other, nobody]);
    }
    spec.transport = transport(choice);
    spec.traffic_class = choice.pick(&[0, 0, 0x02, 0x03, 0xb8, 0xff]);
    spec.payload = match choice.below(10) {
        0..6 => choice.below(64),
        6..9 => choice.below(1500),
        _ => 1400 + choice.below(2000),
    };
    match family {
        Family::V4 => {
            spec.options = choice.pick(&[0, 0, 0, 0, 1, 5, 10]);
            spec.flags_offset =
                choice.pick(&[0x4000, 0x4000, 0x4000, 0x4000, 0, 0x8000, 0x2000, 0x0010, 0x2010]);
        }
        Family::V6 if choice.chance(30) => {
            let count = choice.pick(&[1, 1, 2, 3, 5, 6, 7, 8]);
            spec.extensions = (0..count).map(|_| extension(choice)).collect();
        }
        Family::V6 => {}
    }
    spec
}

/// A source that nobody can have.
fn martian(family: Family, which: usize) -> IpAddr {
    let texts = match family {
        Family::V4 => ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"],
        Family::V6 => ["::1", "::", "ff02::1", "ff0e::5"],
    };
    texts[which].parse().expect("an address")
}

/// A packet of one of a thousand long flows to services that remember flows: more than small tables hold.
fn regular(choice: &mut impl Choice, number: u32) -> PacketSpec {
    // Eight flows at a time, opened one after the other, then each for a while: long enough to be proven.
    let opening = number % 128 < 16;
    let flow = if opening { number as usize % 8 } else { choice.below(8) };
    let flow = (number / 128 * 8) as u16 % 1000 + flow as u16;
    let family = if flow.is_multiple_of(3) { Family::V6 } else { Family::V4 };
    let port = PORTS_FIRST + Scene::tracking(flow.into()) as u16;
    let ports = (41_000 + flow, port);
    let spec = PacketSpec::syn(client(family, u32::from(flow % 50)), vip(family, 0), ports);
    let later = choice.pick(&[0x02, 0x10, 0x10, 0x10, 0x18, 0x18, 0x18, 0x18, 0x18, 0x11]);
    let flags = if opening { 2 } else { later };
    match flow % 10 {
        0..7 => spec.carrying(Transport::Tcp { flags, options: 3 }),
        7..9 => spec.carrying(Transport::Udp),
        _ => spec.carrying(Transport::Sctp { chunk: choice.pick(&[1, 0, 0, 0, 3, 7]) }),
    }
}

/// A datagram to a service that goes by QUIC connection IDs: some name servers, some nearly do.
fn by_connection_id(choice: &mut impl Choice) -> Vec<u8> {
    let pool = 1 + choice.below(10) as u32;
    let family = choice.pick(&[Family::V4, Family::V6]);
    let ports = (43_000 + choice.below(4) as u16, PORTS_FIRST + Scene::quic(pool) as u16);
    let config = choice.pick(&[CID_CONFIG, OTHER_CID_CONFIG]);
    let (bytes, length) = Scene::server_id(pool, choice.below(9) as u32, config).bytes();
    let mut cid =
        vec![choice.pick(&[config.0, config.0, config.0, config.0, 7, 0]) << 5 | choice.below(32) as u8];
    cid.extend_from_slice(&bytes[..length]);
    cid.extend((0..4).map(|_| choice.word() as u8));
    cid.truncate(choice.pick(&[20, 20, 20, 20, 2, 0]));
    let header = choice.pick(&[QuicHeader::Short, QuicHeader::Short, QuicHeader::Long]);
    let mut spec = PacketSpec::syn(client(family, choice.below(24) as u32), vip(family, 0), ports);
    spec.options = if family == Family::V4 { choice.pick(&[0, 0, 0, 0, 1]) } else { 0 };
    spec.payload = 40 + choice.below(1000);
    quic(spec.carrying(Transport::Udp), header, &cid)
}

fn transport(choice: &mut impl Choice) -> Transport {
    const FLAGS: [u8; 10] = [0x02, 0x02, 0x10, 0x10, 0x18, 0x18, 0x11, 0x04, 0x12, 0x00];
    match choice.below(20) {
        0..10 => Transport::Tcp { flags: choice.pick(&FLAGS), options: choice.pick(&[0, 0, 3, 5, 10]) },
        10..15 => Transport::Udp,
        15..18 => Transport::Sctp { chunk: choice.pick(&[1, 0, 0, 3, 6, 7, 10, 11, 14, 130]) },
        18 => Transport::Icmp,
        _ => Transport::Other(choice.pick(&[0, 2, 47, 50, 59, 89, 255, 4, 41])),
    }
}

fn extension(choice: &mut impl Choice) -> Extension {
    let units = choice.pick(&[0, 0, 0, 1, 2, 30]);
    match choice.below(20) {
        0..6 => Extension::HopByHop(units),
        6..11 => Extension::Routing(units),
        11..17 => Extension::Destination(units),
        17..19 => Extension::Authentication(units + 1),
        _ => Extension::Fragment(choice.pick(&[0, 1, 0x10, 0x11])),
    }
}

/// A fragment of one of the packets that are under way, most often the next one in order.
fn fragment(choice: &mut impl Choice, number: u32) -> Vec<u8> {
    let mut spec = spec(choice);
    let id = number / 256 * 4 + choice.below(4) as u32;
    // What tells one packet from another must be the same in all its fragments.
    let family = if id.is_multiple_of(2) { Family::V4 } else { Family::V6 };
    (spec.source, spec.destination) = (client(family, id % 24), vip(family, 0));
    spec.ports = (40_000, PORTS_FIRST + Scene::tracking(id) as u16);
    spec.transport = choice.pick(&[Transport::Udp, Transport::Udp, Transport::Udp, spec.transport]);
    if !choice.chance(30) {
        spec.extensions.clear();
    }
    let size = choice.pick(&[8, 16, 64, 512]);
    spec.payload = size * 3;
    let fragments = spec.fragments(id, size);
    let first = choice.chance(40);
    let position = if first { 0 } else { choice.below(fragments.len()) };
    fragments[position].clone()
}

fn tagged(choice: &mut impl Choice) -> Vec<u8> {
    let mut frame = spec(choice).frame();
    for _ in 0..=choice.pick(&[0, 0, 1, 1, 2]) {
        let ethertype = choice.pick(&[0x81, 0x88]);
        let low = if ethertype == 0x81 { 0 } else { 0xa8 };
        frame.splice(12..12, [ethertype, low, 0, choice.word() as u8]);
    }
    frame
}

/// An echo request, an error about a flow's packet in the other direction, or something close to either.
fn icmp(choice: &mut impl Choice, number: u32) -> Vec<u8> {
    let mut about = if choice.chance(60) { regular(choice, number) } else { spec(choice) };
    // Carriers without fragments, mostly: those are weir's business elsewhere.
    let family = if about.destination.is_ipv4() { Family::V4 } else { Family::V6 };
    let router = client(family, choice.below(40) as u32);
    let mut like = PacketSpec::syn(router, about.destination, (0, 0));
    if choice.chance(10) {
        like.options = choice.pick(&[1, 10]);
        like.extensions = vec![extension(choice)];
    }
    if choice.chance(20) {
        let payload = choice.pick(&[0, 1, 8, 56, 57, 1000, 1472]);
        return IcmpSpec::echo(router, about.destination, payload).frame_like(&like);
    }
    if choice.chance(8) {
        // Of a packet that the VIP did not send.
        about.destination = client(family, 99);
    }
    let errors: [(u8, u8, u32); 8] = match family {
        Family::V4 => {
            [(3, 4, 1400), (3, 4, 576), (3, 3, 0), (3, 1, 0), (11, 0, 0), (12, 0, 0), (5, 1, 9), (13, 0, 0)]
        }
        Family::V6 => [
            (2, 0, 1280),
            (2, 0, 1400),
            (1, 4, 0),
            (1, 0, 0),
            (3, 0, 0),
            (4, 1, 40),
            (135, 0, 0),
            (129, 0, 0),
        ],
    };
    let cut = choice.below(80);
    let quoted = choice.pick(&[28, 28, 48, 48, 68, 576, 10_000, cut]);
    let mut error = IcmpSpec::about(router, &about.reversed(), choice.pick(&errors), quoted);
    error.destination = like.destination;
    error.frame_like(&like)
}

fn noise(choice: &mut impl Choice) -> Vec<u8> {
    let length = MIN_FRAME + choice.below(200);
    let mut frame: Vec<u8> = (0..length).map(|_| choice.word() as u8).collect();
    let ethertype = choice.pick(&[[0x08, 0x00], [0x86, 0xdd], [frame[12], frame[13]]]);
    frame.splice(12..14, ethertype);
    frame
}

fn mutate(frame: &mut Vec<u8>, choice: &mut impl Choice) {
    match choice.below(10) {
        0 => frame.truncate(choice.below(frame.len())),
        // Close to a header's end.
        1 => frame.truncate(14 + choice.below(80)),
        2 => frame.resize((frame.len() + choice.below(64)).min(MAX_FRAME), 0xaa),
        // IHL; version and traffic class.
        3 => set(frame, 14, choice.word() as u8),
        // Total length, or traffic class and payload length.
        4 => set(frame, 14 + choice.below(6), choice.word() as u8),
        // Protocol, or next header and hop limit.
        5 => {
            set(frame, choice.pick(&[23, 20]), choice.pick(&[0, 1, 6, 17, 43, 44, 51, 58, 59, 60, 132, 255]))
        }
        // TCP data offset, behind the shortest IP headers; UDP length.
        6 => set(frame, choice.pick(&[34, 54]) + choice.pick(&[4, 5, 12, 13]), choice.word() as u8),
        _ => {
            let at = choice.below(frame.len().min(120));
            set(frame, at, choice.word() as u8);
        }
    }
}

fn set(frame: &mut [u8], at: usize, value: u8) {
    if let Some(byte) = frame.get_mut(at) {
        *byte = value;
    }
}
