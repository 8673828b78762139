//! Per-CPU counters.

/// Packets and bytes of frames as they arrived (Ethernet header included), since the maps were made.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}
