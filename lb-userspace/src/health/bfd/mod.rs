//! BFD, asynchronous mode (RFC 5880), over one hop (RFC 5881): what two ends say to each other, and what that means.
//!
//! `packet` reads and writes control packets, `session` is one end of a session. Both are pure; sockets and clock
//! are `probe::bfd`'s. Left out: authentication, echo, and asking for demand mode (a neighbour may ask for it).

#![forbid(unsafe_code)]

pub mod packet;
pub mod session;
