//! Probes: what is sent, on which sockets, and the thread that does it.

mod asynchronous;
mod bfd;
mod checksum;
mod connect;
mod datagram;
mod dns;
mod echo;
mod exec;
mod half_open;
mod http;
mod icmp_errors;
mod lane;
mod link;
mod numbers;
mod phases;
pub(super) mod prober;
mod raw;
mod realtime;
mod roll_call;
mod text;
mod through;
mod timers;
mod tripwire;
pub(super) mod trust;
