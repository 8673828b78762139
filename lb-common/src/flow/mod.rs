//! The flow table: which backend a flow is bound to, without locks.
//!
//! Several CPUs read and write a way at once, by plain loads and stores. An entry is the binding (backend id and
//! destination port, one 32-bit word), the meta (class, deadline, generation, another), and the key words, each
//! stored XORed with a function of the binding. A look-up undoes that with the binding it read, so an entry put
//! together from two writers' stores matches no flow: not with another's binding, not with another's key. The loom
//! model in `tests/loom.rs` checks this with every word relaxed.
//!
//! A refresh stores the meta alone; it can hit an entry that has just been taken over by another flow, and then gives
//! it a class and deadline that are not its own. That costs accuracy of expiry, never a wrong backend.

mod class;
mod entry;
mod key;
mod overflow;
mod place;
mod rules;

pub use class::{Class, Code, Meta};
pub use entry::{Found, find, forget, write};
pub use key::{Binding, FlowKey, decode};
pub use overflow::{Overflow, mark, overflow_line, overflow_lines};
pub use place::{First, Offer, offer};
pub use rules::{Continuation, NewFlows, continuation, stays};
