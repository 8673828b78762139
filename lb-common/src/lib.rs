//! What both sides of the kernel boundary agree on: map value layouts, and the packet logic itself.
//!
//! The logic is generic over [`packet::Packet`] and [`tables::Tables`]; the XDP program implements them over
//! `XdpContext` and BPF maps, tests over byte buffers and plain memory. No aya, no maps, no I/O, no clock.
#![cfg_attr(not(any(test, loom)), no_std)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics, asm_experimental_arch))]
#![cfg_attr(target_arch = "bpf", expect(internal_features, reason = "compare and exchange: see `cell`"))]

pub mod capture;
pub mod cell;
pub mod decap;
pub mod filter;
pub mod flow;
pub mod forward;
pub mod fragment;
pub mod hash;
pub mod layout;
pub mod limit;
#[cfg(not(target_arch = "bpf"))]
pub mod memory;
pub mod nat;
pub mod opaque;
pub mod packet;
pub mod pipeline;
pub mod reason;
pub mod select;
pub mod service;
pub mod tables;
pub mod time;
pub mod trace;
pub mod wire;
