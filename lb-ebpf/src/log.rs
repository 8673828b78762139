//! Debug messages, one for each packet that is for a VIP. Only in objects built with the feature `log`.

use aya_log_ebpf::debug;
use lb_common::forward::Egress;
use lb_common::packet::Packet as _;
use lb_common::pipeline::Outcome;
use lb_common::reason::Reason;

use crate::maps::Build;
use crate::packet::XdpPacket;

/// Tells how a packet of so many bytes left.
#[inline(always)]
pub(crate) fn tell<B: Build>(packet: &XdpPacket<B>, bytes: u64, outcome: &Outcome) {
    if matches!(outcome.reason, Reason::NotVip | Reason::NotIp) {
        return;
    }
    let ingress = packet.ingress();
    let egress = match outcome.egress {
        Egress::BACK => ingress,
        Egress::NONE => 0,
        Egress(port) => port,
    };
    let reason = outcome.reason.name();
    debug!(packet.context(), "{} bytes from interface {} to {}: {}", bytes, ingress, egress, reason);
}
