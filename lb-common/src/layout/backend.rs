//! A backend's state slot and what its outer header needs.

use crate::cell::SharedU64;

/// Admit share, in per mille, that lets every new flow through.
pub const MAX_ADMIT: u16 = 1000;

/// A backend by id. One cache line; id 0 is never used.
#[repr(C, align(64))]
pub struct Backend {
    /// [`HotWord`]: rewritten by one store on every transition.
    pub hot: SharedU64,
    /// [`EgressWord`]: next hop, selected source and checksum change together.
    pub egress: SharedU64,
    /// Address of the backend; IPv4 in the first four bytes.
    pub address: [u8; 16],
    /// Outer source addresses, laid out like `address`; [`EgressWord`] selects one, the other is being prepared.
    pub sources: [[u8; 16]; 2],
}

#[cfg(not(loom))]
const _: () = assert!(core::mem::size_of::<Backend>() == 64);

/// What the data plane may do with a backend. The order is that of the encoding; 0 is no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BackendState {
    /// The id is free.
    Absent = 0,
    /// Takes new and known flows.
    Active = 1,
    /// Known flows only, by admin.
    Draining = 2,
    /// Known flows only, until health knows better.
    Suspect = 3,
    /// Failed softly: no new flows; known flows stay unless the service reselects.
    DownSoft = 4,
    /// Failed: no packet, unless the service keeps.
    Down = 5,
    /// Taken out by admin, who ends its flows: no packet; TCP connections are reset, other flows are selected anew, whatever
    /// the service says.
    Resetting = 6,
}

/// Admin state as kept in the slot, for lists and adoption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the glossary's")]
pub enum AdminBits {
    Active = 0,
    Draining = 1,
    Maintenance = 2,
}

/// Health as kept in the slot, for lists and adoption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the glossary's")]
pub enum HealthBits {
    Unknown = 0,
    Up = 1,
    Suspect = 2,
    Down = 3,
    Trial = 4,
}

/// Kind of the failure that took a backend down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FailureBits {
    /// None.
    None = 0,
    /// Refused, unreachable, silent.
    Hard = 1,
    /// Wrong answer, slow.
    Soft = 2,
}

/// A backend's state in one word: bits 0–7 state, 8–15 generation, 16–31 admit per mille, 32–39 admin,
/// 40–47 health, 48–55 failure kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotWord(pub u64);

impl HotWord {
    /// A word with these parts; `admit` is clamped to 1000.
    #[must_use]
    pub const fn new(
        state: BackendState,
        generation: u8,
        admit: u16,
        admin: AdminBits,
        health: HealthBits,
        failure: FailureBits,
    ) -> Self {
        let admit = if admit > MAX_ADMIT { MAX_ADMIT } else { admit };
        Self(
            state as u64
                | (generation as u64) << 8
                | (admit as u64) << 16
                | (admin as u64) << 32
                | (health as u64) << 40
                | (failure as u64) << 48,
        )
    }

    /// The state; an unknown code reads as absent.
    #[inline(always)]
    #[must_use]
    pub const fn state(self) -> BackendState {
        match self.0 as u8 {
            1 => BackendState::Active,
            2 => BackendState::Draining,
            3 => BackendState::Suspect,
            4 => BackendState::DownSoft,
            5 => BackendState::Down,
            6 => BackendState::Resetting,
            _ => BackendState::Absent,
        }
    }

    /// Tells one holder of the id from the next.
    #[inline(always)]
    #[must_use]
    pub const fn generation(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Whether the backend is active and the holder of the id is the one of this generation.
    #[inline(always)]
    #[must_use]
    pub const fn is_active(self, generation: u8) -> bool {
        self.0 as u16 == (generation as u16) << 8 | BackendState::Active as u16
    }

    /// Share of new flows let through, 0..=1000 per mille.
    #[inline(always)]
    #[must_use]
    pub const fn admit(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Admin state; an unknown code reads as active.
    #[must_use]
    pub const fn admin(self) -> AdminBits {
        match (self.0 >> 32) as u8 {
            1 => AdminBits::Draining,
            2 => AdminBits::Maintenance,
            _ => AdminBits::Active,
        }
    }

    /// Health; an unknown code reads as unknown.
    #[must_use]
    pub const fn health(self) -> HealthBits {
        match (self.0 >> 40) as u8 {
            1 => HealthBits::Up,
            2 => HealthBits::Suspect,
            3 => HealthBits::Down,
            4 => HealthBits::Trial,
            _ => HealthBits::Unknown,
        }
    }

    /// Kind of the last failure.
    #[must_use]
    pub const fn failure(self) -> FailureBits {
        match (self.0 >> 48) as u8 {
            1 => FailureBits::Hard,
            2 => FailureBits::Soft,
            _ => FailureBits::None,
        }
    }
}

/// Address family of a backend, and so of the outer header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// How packets leave towards a backend: bits 0–15 next-hop id (0: none), 16–31 sum of the outer IPv4 header's
/// constant words, bit 32 which source, bit 33 IPv6, bits 40–47 bits of entropy at the end of the source, 48–63 the
/// destination port in mode `nat` (0: the packet's own).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EgressWord(pub u64);

impl EgressWord {
    /// A word with these parts. `sum` is the folded one's complement sum that [`crate::forward::constant_sum`] gives.
    #[must_use]
    pub const fn new(next_hop: u16, sum: u16, source: usize, family: Family, entropy_bits: u8) -> Self {
        let v6 = matches!(family, Family::V6);
        Self(
            next_hop as u64
                | (sum as u64) << 16
                | ((source & 1) as u64) << 32
                | (v6 as u64) << 33
                | (entropy_bits as u64) << 40,
        )
    }

    /// The same with this destination port for mode `nat`, host order.
    #[must_use]
    pub const fn with_port(self, port: u16) -> Self {
        Self(self.0 & !(0xffff << 48) | (port as u64) << 48)
    }

    /// Destination port in mode `nat`, host order; 0 keeps the packet's.
    #[inline(always)]
    #[must_use]
    pub const fn port(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// Next-hop id; 0 while no route or neighbour is known.
    #[inline(always)]
    #[must_use]
    pub const fn next_hop(self) -> u32 {
        self.0 as u16 as u32
    }

    /// One's complement sum of the constant words of the outer IPv4 header.
    #[inline(always)]
    #[must_use]
    pub const fn sum(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Which of [`Backend::sources`] is in use.
    #[inline(always)]
    #[must_use]
    pub const fn source(self) -> usize {
        (self.0 >> 32) as usize & 1
    }

    /// Family of the backend's address.
    #[inline(always)]
    #[must_use]
    pub const fn family(self) -> Family {
        if self.0 & 1 << 33 == 0 { Family::V4 } else { Family::V6 }
    }

    /// How many bits at the end of the outer source carry the flow's entropy, at most 32.
    #[inline(always)]
    #[must_use]
    pub const fn entropy_bits(self) -> u32 {
        (self.0 >> 40) as u8 as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hot_word_gives_back_its_parts() {
        let word = HotWord::new(
            BackendState::DownSoft,
            200,
            2000,
            AdminBits::Draining,
            HealthBits::Trial,
            FailureBits::Soft,
        );
        assert_eq!(
            (word.state(), word.generation(), word.admit(), word.admin(), word.health(), word.failure()),
            (BackendState::DownSoft, 200, 1000, AdminBits::Draining, HealthBits::Trial, FailureBits::Soft)
        );
        assert_eq!(HotWord(0).state(), BackendState::Absent);
    }

    #[test]
    fn egress_word_gives_back_its_parts() {
        let word = EgressWord::new(65535, 0xabcd, 1, Family::V6, 24);
        assert_eq!(
            (word.next_hop(), word.sum(), word.source(), word.family(), word.entropy_bits()),
            (65535, 0xabcd, 1, Family::V6, 24)
        );
    }
}
