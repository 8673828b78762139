//! Sources that nobody can have sent from, refused before a flow is made of them.
//!
//! Asked for packets that find no flow, and for all of services that remember none: what a known flow's packets have for a
//! source was asked when it began.

use super::ip::Ip;
use super::parse::Parsed;
use crate::reason::Reason;

/// Refuses a source that is loopback, unspecified or a group (RFC 1812 section 5.3.7, RFC 4291 section 2.5), or the
/// packet's own destination and port ("LAND"). The own VIP with another port is let in: a host that has it is its own
/// client where routes send that out.
#[inline(always)]
pub(super) fn check<const W: usize, I: Ip<W>>(packet: &Parsed<I::Address>) -> Result<(), Reason> {
    let own = packet.source == packet.destination && packet.ports.0 == packet.ports.1;
    if own || I::is_martian(packet.source) { Err(Reason::Martian) } else { Ok(()) }
}

/// The same for the stage that most packets go through, in fewer instructions: what may be refused it leaves to another.
#[inline(always)]
pub(super) fn suspect<const W: usize, I: Ip<W>>(packet: &Parsed<I::Address>) -> Result<(), Reason> {
    let suspect = packet.ports.0 == packet.ports.1 || I::may_be_martian(packet.source);
    if suspect { Err(Reason::Martian) } else { Ok(()) }
}
