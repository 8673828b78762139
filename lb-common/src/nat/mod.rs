//! Flows in mode `nat`: which port of a `snat` address a flow has, found from either end.
//!
//! A port's record holds the whole flow. Replies name it by address, protocol and port; packets of the client find its
//! number in an index and then compare the record. So both directions see the same flow or none, and it ends for both
//! at once.
//!
//! Nobody takes a lock. A record's state changes by compare and exchange alone, so that one CPU at most gives a port
//! back or takes it; the words beside the state are written by the CPU that took the port, and a reader tells by a check
//! word that it saw them whole.
//!
//! Nobody else is needed to free ports either: whoever takes one first looks at a few others, in turn, and queues the
//! first whose flow is over. The queue gives the port that has been in it for longest.

mod index;
mod port;
mod supply;

pub use index::{find, forget, insert};
pub use port::{Flow, Held, Owner, Return, bind, read, refresh};
pub use supply::{Taken, free, give_back, has_free, prepare, take};
