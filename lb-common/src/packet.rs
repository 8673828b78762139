//! Access to one frame.

use crate::forward::Egress;
use crate::wire::Header;

/// A frame with bounded access; growing it ends every reference into it.
pub trait Packet {
    /// Bytes from the first to the last.
    fn length(&self) -> usize;

    /// The header at `offset`; `None` where the frame ends before it does.
    fn header<H: Header>(&self, offset: usize) -> Option<&H>;

    /// The header at `offset`, to be written.
    fn header_mut<H: Header>(&mut self, offset: usize) -> Option<&mut H>;

    /// Adds `bytes` of unspecified content before the first byte.
    ///
    /// # Errors
    /// Where there is no headroom; the frame is as it was.
    fn grow_front(&mut self, bytes: usize) -> Result<(), NoHeadroom>;

    /// Takes `bytes` off the front.
    ///
    /// # Errors
    /// Where the frame would be left without an Ethernet header; the frame is as it was.
    fn shrink_front(&mut self, bytes: usize) -> Result<(), TooShort>;

    /// Takes bytes off the end, so that `length` are left.
    ///
    /// # Errors
    /// Where there are fewer, or where the frame would be left without an Ethernet header; the frame is as it was.
    fn truncate(&mut self, length: usize) -> Result<(), TooShort>;

    /// Index of the interface that the frame came in by; 0 where nobody asks.
    #[inline(always)]
    fn ingress(&self) -> u32 {
        0
    }

    /// Arranges for the frame to leave by the interface with this index, and says how it does.
    ///
    /// # Errors
    /// Where frames may not leave by it.
    fn leave_by(&mut self, port: u32) -> Result<Egress, NoTxPort>;
}

/// No frame may leave by the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoTxPort;

/// The frame cannot shrink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooShort;

/// The frame cannot grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHeadroom;
