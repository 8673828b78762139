//! The packet program in the kernel, without a network.

mod btf;
mod decap;
mod differential;
mod explain;
mod instance;
mod oracle;
mod variants;
