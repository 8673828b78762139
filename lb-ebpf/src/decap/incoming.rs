//! A frame that comes in, in the kernel.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{bpf_xdp_adjust_head, generated::bpf_xdp_get_buff_len};
use aya_ebpf::programs::XdpContext;
use lb_common::forward::Egress;
use lb_common::packet::{NoHeadroom, NoTxPort, Packet, TooShort};
use lb_common::wire::Header;

/// The frame of an XDP program's invocation; headers are in its first buffer.
pub(crate) struct XdpFrame {
    context: XdpContext,
}

impl XdpFrame {
    #[inline(always)]
    pub(crate) fn new(context: XdpContext) -> Self {
        Self { context }
    }

    /// The address of an `H` at `offset`; `None` where the first buffer ends before it does.
    #[inline(always)]
    fn at<H>(&self, offset: usize) -> Option<*mut H> {
        let start = self.context.data() + offset;
        if start + size_of::<H>() > self.context.data_end() { None } else { Some(start as *mut H) }
    }
}

impl Packet for XdpFrame {
    #[inline(always)]
    fn length(&self) -> usize {
        // SAFETY: the context is the one that the program was called with.
        unsafe { bpf_xdp_get_buff_len(self.context.as_ptr().cast()) as usize }
    }

    #[inline(always)]
    fn header<H: Header>(&self, offset: usize) -> Option<&H> {
        // SAFETY: `at` checked that the frame holds an `H` there; any bytes are one, without alignment. The frame does
        // not move while `self` is borrowed, and nothing writes it but through `header_mut`.
        self.at(offset).map(|header| unsafe { &*header })
    }

    #[inline(always)]
    fn header_mut<H: Header>(&mut self, offset: usize) -> Option<&mut H> {
        // SAFETY: as in `header`; `&mut self` excludes other references into the frame.
        self.at(offset).map(|header| unsafe { &mut *header })
    }

    #[inline(always)]
    fn grow_front(&mut self, _bytes: usize) -> Result<(), NoHeadroom> {
        Err(NoHeadroom)
    }

    #[inline(always)]
    fn shrink_front(&mut self, bytes: usize) -> Result<(), TooShort> {
        // SAFETY: the context is the one that the program was called with; `&mut self` ends every reference into the
        // frame, which the helper moves.
        let failed = unsafe { bpf_xdp_adjust_head(self.context.as_ptr().cast(), bytes as i32) };
        if failed == 0 { Ok(()) } else { Err(TooShort) }
    }

    #[inline(always)]
    fn truncate(&mut self, _length: usize) -> Result<(), TooShort> {
        Err(TooShort)
    }

    #[inline(always)]
    fn leave_by(&mut self, _port: u32) -> Result<Egress, NoTxPort> {
        Err(NoTxPort)
    }
}
