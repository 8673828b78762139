//! Rollouts: a canary set takes a share of a pool's new flows, which grows step by step while guards hold and is
//! taken away when one fails.
//!
//! `guard` reads and judges conditions, `plan` decides what comes next; both are pure. `store` keeps rollouts over a
//! restart. The share itself is divided by [`crate::health::split`].

pub mod guard;
pub mod plan;
pub mod request;
pub mod store;
