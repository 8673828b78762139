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

/// Steps of the openings of a backend's TCP flows, since the maps were made, each at its [`HandshakeStep`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshakes {
    /// Counts by step; the last two are zero.
    pub steps: [u64; 8],
}

/// A step of a flow's opening, or its sudden end, each counted once a flow but for SYNs that come again.
///
/// All modes see what clients send. What backends send passes weir in mode `nat` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum HandshakeStep {
    /// A SYN began the flow.
    Opened = 0,
    /// A SYN came again before anything else did.
    Repeated = 1,
    /// The client sent on: it has the backend's answer.
    Completed = 2,
    /// Mode `nat`: the backend's SYN-ACK came.
    Answered = 3,
    /// Mode `nat`: the backend's RST came instead.
    Refused = 4,
    /// Mode `nat`: the backend's RST came to a flow that it had answered and nobody had closed.
    Reset = 5,
}

impl Handshakes {
    /// The count of a step.
    #[must_use]
    pub const fn of(&self, step: HandshakeStep) -> u64 {
        self.steps[step as usize]
    }
}
