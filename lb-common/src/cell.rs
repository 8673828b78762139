//! Words that the data plane and the control plane, or several CPUs, read and write without locks.
//!
//! A BPF program has no atomic loads and stores below CPU v4, but an aligned volatile access is one
//! instruction on every level; on the host the same words are relaxed atomics, under `--cfg loom` loom's.
//! No ordering between two words is promised: protocols over them must hold for `Relaxed`. The one exception is
//! [`SharedU64::exchange`], which orders what comes before and after it.

#[cfg(all(not(target_arch = "bpf"), not(loom)))]
use core::sync::atomic::{
    AtomicU8, AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed,
};
#[cfg(loom)]
use loom::sync::atomic::{
    AtomicU8, AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed,
};

macro_rules! shared_word {
    ($(#[$doc:meta])* $name:ident, $int:ty, $atomic:ident) => {
        $(#[$doc])*
        #[cfg(target_arch = "bpf")]
        #[repr(transparent)]
        pub struct $name(core::cell::UnsafeCell<$int>);

        // SAFETY: the only accesses are the aligned, single-instruction volatile ones below.
        #[cfg(target_arch = "bpf")]
        unsafe impl Sync for $name {}

        #[cfg(target_arch = "bpf")]
        impl $name {
            /// A word that holds `value`.
            #[must_use]
            pub const fn new(value: $int) -> Self {
                Self(core::cell::UnsafeCell::new(value))
            }

            /// The word's value.
            #[inline(always)]
            #[must_use]
            pub fn get(&self) -> $int {
                // SAFETY: the pointer comes from a live reference to an aligned integer.
                unsafe { core::ptr::read_volatile(self.0.get()) }
            }

            /// Replaces the word's value by one store.
            #[inline(always)]
            pub fn set(&self, value: $int) {
                // SAFETY: as in `get`; concurrent readers use volatile single-instruction loads.
                unsafe { core::ptr::write_volatile(self.0.get(), value) }
            }
        }

        $(#[$doc])*
        #[cfg(not(target_arch = "bpf"))]
        #[cfg_attr(not(loom), repr(transparent))]
        #[derive(Debug, Default)]
        pub struct $name($atomic);

        #[cfg(not(target_arch = "bpf"))]
        impl $name {
            /// A word that holds `value`.
            #[must_use]
            #[cfg(not(loom))]
            pub const fn new(value: $int) -> Self {
                Self($atomic::new(value))
            }

            /// A word that holds `value`.
            #[must_use]
            #[cfg(loom)]
            pub fn new(value: $int) -> Self {
                Self($atomic::new(value))
            }

            /// The word's value.
            #[must_use]
            pub fn get(&self) -> $int {
                self.0.load(Relaxed)
            }

            /// Replaces the word's value by one store.
            pub fn set(&self, value: $int) {
                self.0.store(value, Relaxed);
            }
        }

        #[cfg(not(target_arch = "bpf"))]
        impl Clone for $name {
            fn clone(&self) -> Self {
                Self::new(self.get())
            }
        }
    };
}

shared_word!(
    /// A shared byte.
    SharedU8,
    u8,
    AtomicU8
);
shared_word!(
    /// A shared 32-bit word, native byte order.
    SharedU32,
    u32,
    AtomicU32
);
shared_word!(
    /// A shared 64-bit word, native byte order.
    SharedU64,
    u64,
    AtomicU64
);

#[cfg(not(target_arch = "bpf"))]
impl SharedU8 {
    /// Replaces `old` by `new` where the byte is `old`; whether it was.
    #[must_use]
    pub fn exchange(&self, old: u8, new: u8) -> bool {
        self.0.compare_exchange(old, new, AcqRel, Acquire).is_ok()
    }
}

impl SharedU64 {
    /// Replaces `old` by `new`; whether the word was `old`. Of several at once that name the same `old` one succeeds.
    #[cfg(target_arch = "bpf")]
    #[inline(always)]
    #[must_use]
    pub fn exchange(&self, old: u64, new: u64) -> bool {
        use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg};
        // `core::sync::atomic` leaves this out for BPF, which has the instruction since Linux 5.12.
        // SAFETY: the pointer comes from a live reference to an aligned integer.
        let (found, _) = unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(self.0.get(), old, new) };
        found == old
    }

    /// Replaces `old` by `new`; whether the word was `old`. Of several at once that name the same `old` one succeeds.
    #[cfg(not(target_arch = "bpf"))]
    #[must_use]
    pub fn exchange(&self, old: u64, new: u64) -> bool {
        self.0.compare_exchange(old, new, AcqRel, Acquire).is_ok()
    }
}
