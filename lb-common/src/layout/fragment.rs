//! The fragment table's storage; its protocol is in [`crate::fragment`].

use crate::cell::SharedU64;

/// Entries of a line.
pub const FRAGMENT_WAYS: usize = 2;

/// What later fragments of one packet need to know.
#[repr(C)]
#[cfg_attr(not(target_arch = "bpf"), derive(Debug, Clone))]
pub struct FragmentWay {
    /// Key words, each XORed with a function of the value.
    pub key: [SharedU64; 3],
    /// [`crate::fragment::Value`]; 0 is an empty way.
    pub value: SharedU64,
}

/// One cache line of entries. Written and read by the data plane alone.
#[repr(C, align(64))]
#[cfg_attr(not(target_arch = "bpf"), derive(Debug, Clone))]
pub struct FragmentLine {
    /// The entries, in no order.
    pub ways: [FragmentWay; FRAGMENT_WAYS],
}

#[cfg(not(loom))]
const _: () = assert!(core::mem::size_of::<FragmentLine>() == 64);

impl FragmentLine {
    /// A line of empty ways.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            ways: core::array::from_fn(|_| FragmentWay {
                key: core::array::from_fn(|_| SharedU64::new(0)),
                value: SharedU64::new(0),
            }),
        }
    }
}
