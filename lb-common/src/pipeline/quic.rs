//! QUIC: where a datagram goes by its connection ID, as the server that issued it wants
//! (draft-ietf-quic-load-balancers-21, without encryption).
//!
//! The three upper bits of a connection ID's first octet tell a configuration, that tells the length of the server id,
//! which follows. What tells no server that may serve the datagram (another configuration, the reserved one, an unknown
//! server, a client's own choice at the beginning of a connection) goes by its addresses and ports, as all other
//! datagrams do.
//!
//! Runs in a stage of its own: another stage leaves in the CPU's scratch where the datagram is; this one leaves there
//! which backend it is for.

use crate::hash;
use crate::layout::{BackendState, Chosen, CidConfigs, Datagram, ForwardWord, MAX_ADMIT, ServerId};
use crate::packet::Packet;
use crate::reason::Reason;
use crate::select;
use crate::service;
use crate::tables::Tables;
use crate::trace::Mark;

/// Bit of a QUIC packet's first byte: its header is a long one (RFC 8999 section 5.1).
const LONG: u8 = 0x80;
/// Largest offset of a datagram that is looked at.
const MOST_OFFSET: usize = 0x7ff;

/// Asks which backend a datagram of a service is for.
#[inline(always)]
pub(super) fn ask<T: Tables>(tables: &T, service: u32, transport: usize, hash: u64) -> Reason {
    if let Some(scratch) = tables.scratch() {
        scratch.datagram.set(Datagram::new(service, transport + 8, hash).0);
    }
    Reason::QuicUnread
}

/// The id of the backend that the datagram's connection ID names; 0 for none.
///
/// # Errors
/// [`Reason::QuicUnread`]: asked, the stage is to read it.
#[inline(always)]
pub(super) fn named<T: Tables>(tables: &T, service: u32, transport: usize, hash: u64) -> Result<u32, Reason> {
    let Some(scratch) = tables.scratch() else { return Ok(0) };
    let Some(backend) = Chosen(scratch.named.get()).of(service, hash) else {
        return Err(ask(tables, service, transport, hash));
    };
    scratch.named.set(0);
    Ok(backend)
}

/// Reads the connection ID of the datagram that was asked about.
#[inline(always)]
pub(super) fn read<P: Packet, T: Tables>(packet: &P, tables: &T) -> Result<(), Reason> {
    let scratch = tables.scratch().ok_or(Reason::Inconsistent)?;
    let datagram = Datagram(scratch.datagram.get());
    let service = tables.service(datagram.service()).ok_or(Reason::Inconsistent)?;
    let (forward, configs) = (ForwardWord(service.forward.get()), CidConfigs(service.quic.get()));
    let backend = server(packet, tables, datagram.offset() & MOST_OFFSET, forward, configs).unwrap_or(0);
    scratch.named.set(Chosen::new(backend, datagram.service(), datagram.0).0);
    Ok(())
}

/// The backend that the connection ID of the QUIC packet at `at` names, if it takes the packet.
#[inline(always)]
fn server<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    at: usize,
    forward: ForwardWord,
    configs: CidConfigs,
) -> Option<u32> {
    // A long header has the version and the connection ID's length before the connection ID.
    let first: &[u8; 6] = packet.header(at)?;
    let [form, .., said] = *first;
    let long = form & LONG != 0;
    let start = if long { at + 6 } else { at + 1 };
    // A short header does not say how long it is. Sixteen bytes follow its beginning in every packet that is sealed.
    let halves: &[[u8; 8]; 2] = packet.header(start)?;
    let [high, low] = halves.map(u64::from_be_bytes);
    let octet = (high >> 56) as u8;
    let length = configs.length(octet);
    let told = length != 0 && (!long || said as u32 > length);
    let id = ServerId::first_of(high << 8 | low >> 56, low << 8, length);
    let told_length = if told { length } else { 0 };
    tables.trace(Mark::ConnectionId, octet as u32 | told_length << 8 | (long as u32) << 16, id.high);
    if !told {
        return None;
    }
    let key = id.key(forward.pool());
    let line = hash::index(key) & tables.servers_mask();
    let found = service::find(key, line, |line| tables.server_line(line)).unwrap_or(0);
    let selected = select::look(tables, found)?;
    let known = tables.server_ids(found)?.has(forward.pool(), id);
    tables.trace(Mark::Server, if known { found } else { 0 }, selected.hot.0);
    let serves = if long {
        // It may open a connection under an ID of the client's choice, which is no reason to go past a drain.
        matches!(selected.hot.state(), BackendState::Active) && selected.hot.admit() == MAX_ADMIT
    } else {
        select::serves_known(selected.hot, forward.on_down())
    };
    if known && serves { Some(found) } else { None }
}
