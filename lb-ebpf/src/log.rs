//! Debug messages, one for each packet that is for a VIP. Only in objects built with the feature `log`.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use lb_common::pipeline::Outcome;
use lb_common::reason::Reason;

/// What messages of one packet say.
pub(crate) struct Log {
    context: XdpContext,
    ingress: u32,
    bytes: u64,
}

impl Log {
    /// Takes down what forwarding changes.
    #[inline(always)]
    pub(crate) fn of(context: &XdpContext) -> Self {
        let bytes = (context.data_end() - context.data()) as u64;
        let ingress = context.ingress_ifindex() as u32;
        Self { context: XdpContext::new(context.as_ptr().cast()), ingress, bytes }
    }

    /// Tells how the packet left.
    #[inline(always)]
    pub(crate) fn tell(&self, outcome: &Outcome) {
        if matches!(outcome.reason, Reason::NotVip | Reason::NotIp) {
            return;
        }
        let egress = outcome.egress.map_or(0, |egress| egress.port);
        let reason = outcome.reason.name();
        debug!(
            &self.context,
            "{} bytes from interface {} to {}: {}", self.bytes, self.ingress, egress, reason
        );
    }
}
