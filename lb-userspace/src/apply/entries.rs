//! A table of the bookkeeping that is copied at no cost, however long it is.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// Keys and values. A copy shares all of them and keeps apart what it changes; it takes that in once it is alone.
#[derive(Clone, Debug)]
pub(super) struct Entries<K, V> {
    shared: Arc<HashMap<K, V>>,
    /// What differs; `None` is gone.
    changed: HashMap<K, Option<V>>,
}

impl<K, V> Default for Entries<K, V> {
    fn default() -> Self {
        Self { shared: Arc::default(), changed: HashMap::new() }
    }
}

impl<K: Eq + Hash, V> FromIterator<(K, V)> for Entries<K, V> {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(entries: T) -> Self {
        Self { shared: Arc::new(entries.into_iter().collect()), changed: HashMap::new() }
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Entries<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        match self.changed.get(key) {
            Some(changed) => changed.as_ref(),
            None => self.shared.get(key),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let changed = self.changed.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
        self.shared.iter().filter(|(key, _)| !self.changed.contains_key(*key)).chain(changed)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        self.set(key, Some(value));
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let value = self.get(key)?.clone();
        self.set(key.clone(), None);
        Some(value)
    }

    /// Takes the changes in where no copy shares the entries.
    pub(super) fn settle(&mut self) {
        let Some(shared) = Arc::get_mut(&mut self.shared) else { return };
        for (key, value) in std::mem::take(&mut self.changed) {
            match value {
                Some(value) => drop(shared.insert(key, value)),
                None => drop(shared.remove(&key)),
            }
        }
    }

    fn set(&mut self, key: K, value: Option<V>) {
        self.changed.insert(key, value);
        self.settle();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sorted(entries: &Entries<u8, u16>) -> Vec<(u8, u16)> {
        let mut found: Vec<(u8, u16)> = entries.iter().map(|(key, value)| (*key, *value)).collect();
        found.sort_unstable();
        found
    }

    proptest! {
        #[test]
        fn a_copy_is_a_map_of_its_own_and_the_original_stays(
            first in prop::collection::hash_map(0u8..16, any::<u16>(), 0..12),
            steps in prop::collection::vec((0u8..16, prop::option::of(any::<u16>())), 0..40),
        ) {
            let original: Entries<u8, u16> = first.clone().into_iter().collect();
            let before = sorted(&original);
            let (mut copy, mut model) = (original.clone(), first);
            for (key, value) in steps {
                match value {
                    Some(value) => {
                        copy.insert(key, value);
                        model.insert(key, value);
                    }
                    None => prop_assert_eq!(copy.remove(&key), model.remove(&key)),
                }
                prop_assert_eq!(copy.get(&key), model.get(&key));
            }
            let mut expected: Vec<(u8, u16)> = model.into_iter().collect();
            expected.sort_unstable();
            prop_assert_eq!(&sorted(&copy), &expected);
            prop_assert_eq!(sorted(&original), before);
            drop(original);
            copy.settle();
            prop_assert!(copy.changed.is_empty());
            prop_assert_eq!(sorted(&copy), expected);
        }
    }
}
