//! What tests of the packet logic share: tables with every kind of record, frames, and what must hold of each frame
//! that went through. Used by lb-common's tests, the comparison with the kernel, and the fuzzer.
#![forbid(unsafe_code)]

mod check;
mod choice;
pub mod decap;
mod generate;
mod host;
mod icmp;
mod nat;
mod packet;
mod plain;
mod quic;
mod replay;
mod scene;
mod seed;
mod store;

pub use check::check;
pub use choice::{Bytes, Choice, Splitmix};
pub use generate::frame;
pub use host::{Host, Ran, Totals};
pub use icmp::IcmpSpec;
pub use nat::{SNAT_FIRST, answer, snat};
pub use packet::{Extension, PacketSpec, Transport};
pub use plain::Plain;
pub use quic::{QuicHeader, quic};
pub use replay::replay;
pub use scene::{
    ALLOWED, CID_CONFIG, DENIED, DENIED_THERE, GUE_PORT, INGRESS, MISSING_PORT, OTHER_CID_CONFIG, OTHER_PORT,
    PORTS_FIRST, Scene, SceneSizes, client, not_vip, vip,
};
pub use store::Store;
