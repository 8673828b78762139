//! Probes: what is sent, on which sockets, and the thread that does it.

mod bfd;
mod checksum;
mod connect;
mod echo;
mod half_open;
mod http;
mod lane;
pub(super) mod prober;
mod raw;
mod realtime;
mod timers;
mod tripwire;
