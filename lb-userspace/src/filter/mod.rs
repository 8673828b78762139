//! Lists of prefixes: from texts to what the packet logic searches.

#![forbid(unsafe_code)]

mod lists;
mod prefix;

pub use lists::{ByFamily, Lists, VipLists};
pub use prefix::{Prefixes, parse};
