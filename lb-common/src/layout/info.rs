//! Names and labels by id, so that lists need no daemon and an adopter never mislabels.

/// Longest name in bytes.
pub const NAME_LEN: usize = 63;
/// Longest text of a port list in bytes; a longer one ends in `…`.
pub const PORTS_LEN: usize = 111;

/// A short UTF-8 text: its length in bytes, then the bytes, zero-filled.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<const N: usize> {
    /// Bytes used.
    pub len: u8,
    /// The text.
    pub bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    /// `text`, cut at a character boundary and marked with `…` where it is longer than `N` bytes.
    #[must_use]
    pub fn new(text: &str) -> Self {
        const MARK: &str = "…";
        let mut bytes = [0; N];
        let (kept, mark) = if text.len() <= N {
            (text, "")
        } else {
            let mut end = N - MARK.len();
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            (text.split_at(end).0, MARK)
        };
        for (to, from) in bytes.iter_mut().zip(kept.bytes().chain(mark.bytes())) {
            *to = from;
        }
        Self { len: (kept.len() + mark.len()) as u8, bytes }
    }

    /// The text; bytes that are not UTF-8 read as empty.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.bytes.get(..self.len as usize).and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or("")
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self { len: 0, bytes: [0; N] }
    }
}

/// A backend's labels. An empty name is a free id.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct BackendInfo {
    /// Name in its pool.
    pub name: Text<NAME_LEN>,
    /// Host label; empty is none.
    pub host: Text<NAME_LEN>,
    /// Laid out like [`super::Backend::address`].
    pub address: [u8; 16],
    /// 4 or 6.
    pub family: u8,
    /// Tier.
    pub tier: u8,
    /// Pool id.
    pub pool: u16,
    /// Weight in force.
    pub weight: u16,
    /// 1: no longer in the config, drains until no flow names it.
    pub removed: u8,
    /// Zero.
    pub reserved: u8,
    /// Unix time of the last transition, in milliseconds.
    pub since_ms: u64,
    /// Why it is in this state.
    pub why: Text<PORTS_LEN>,
}

/// A service's labels. An empty name is a free id.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct ServiceInfo {
    /// Name.
    pub name: Text<NAME_LEN>,
    /// Name of its VIP.
    pub vip: Text<NAME_LEN>,
    /// Ports as in the config.
    pub ports: Text<PORTS_LEN>,
    /// Protocols, bit 0 TCP, 1 UDP, 2 SCTP.
    pub protocols: u8,
    /// [`Scheduler`](super::Scheduler).
    pub scheduler: u8,
    /// Pool id.
    pub pool: u16,
    /// Slots of the Maglev table.
    pub table_size: u32,
}

/// A pool's labels. An empty name is a free id.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolInfo {
    /// Name.
    pub name: Text<NAME_LEN>,
    /// Tier that serves.
    pub active_tier: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// A VIP's labels: one record an address. An empty name is a free id.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct VipInfo {
    /// Name.
    pub name: Text<NAME_LEN>,
    /// Laid out like [`super::Backend::address`].
    pub address: [u8; 16],
    /// 4 or 6.
    pub family: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_keeps_what_fits_and_marks_a_cut() {
        assert_eq!(Text::<8>::new("web-1").as_str(), "web-1");
        assert_eq!(Text::<8>::new("123456789").as_str(), "12345…");
        assert_eq!(Text::<8>::new("1234éabcd").as_str(), "1234…");
        assert_eq!(Text::<8> { len: 200, bytes: [0; 8] }.as_str(), "");
    }
}
