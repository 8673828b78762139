//! The BPF objects built with this crate, as ELF files ready for `aya::EbpfLoader`.

/// Picks a backend for every packet (program `weir`; the maps are those of [`crate::maps::schema`]).
pub static XDP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir-xdp"));

/// What runs on backends (programs `weir_decap`, `weir_mss`; the maps are those of [`crate::decap`]).
pub static DECAP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir-decap"));

/// Switch programs of the test lab (programs `pass`, `gate_in`, `gate_out`, `steer`; maps `FROZEN`,
/// `TO_VIP`, `STEER`).
pub static LAB: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir-lab"));

/// What `cargo xtask bench` runs in the kernel (programs `run_v4`, `run_v6` and those that weir is compared with).
pub static BENCH: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir-bench"));
