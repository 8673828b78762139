//! From a packet's destination to the service that claims it.

use crate::hash;
use crate::layout::{IndexLine, Span, Unmatched, Vip, VipPorts};
use crate::reason::Reason;
use crate::tables::Tables;
use crate::wire::Protocol;

/// Most lines of port ranges that one VIP may have.
pub const MAX_RANGE_LINES: u32 = 4;

/// The VIP id of an IPv4 address, given as a big-endian number.
#[inline(always)]
pub fn vip_v4<T: Tables>(tables: &T, address: u32) -> Option<u32> {
    let line = hash::index(address) & tables.vip_v4_mask();
    find(address, line, |line| tables.vip_line_v4(line))
}

/// The VIP id of an IPv6 address, given as two big-endian numbers.
#[inline(always)]
pub fn vip_v6<T: Tables>(tables: &T, (high, low): (u64, u64)) -> Option<u32> {
    let number = hash::index_v6(high, low) & tables.vip_v6_mask();
    let line = tables.vip_line_v6(number)?;
    match line.find(high, low) {
        None if line.overflow.get() != 0 => tables.vip_line_v6(number ^ 1)?.find(high, low),
        found => found,
    }
}

/// The port index's key.
#[inline(always)]
#[must_use]
pub const fn port_key(vip: u32, protocol: Protocol, port: u16) -> u32 {
    (vip << 2 | protocol as u32) << 16 | port as u32
}

/// The service id for a destination port of a VIP: the exact port's, else a range's, else the any-port one.
///
/// # Errors
/// The VIP's policy for packets that no service claims.
#[inline(always)]
pub fn service<T: Tables>(tables: &T, vip: u32, protocol: Protocol, port: u16) -> Result<u32, Reason> {
    claimed(tables, vip, protocol, port, |vip| unmatched(Unmatched::from_word(vip.unmatched.get())))
}

/// The same where the VIP's lists were not asked: where no service claims the packet and there are lists, those come first.
///
/// # Errors
/// [`Reason::Denied`] where lists are to be asked, else the VIP's policy for packets that no service claims.
#[inline(always)]
pub fn service_before_lists<T: Tables>(
    tables: &T,
    vip: u32,
    protocol: Protocol,
    port: u16,
) -> Result<u32, Reason> {
    claimed(tables, vip, protocol, port, |vip| match vip.lists.get() {
        0 => unmatched(Unmatched::from_word(vip.unmatched.get())),
        _ => Reason::Denied,
    })
}

#[inline(always)]
fn claimed<T: Tables>(
    tables: &T,
    vip: u32,
    protocol: Protocol,
    port: u16,
    otherwise: impl Fn(&Vip) -> Reason,
) -> Result<u32, Reason> {
    let key = port_key(vip, protocol, port);
    let line = hash::index(key) & tables.port_mask();
    if let Some(service) = find(key, line, |line| tables.port_line(line)) {
        return Ok(service);
    }
    let vip = tables.vip(vip).ok_or(Reason::Inconsistent)?;
    let ranges = Span(vip.ranges.get());
    for number in 0..MAX_RANGE_LINES {
        if number >= ranges.len() {
            break;
        }
        let line = tables.range_line(ranges.line() + number).ok_or(Reason::Inconsistent)?;
        for range in &line.ranges {
            let service = crate::layout::RangeWord(range.get()).service(protocol, port);
            if service != 0 {
                return Ok(service);
            }
        }
    }
    match VipPorts(vip.any.get()).service(protocol) {
        0 => {
            // A port of a flow's own, or none: only the stage for replies can tell.
            if vip.unmatched.get() & Unmatched::SNAT != 0 {
                return Err(Reason::NatReply);
            }
            Err(otherwise(vip))
        }
        service => Ok(service),
    }
}

/// The policy of a VIP for what no service claims, be it of a protocol that weir does not balance.
#[inline(always)]
pub fn unmatched_protocol<T: Tables>(tables: &T, vip: u32) -> Reason {
    match tables.vip(vip) {
        Some(vip) => unmatched(Unmatched::from_word(vip.unmatched.get())),
        None => Reason::Inconsistent,
    }
}

#[inline(always)]
const fn unmatched(policy: Unmatched) -> Reason {
    match policy {
        Unmatched::Pass => Reason::UnmatchedPass,
        Unmatched::Drop => Reason::UnmatchedDrop,
        Unmatched::Reject => Reason::UnmatchedReject,
    }
}

#[inline(always)]
pub(crate) fn find<'a>(key: u32, number: u32, line_at: impl Fn(u32) -> Option<&'a IndexLine>) -> Option<u32> {
    let line = line_at(number)?;
    match line.find(key) {
        None if line.overflow.get() != 0 => line_at(number ^ 1)?.find(key),
        found => found,
    }
}
