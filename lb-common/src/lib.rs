//! What both sides of the kernel boundary agree on: map value layouts, and the packet logic itself.
#![cfg_attr(not(test), no_std)]
