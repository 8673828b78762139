//! A frame in the kernel.

use core::marker::PhantomData;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use aya_ebpf::programs::XdpContext;
use lb_common::forward::Egress;
use lb_common::packet::{NoHeadroom, NoTxPort, Packet, TooShort};
use lb_common::pipeline::{Stage, Variant};
use lb_common::wire::Header;

use crate::maps::{Build, NEXT_PROGRAM, STAGES, TX_PORTS};

/// The frame of an XDP program's invocation.
pub(crate) struct XdpPacket<B> {
    context: XdpContext,
    build: PhantomData<B>,
}

impl<B: Build> XdpPacket<B> {
    #[inline(always)]
    pub(crate) fn new(context: XdpContext) -> Self {
        Self { context, build: PhantomData }
    }

    /// What the program was called with.
    #[inline(always)]
    pub(crate) fn context(&self) -> &XdpContext {
        &self.context
    }

    /// The address of an `H` at `offset`; `None` where the frame ends before it does.
    #[inline(always)]
    fn at<H>(&self, offset: usize) -> Option<*mut H> {
        let start = self.context.data() + offset;
        // SAFETY: the kernel gives no frame at address 0, and offsets are of a frame: the sum does not wrap. Unsaid, it would be asked for each header.
        unsafe { core::hint::assert_unchecked(start != 0) };
        if start + size_of::<H>() > self.context.data_end() { None } else { Some(start as *mut H) }
    }
}

impl<B: Build> XdpPacket<B> {
    /// Moves the front of the frame; whether the kernel did.
    #[inline(always)]
    fn adjust_head(&mut self, by: i32) -> bool {
        // SAFETY: the context is the one that the program was called with; `&mut self` ends every reference into the
        // frame, which the helper moves.
        unsafe { bpf_xdp_adjust_head(self.context.as_ptr().cast(), by) == 0 }
    }

    /// Hands the frame to the program that gets what weir passes; comes back only where there is none.
    #[inline(always)]
    pub(crate) fn hand_on(&self) {
        // SAFETY: as in `enter`.
        unsafe { NEXT_PROGRAM.tail_call(&self.context, 0) };
    }

    /// Goes on with the program of another stage; comes back only where there is none.
    #[inline(always)]
    pub(crate) fn enter(&self, stage: Stage) {
        // SAFETY: the context is the one that the program was called with, and nothing of the packet is borrowed.
        unsafe { STAGES.tail_call(&self.context, stage.place(B::VARIANT)) };
    }
}

impl<B: Build> Packet for XdpPacket<B> {
    #[inline(always)]
    fn length(&self) -> usize {
        self.context.data_end() - self.context.data()
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
    fn grow_front(&mut self, bytes: usize) -> Result<(), NoHeadroom> {
        if self.adjust_head(-(bytes as i32)) { Ok(()) } else { Err(NoHeadroom) }
    }

    #[inline(always)]
    fn shrink_front(&mut self, bytes: usize) -> Result<(), TooShort> {
        if self.adjust_head(bytes as i32) { Ok(()) } else { Err(TooShort) }
    }

    #[inline(always)]
    fn truncate(&mut self, length: usize) -> Result<(), TooShort> {
        // A number that the compiler cannot look into: it would start from a pointer to subtract ("tried to subtract
        // pointer from scalar").
        let by = length as i32 - core::hint::black_box(self.length()) as i32;
        if by > 0 {
            return Err(TooShort);
        }
        // SAFETY: as in `adjust_head`.
        let done = unsafe { bpf_xdp_adjust_tail(self.context.as_ptr().cast(), by) == 0 };
        if done { Ok(()) } else { Err(TooShort) }
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        self.context.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn leave_by(&mut self, port: u32) -> Result<Egress, NoTxPort> {
        if port == self.ingress() {
            return Ok(Egress::BACK);
        }
        let known = match B::VARIANT {
            Variant::Live | Variant::Capture => TX_PORTS.redirect(port, 0).is_ok(),
            Variant::Explain | Variant::Offline => TX_PORTS.get_ifindex(port).is_some(),
        };
        if known { Ok(Egress(port)) } else { Err(NoTxPort) }
    }
}
