//! The way of a packet: parse → service → flow or select → forward → verdict.
//!
//! The logic runs in stages. [`Stage::Fast`] takes what nearly every packet is; what it cannot take leaves it untouched,
//! with a reason that names the stage for it ([`Stage::after`]). In the kernel each stage is a program of its own,
//! entered by a tail call: rare packets cost the common ones neither time nor verified instructions. On the host
//! [`process`] runs one stage after the other, each a function: one of all of them takes minutes to compile.

mod answer;
mod buckets;
mod choose;
mod filter;
mod fragment;
mod icmp;
mod ip;
mod limits;
mod link;
mod martian;
mod nat;
mod parse;
mod quic;
mod stage;
mod steer;

use crate::forward::{self, Egress};
use crate::layout::Note;
use crate::packet::Packet;
use crate::reason::Reason;
use crate::tables::Tables;
use crate::trace::Mark;
use crate::wire::{ETHERNET_LEN, EtherType, Ethernet, VLAN_TAG_LEN};
use filter::Look;
use ip::{Ip, V4, V6};
pub(crate) use link::untag;
use parse::Walk;
pub use stage::{STAGE_PLACES, Stage, Variant};
use steer::{Choice, Steered};

/// How far the first stage looks.
const FAST: (Walk, Look, Choice) = (Walk::None, Look::Front, Choice::Asked);

/// How a packet left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Why; gives the verdict.
    pub reason: Reason,
    /// Where a forwarded frame leaves.
    pub egress: Egress,
}

/// What a stage did with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The packet left.
    Left(Outcome),
    /// The packet is as it was; another stage takes it. Where that stage is missing it leaves for this reason.
    Next(Stage, Reason),
}

/// Runs one frame through the stages: rewrites it where it is forwarded, counts it, says how it left.
#[inline(always)]
pub fn process<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Outcome {
    let mut stage = Stage::Fast;
    loop {
        match enter(stage, packet, tables) {
            Step::Left(outcome) => return outcome,
            Step::Next(next, _) => stage = next,
        }
    }
}

/// Runs one stage.
#[inline(always)]
pub fn enter<P: Packet, T: Tables>(stage: Stage, packet: &mut P, tables: &T) -> Step {
    let bytes = packet.length() as u64;
    tables.trace(Mark::Stage, stage as u32, 0);
    let result = match stage {
        Stage::Fast => fast(packet, tables, bytes),
        Stage::Rare => whole(packet, tables, Look::Front, bytes),
        Stage::Icmp => icmp(packet, tables, bytes),
        Stage::Answer => answer(packet, tables, bytes),
        Stage::Fragment => fragments(packet, tables, bytes),
        Stage::Quic => match quic::read(packet, tables) {
            Ok(()) => return Step::Next(Stage::Rare, Reason::QuicUnread),
            Err(reason) => Err(reason),
        },
        Stage::Choose => match choose::choose(tables) {
            Ok(()) => return Step::Next(Stage::Rare, Reason::Unchosen),
            Err(reason) => Err(reason),
        },
        Stage::Limit => match limits::judge(tables) {
            Ok(()) => return Step::Next(Stage::Rare, Reason::SourceLimited),
            Err(reason) => Err(reason),
        },
        Stage::Filter => whole(packet, tables, Look::Whole, bytes),
        Stage::Nat => translate(packet, tables, bytes),
        Stage::NatReply => translate_reply(packet, tables, bytes),
        Stage::NatError => translate_error(packet, tables, bytes),
        Stage::NatSend => send_translated(packet, tables, bytes),
    };
    match result {
        Ok(outcome) => Step::Left(outcome),
        Err(reason) => match stage.after(reason) {
            Some(next) => {
                if let (Stage::Answer, Some(scratch)) = (next, tables.scratch()) {
                    scratch.note.set(Note(scratch.note.get()).because(reason).0);
                }
                Step::Next(next, reason)
            }
            None => Step::Left(leave(tables, reason, bytes)),
        },
    }
}

/// Counts a packet of this length that is not forwarded.
#[inline(always)]
pub fn leave<T: Tables>(tables: &T, reason: Reason, bytes: u64) -> Outcome {
    if T::WRITES {
        tables.count(reason, bytes);
    }
    tables.trace(Mark::Left, reason as u32, 0);
    Outcome { reason, egress: Egress::NONE }
}

/// Untagged frames whose transport header follows the fixed IP header: every offset is a constant.
#[cfg_attr(target_arch = "bpf", inline(always))]
#[cfg_attr(not(target_arch = "bpf"), inline(never))]
fn fast<P: Packet, T: Tables>(packet: &mut P, tables: &T, bytes: u64) -> Result<Outcome, Reason> {
    let ethernet: &Ethernet = packet.header(0).ok_or(Reason::Truncated)?;
    match ethernet.ethertype() {
        EtherType::Ipv4 => balance::<1, V4, P, T>(packet, tables, ETHERNET_LEN, FAST, bytes),
        EtherType::Ipv6 => balance::<3, V6, P, T>(packet, tables, ETHERNET_LEN, FAST, bytes),
        EtherType::Vlan => Err(Reason::Vlan),
        EtherType::Other => Err(Reason::NotIp),
    }
}

/// What a frame carries behind its tags, and where that starts.
#[inline(always)]
fn tagged<P: Packet, T: Tables>(packet: &P, _tables: &T) -> Result<(EtherType, usize), Reason> {
    link::untag(packet)
}

/// The same, of which the verifier knows no more than bounds; see [`crate::layout::Scratch::launder`]. Not where the
/// Ethernet header is read afterwards: the compiler leaves out a check that follows from what the verifier forgot.
#[inline(always)]
fn untagged<P: Packet, T: Tables>(packet: &P, tables: &T) -> Result<(EtherType, usize), Reason> {
    let (ethertype, at) = link::untag(packet)?;
    let scratch = tables.scratch().ok_or(Reason::Inconsistent)?;
    let tags = scratch.launder((at - ETHERNET_LEN) as u64 / VLAN_TAG_LEN as u64) & 3;
    Ok((ethertype, ETHERNET_LEN + tags as usize * VLAN_TAG_LEN))
}

/// Frames with tags, IP options and extension headers, and without.
#[cfg_attr(target_arch = "bpf", inline(always))]
#[cfg_attr(not(target_arch = "bpf"), inline(never))]
fn whole<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    look: Look,
    bytes: u64,
) -> Result<Outcome, Reason> {
    let (ethertype, at) = untagged(packet, tables)?;
    match ethertype {
        EtherType::Ipv4 => balance::<1, V4, P, T>(packet, tables, at, (Walk::All, look, Choice::Made), bytes),
        EtherType::Ipv6 => balance::<3, V6, P, T>(packet, tables, at, (Walk::All, look, Choice::Made), bytes),
        EtherType::Vlan => Err(Reason::Vlan),
        EtherType::Other => Err(Reason::NotIp),
    }
}

/// Functions of stages that go by the family of the IP packet behind the tags.
macro_rules! by_family {
    ($($(#[$doc:meta])* $name:ident: $start:ident, $($way:ident)::+;)*) => {$(
        $(#[$doc])*
        #[cfg_attr(target_arch = "bpf", inline(always))]
        #[cfg_attr(not(target_arch = "bpf"), inline(never))]
        fn $name<P: Packet, T: Tables>(packet: &mut P, tables: &T, bytes: u64) -> Result<Outcome, Reason> {
            match $start(packet, tables)? {
                (EtherType::Ipv4, at) => $($way)::+::<1, V4, P, T>(packet, tables, at, bytes),
                (EtherType::Ipv6, at) => $($way)::+::<3, V6, P, T>(packet, tables, at, bytes),
                _ => Err(Reason::Inconsistent),
            }
        }
    )*};
}

by_family! {
    /// ICMP and ICMPv6 to VIPs.
    icmp: untagged, icmp::icmp;
    /// Packets that are answered.
    answer: tagged, answer::answer;
    /// Packets of clients to services in mode `nat`.
    translate: tagged, nat::find;
    /// The same, once they have backend and port.
    send_translated: tagged, nat::send;
    /// Packets to `snat` addresses.
    translate_reply: tagged, nat::reply;
    /// ICMP and ICMPv6 errors about packets that were translated.
    translate_error: untagged, nat::error;
}

/// Fragments, tagged or not.
#[cfg_attr(target_arch = "bpf", inline(always))]
#[cfg_attr(not(target_arch = "bpf"), inline(never))]
fn fragments<P: Packet, T: Tables>(packet: &mut P, tables: &T, bytes: u64) -> Result<Outcome, Reason> {
    let (ethertype, at) = untagged(packet, tables)?;
    let result = match ethertype {
        EtherType::Ipv4 => fragment::balance::<1, V4, P, T>(packet, tables, at, bytes),
        EtherType::Ipv6 => fragment::balance::<3, V6, P, T>(packet, tables, at, bytes),
        EtherType::Vlan => Err(Reason::Vlan),
        EtherType::Other => Err(Reason::NotIp),
    };
    match result {
        Err(reason @ (Reason::Translate | Reason::NatReply | Reason::FragmentUnknown)) => {
            Err(match ethertype {
                EtherType::Ipv4 => fragment::untranslated::<1, V4, P, T>(packet, tables, at, reason),
                _ => fragment::untranslated::<3, V6, P, T>(packet, tables, at, reason),
            })
        }
        result => result,
    }
}

/// Balances the IP packet that starts `at` bytes into the frame.
#[inline(always)]
fn balance<const W: usize, I: Ip<W>, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    at: usize,
    (walk, look, choice): (Walk, Look, Choice),
    bytes: u64,
) -> Result<Outcome, Reason> {
    let mut parsed = parse::parse::<W, I, P, T>(packet, tables, at, (walk, look))?;
    if walk == Walk::All {
        parsed = parsed.laundered(tables.scratch().ok_or(Reason::Inconsistent)?)?;
    }
    let steered = steer::steer::<W, I, T>(tables, &parsed, (look, choice))?;
    send(packet, tables, at, &steered, bytes)
}

/// Sends the IP packet that starts `at` bytes into the frame to its backend.
#[inline(always)]
fn send<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    at: usize,
    steered: &Steered<'_>,
    bytes: u64,
) -> Result<Outcome, Reason> {
    let route = match forward::route(tables, steered.backend, steered.forward, steered.inner) {
        Err(Reason::Local) => {
            if T::WRITES {
                tables.count_forwarded(steered.service, steered.id, bytes);
            }
            return Err(Reason::Local);
        }
        route => route?,
    };
    // From here on the frame changes: what fails is dropped.
    link::strip(packet, at)?;
    route.rewrite(packet)?;
    let port = route.port();
    // After the frame is rewritten: asked before, it would have the verifier follow the rewriting three times.
    let egress = packet.leave_by(port).map_err(|_| Reason::NoTxPort)?;
    if T::WRITES {
        tables.count(steered.reason, bytes);
        tables.count_forwarded(steered.service, steered.id, bytes);
    }
    tables.trace(Mark::Left, steered.reason as u32, port as u64);
    Ok(Outcome { reason: steered.reason, egress })
}
