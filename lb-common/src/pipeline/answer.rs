//! Packets that are answered instead of forwarded: by a TCP reset, by port or protocol unreachable, or by the size that
//! fits.
//!
//! Receives what other stages left untouched for a reason whose verdict is to answer; the CPU's note says which, and
//! for what is too big what would have fitted. The answer comes from the VIP, goes back the way the packet came, and is
//! counted for that reason. What must not be answered (RFC 1122 section 3.2.2, RFC 4443 section 2.4) and what exceeds
//! the allowance drops.

use core::hint::black_box;

use super::Outcome;
use super::ip::{Ip, Network, Payload, Sent, pseudo_sum};
use super::link::Back;
use super::parse::Walk;
use crate::forward::Egress;
use crate::layout::{Note, Scratch};
use crate::packet::Packet;
use crate::reason::Reason;
use crate::tables::Tables;
use crate::trace::Mark;
use crate::wire::{Icmp, Ports, Protocol, TcpFlags, TcpStart, checksum};

/// Nanoseconds in which one more answer of a kind is allowed on a CPU: 10,000 a second.
const INTERVAL_NS: u64 = 100_000;
/// Answers of a kind that are allowed at once.
const BURST: u64 = 250;
/// Most 32-bit words of a quote.
const MAX_QUOTE_WORDS: usize = 1280 / 4;

/// What an answer is.
enum Answer {
    /// A reset of the segment whose header is at this offset in the frame.
    Reset(usize),
    /// An ICMP error: type, code, and the word that goes with them.
    Error(u8, u8, u32),
}

/// Answers the IP packet that starts at `at`.
#[inline(always)]
pub(super) fn answer<const W: usize, I: Ip<W>, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    at: usize,
    bytes: u64,
) -> Result<Outcome, Reason> {
    let scratch = tables.scratch().ok_or(Reason::Inconsistent)?;
    let note = Note(scratch.note.get());
    let reason = note.reason().ok_or(Reason::Inconsistent)?;
    let network = I::read(packet, at).ok_or(Reason::Truncated)?;
    if !network.sound || at + network.length as usize > packet.length() {
        return Err(Reason::Malformed);
    }
    if I::is_later_fragment(packet, at) || !I::is_host(network.source) {
        return Err(Reason::Unanswerable);
    }
    let back = Back::of(packet, at)?;
    let (answer, kind) = match reason {
        Reason::TooBig => {
            let error = I::too_big(note.fits() as u32, network.length).ok_or(reason)?;
            (Answer::Error(error.0, error.1, error.2), 0)
        }
        Reason::UnmatchedReject => (refusal::<W, I, P>(packet, &network, at)?, 1),
        _ => (refusal::<W, I, P>(packet, &network, at)?, 2),
    };
    if !allowed::<T>(scratch, kind, tables.now_ns()) {
        return Err(Reason::AnswerLimited);
    }
    match answer {
        Answer::Reset(offset) => reset::<W, I, P>(packet, &network, at, offset)?,
        Answer::Error(kind, code, word) => error::<W, I, P>(packet, &network, at, (kind, code, word))?,
    }
    back.write(packet, I::ETHERTYPE)?;
    if T::WRITES {
        tables.count(reason, bytes);
    }
    tables.trace(Mark::Left, reason as u32, 0);
    Ok(Outcome { reason, egress: Egress::BACK })
}

/// Takes one answer of a kind out of the CPU's allowance, if there is one.
///
/// One word a kind: the time at which the allowance is whole again, which each answer puts off by an interval.
#[inline(always)]
fn allowed<T: Tables>(scratch: &Scratch, kind: usize, now_ns: u64) -> bool {
    let whole = &scratch.answers[kind & 3];
    let due = whole.get().max(now_ns);
    if due - now_ns >= BURST * INTERVAL_NS {
        return false;
    }
    if T::WRITES {
        whole.set(due + INTERVAL_NS);
    }
    true
}

/// How a packet that nobody takes is refused.
#[inline(always)]
fn refusal<const W: usize, I: Ip<W>, P: Packet>(
    packet: &P,
    network: &Network<I::Address>,
    at: usize,
) -> Result<Answer, Reason> {
    let unreachable = |pointer: usize| {
        let (kind, code, word) = I::protocol_unreachable((pointer - at) as u32);
        Answer::Error(kind, code, word)
    };
    match I::payload(packet, network, at, Walk::All)? {
        Payload::Transport(Protocol::Tcp, offset) => {
            let tcp: &TcpStart = packet.header(offset).ok_or(Reason::Malformed)?;
            if offset + size_of::<TcpStart>() > at + network.length as usize {
                return Err(Reason::Malformed);
            }
            // A reset is never answered (RFC 9293 section 3.10.7.1).
            if tcp.flags & TcpFlags::RST != 0 { Err(Reason::Unanswerable) } else { Ok(Answer::Reset(offset)) }
        }
        Payload::Transport(..) => Ok(Answer::Error(I::PORT_UNREACHABLE.0, I::PORT_UNREACHABLE.1, 0)),
        Payload::Other(pointer) => Ok(unreachable(pointer)),
        Payload::Icmp(_) | Payload::Nothing | Payload::Extensions => Err(Reason::Unanswerable),
    }
}

/// Makes the frame a reset of its segment, such that the sender accepts it (RFC 9293 section 3.10.7.1).
#[inline(always)]
fn reset<const W: usize, I: Ip<W>, P: Packet>(
    packet: &mut P,
    network: &Network<I::Address>,
    at: usize,
    offset: usize,
) -> Result<(), Reason> {
    const LENGTH: usize = size_of::<TcpStart>();
    let tcp: &TcpStart = packet.header(offset).ok_or(Reason::Malformed)?;
    let header = ((tcp.data_offset >> 4) as usize) << 2;
    let end = at + network.length as usize;
    if offset + header > end {
        return Err(Reason::Malformed);
    }
    let (source, destination) = tcp.ports.both();
    let (sequence, acknowledgement, flags) = if tcp.flags & TcpFlags::ACK != 0 {
        (u32::from_be_bytes(tcp.acknowledgement), 0, TcpFlags::RST)
    } else {
        // SYN and FIN each take a sequence number.
        let controls = (tcp.flags & TcpFlags::FIN) as u32 + ((tcp.flags & TcpFlags::SYN) >> 1) as u32;
        let length = (end - offset - header) as u32 + controls;
        (0, u32::from_be_bytes(tcp.sequence).wrapping_add(length), TcpFlags::RST | TcpFlags::ACK)
    };
    let sent = Sent {
        source: network.destination,
        destination: network.source,
        protocol: 6,
        payload: LENGTH as u32,
    };
    const DATA_OFFSET: u8 = ((LENGTH / 4) << 4) as u8;
    let sum = pseudo_sum::<W, I>(&sent)
        + source as u64
        + destination as u64
        + checksum::words(sequence)
        + checksum::words(acknowledgement)
        + u16::from_be_bytes([DATA_OFFSET, flags]) as u64;
    let [high, low] = (!checksum::fold(sum)).to_be_bytes();
    packet.truncate(at + I::HEADER + LENGTH).map_err(|_| Reason::Malformed)?;
    I::write(packet, at, &sent)?;
    *packet.header_mut(at + I::HEADER).ok_or(Reason::Inconsistent)? = TcpStart {
        ports: Ports { source: destination.to_be_bytes(), destination: source.to_be_bytes() },
        sequence: sequence.to_be_bytes(),
        acknowledgement: acknowledgement.to_be_bytes(),
        data_offset: DATA_OFFSET,
        flags,
        rest: [0, 0, high, low, 0, 0],
    };
    Ok(())
}

/// Puts an IP header and an ICMP error of this type, code and further word before the packet, and cuts its end off where
/// the error would be longer than errors may be.
#[inline(always)]
fn error<const W: usize, I: Ip<W>, P: Packet>(
    packet: &mut P,
    network: &Network<I::Address>,
    at: usize,
    (kind, code, word): (u8, u8, u32),
) -> Result<(), Reason> {
    let quote = network.length.min(I::QUOTE) as usize;
    let sent = Sent {
        source: network.destination,
        destination: network.source,
        protocol: I::ICMP,
        payload: (size_of::<Icmp>() + quote) as u32,
    };
    let sum = I::icmp_sum(&sent)
        + u16::from_be_bytes([kind, code]) as u64
        + checksum::words(word)
        + sum_of::<MAX_QUOTE_WORDS, P>(packet, at, quote)?;
    packet.truncate(at + quote).map_err(|_| Reason::Malformed)?;
    packet.grow_front(I::HEADER + size_of::<Icmp>()).map_err(|_| Reason::NoHeadroom)?;
    I::write(packet, at, &sent)?;
    *packet.header_mut(at + I::HEADER).ok_or(Reason::Inconsistent)? =
        Icmp { kind, code, checksum: (!checksum::fold(sum)).to_be_bytes(), rest: word.to_be_bytes() };
    Ok(())
}

/// Sum of the 16-bit words of `length` bytes from `at` on, of which there are at most `WORDS` 32-bit words.
#[inline(always)]
pub(super) fn sum_of<const WORDS: usize, P: Packet>(
    packet: &P,
    at: usize,
    length: usize,
) -> Result<u64, Reason> {
    let mut sum = 0;
    // In the host's byte order: a sum of swapped words is the swapped sum (RFC 1071 section 2).
    for number in 0..(length / 4).min(WORDS) {
        // Opaque: of offsets that it knows the compiler makes a bound of the loop, by arithmetic on packet pointers that
        // the verifier refuses ("tried to subtract pointer from scalar").
        let offset = black_box(at + number * 4);
        let word: &[u8; 4] = packet.header(offset).ok_or(Reason::Malformed)?;
        sum += u32::from_ne_bytes(*word) as u64;
    }
    let mut sum = u16::from_be_bytes(checksum::fold(sum).to_ne_bytes()) as u64;
    let rest = at + (length & !3);
    for number in 0..length & 3 {
        let byte: &u8 = packet.header(black_box(rest + number)).ok_or(Reason::Malformed)?;
        sum += (*byte as u64) << (8 * (1 - (number & 1)));
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Frame, Memory};

    #[test]
    fn a_sum_covers_every_byte_of_every_length() {
        let mut bytes: Vec<u8> = (0..64_u32).map(|number| (number * 151 + 7) as u8).collect();
        let expected = |length: usize| {
            let words = bytes[..length].chunks(2);
            words.map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0))).sum::<u64>()
        };
        let expected: Vec<u16> = (0..=64).map(|length| checksum::fold(expected(length))).collect();
        let frame = Frame::new(&mut bytes, 0);
        for (length, expected) in expected.into_iter().enumerate() {
            assert_eq!(
                sum_of::<MAX_QUOTE_WORDS, _>(&frame, 0, length).map(checksum::fold),
                Ok(expected),
                "{length}"
            );
        }
    }

    #[test]
    fn an_allowance_is_used_up_and_comes_back_with_time() {
        let scratch = Scratch::default();
        let now = 5_000_000_000;
        let answers = |now| (0..2 * BURST).filter(|_| allowed::<Memory<'_>>(&scratch, 1, now)).count() as u64;
        assert_eq!(answers(now), BURST);
        assert_eq!(answers(now), 0);
        assert_eq!(answers(now + 10 * INTERVAL_NS), 10);
        assert_eq!(answers(now + 3600 * 1_000_000_000), BURST);
        assert!(allowed::<Memory<'_>>(&scratch, 0, now), "other kinds have allowances of their own");
    }
}
