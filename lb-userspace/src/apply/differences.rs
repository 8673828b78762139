//! Which pools differ between two desired states.

use std::sync::Arc;

use super::state::BackendKey;
use crate::desired::{BackendRecord, Desired, PoolRecord};

/// The pools that a plan has to look at; all others are as they were.
pub(super) struct PoolChanges<'d> {
    /// New ones and those that are no longer the same, each with what it was.
    pub(super) made: Vec<(Option<&'d PoolRecord>, &'d PoolRecord)>,
    /// Those that are no longer desired.
    pub(super) gone: Vec<&'d PoolRecord>,
}

impl<'d> PoolChanges<'d> {
    /// One walk over both states. What they share is not looked into.
    pub(super) fn between(before: Option<&'d Desired>, after: &'d Desired) -> Self {
        let (mut made, mut gone) = (Vec::new(), Vec::new());
        let mut known = before.into_iter().flat_map(|before| &before.pools).peekable();
        for (name, record) in &after.pools {
            let mut was = None;
            while let Some((known, of)) =
                known.next_if(|(known, _)| Arc::ptr_eq(known, name) || *known <= name)
            {
                match Arc::ptr_eq(known, name) || known == name {
                    true => was = Some(of),
                    false => gone.push(&**of),
                }
            }
            if !was.is_some_and(|was| Arc::ptr_eq(was, record) || was == record) {
                made.push((was.map(|was| &**was), &**record));
            }
        }
        gone.extend(known.map(|(_, of)| &**of));
        Self { made, gone }
    }

    /// Every backend of these pools, as it was or as it is to be.
    pub(super) fn backends(&self) -> impl Iterator<Item = (BackendKey, &'d BackendRecord)> {
        let made = self.made.iter().flat_map(|(was, is)| was.iter().copied().chain([*is]));
        made.chain(self.gone.iter().copied()).flat_map(|pool| {
            pool.backends.iter().map(|(name, backend)| {
                let (pool, name) = (pool.name.clone(), name.clone());
                (BackendKey { pool, name, address: backend.address }, backend)
            })
        })
    }
}
