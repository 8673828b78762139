//! Numbers that the compiler knows nothing of.

/// The same number, of which the compiler knows nothing, for one instruction. [`core::hint::black_box`], which does for rarer
/// packets, stores and loads it.
#[inline(always)]
#[must_use]
pub fn opaque(number: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut number = number;
        // SAFETY: copies a register to itself. With no instruction at all the kernel refuses the line that goes with it.
        unsafe {
            core::arch::asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack, preserves_flags));
        }
        number
    }
    #[cfg(not(target_arch = "bpf"))]
    number
}
