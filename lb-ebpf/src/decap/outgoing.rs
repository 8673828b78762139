//! A frame that goes out, in the kernel.

use aya_ebpf::programs::TcContext;
use lb_common::decap::mss::{Outgoing, Replacement};
use lb_common::forward::Egress;
use lb_common::packet::{NoHeadroom, NoTxPort, Packet, TooShort};
use lb_common::wire::Header;

/// The frame of a tc program's invocation, as far as it is in one piece.
///
/// It is written by helpers: a store through a pointer anywhere in the program has the kernel copy the headers of every
/// frame that shares them, which those of TCP's data do.
pub(crate) struct TcFrame {
    context: TcContext,
}

impl TcFrame {
    #[inline(always)]
    pub(crate) fn new(context: TcContext) -> Self {
        Self { context }
    }
}

impl Packet for TcFrame {
    #[inline(always)]
    fn length(&self) -> usize {
        self.context.len() as usize
    }

    #[inline(always)]
    fn header<H: Header>(&self, offset: usize) -> Option<&H> {
        let start = self.context.data() + offset;
        if start + size_of::<H>() > self.context.data_end() {
            return None;
        }
        // SAFETY: the frame holds an `H` there; any bytes are one, without alignment. The frame does not move while
        // `self` is borrowed.
        Some(unsafe { &*(start as *const H) })
    }

    #[inline(always)]
    fn header_mut<H: Header>(&mut self, _offset: usize) -> Option<&mut H> {
        None
    }

    #[inline(always)]
    fn grow_front(&mut self, _bytes: usize) -> Result<(), NoHeadroom> {
        Err(NoHeadroom)
    }

    #[inline(always)]
    fn shrink_front(&mut self, _bytes: usize) -> Result<(), TooShort> {
        Err(TooShort)
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

impl Outgoing for TcFrame {
    #[inline(always)]
    fn replace(&mut self, replacement: Replacement) {
        let Replacement { value_at, value, checksum_at, old, new } = replacement;
        let word = |bytes: [u8; 2]| u64::from(u16::from_ne_bytes(bytes));
        // The kernel leaves a checksum alone that the card is still to compute. Where it cannot make the headers
        // writable, both stay as they are.
        let updated = self.context.l4_csum_replace(checksum_at, word(old), word(new), 2);
        if updated.is_ok() {
            // The headers are writable since.
            let _ = self.context.store(value_at, &value, 0);
        }
    }
}
