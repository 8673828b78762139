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
    /// Counts by step.
    pub steps: [u64; 4],
}

/// A step of a flow's opening, as far as it shows in the client's direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum HandshakeStep {
    /// A SYN began the flow.
    Opened = 0,
    /// A SYN came again before anything else did.
    Repeated = 1,
    /// The client sent on: it has the backend's answer.
    Completed = 2,
}

impl Handshakes {
    /// The count of a step.
    #[must_use]
    pub const fn of(&self, step: HandshakeStep) -> u64 {
        self.steps[step as usize]
    }
}
