//! A map whose copies share everything until one is changed: then that one has a tree of its own, and shares the values still. A copy of
//! a host's thousand links costs nothing, and a change in it a thousand counts, not a thousand links.
//!
//! It has what `BTreeMap` has, by the same names, as far as it is used. It must never give a value that another copy sees to be changed.

use std::borrow::Borrow;
use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// See the module.
#[derive(Eq, PartialEq)]
pub struct CowMap<K, V>(Arc<BTreeMap<K, Arc<V>>>);

type Pair<'a, K, V> = fn((&'a K, &'a Arc<V>)) -> (&'a K, &'a V);

/// The pairs of a map, in the order of their keys.
pub type Iter<'a, K, V> = std::iter::Map<btree_map::Iter<'a, K, Arc<V>>, Pair<'a, K, V>>;

impl<K: Ord + Clone, V> CowMap<K, V> {
    fn own(&mut self) -> &mut BTreeMap<K, Arc<V>> {
        Arc::make_mut(&mut self.0)
    }

    /// Gives a key a value; what it had is returned.
    pub fn insert(&mut self, key: K, value: V) -> Option<Arc<V>> {
        self.own().insert(key, Arc::new(value))
    }

    /// Keeps those pairs alone.
    pub fn retain(&mut self, kept: impl Fn(&K, &V) -> bool) {
        if self.iter().any(|(key, value)| !kept(key, value)) {
            self.own().retain(|key, value| kept(key, value));
        }
    }

    /// Takes in what another has of keys that have no value here; the values are shared.
    pub fn fill_from(&mut self, other: &Self, mut wanted: impl FnMut(&K) -> bool) {
        let here = self.own();
        for (key, value) in other.0.iter() {
            if wanted(key)
                && let btree_map::Entry::Vacant(place) = here.entry(key.clone())
            {
                place.insert(value.clone());
            }
        }
    }
}

impl<K: Ord, V> CowMap<K, V> {
    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).map(Arc::as_ref)
    }

    /// Whether a key has a value.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys, in order.
    pub fn keys(&self) -> btree_map::Keys<'_, K, Arc<V>> {
        self.0.keys()
    }

    /// The values, in the order of their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> + Clone {
        self.0.values().map(Arc::as_ref)
    }

    /// The pairs, in the order of their keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        self.0.iter().map(|(key, value)| (key, value.as_ref()))
    }

    /// The keys that `after` has not.
    pub fn gone_from<'a>(&'a self, after: &'a Self) -> impl Iterator<Item = &'a K> {
        let mut later = after.0.keys().peekable();
        self.unless_same(after).map(|(key, _)| key).filter(move |key| {
            while later.next_if(|later| later < key).is_some() {}
            later.next_if(|later| later == key).is_none()
        })
    }

    /// The pairs; none if nothing was changed since one of both was the other's copy.
    fn unless_same(&self, other: &Self) -> impl Iterator<Item = (&K, &Arc<V>)> {
        let same = Arc::ptr_eq(&self.0, &other.0);
        (!same).then(|| self.0.iter()).into_iter().flatten()
    }

    /// The pairs that `before` has not, or has otherwise. What is shared is not compared.
    pub fn changed_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = (&'a K, &'a V)>
    where
        V: PartialEq,
    {
        let mut earlier = before.0.iter().peekable();
        let mut same = move |key: &K, value: &Arc<V>| {
            while earlier.next_if(|(earlier, _)| *earlier < key).is_some() {}
            let it = earlier.next_if(|(earlier, _)| *earlier == key);
            it.is_some_and(|(_, it)| Arc::ptr_eq(it, value) || it == value)
        };
        self.unless_same(before).filter(move |(key, value)| !same(key, value)).map(|(key, value)| (key, value.as_ref()))
    }
}

impl<K: Ord + Clone, V: Clone> CowMap<K, V> {
    /// The value of a key, to be changed here alone.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        if !self.contains_key(key) {
            return None;
        }
        self.own().get_mut(key).map(Arc::make_mut)
    }

    /// Takes a key and its value away.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if !self.contains_key(key) {
            return None;
        }
        self.own().remove(key).map(Arc::unwrap_or_clone)
    }

    /// The values, to be changed here alone: no copy shares any of them then.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.own().values_mut().map(Arc::make_mut)
    }

    /// The values, the copy's own.
    pub fn into_values(self) -> impl Iterator<Item = V> {
        Arc::unwrap_or_clone(self.0).into_values().map(Arc::unwrap_or_clone)
    }
}

impl<K, V> Clone for CowMap<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> Default for CowMap<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for CowMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for CowMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(Arc::new(pairs.into_iter().map(|(key, value)| (key, Arc::new(value))).collect()))
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for CowMap<K, V> {
    fn from(pairs: [(K, V); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl<K: Ord + Clone, V> Extend<(K, V)> for CowMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, pairs: I) {
        self.own().extend(pairs.into_iter().map(|(key, value)| (key, Arc::new(value))));
    }
}

impl<'a, K: Ord, V> IntoIterator for &'a CowMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<K: Ord + Clone, V: Clone> IntoIterator for CowMap<K, V> {
    type Item = (K, V);
    type IntoIter = std::iter::Map<btree_map::IntoIter<K, Arc<V>>, fn((K, Arc<V>)) -> (K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        Arc::unwrap_or_clone(self.0).into_iter().map(|(key, value)| (key, Arc::unwrap_or_clone(value)))
    }
}

impl<K: Ord, V> std::ops::Index<&K> for CowMap<K, V> {
    type Output = V;

    #[expect(clippy::indexing_slicing, reason = "as a map's own index: for tests, which know that it is there")]
    fn index(&self, key: &K) -> &V {
        &self.0[key]
    }
}

impl<K: Serialize, V: Serialize> Serialize for CowMap<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value.as_ref())))
    }
}

impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Deserialize<'de> for CowMap<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::<K, V>::deserialize(deserializer).map(|map| map.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_shares_its_values_until_one_is_changed() {
        let one: CowMap<u8, String> = [(1, "one".to_owned()), (2, "two".to_owned())].into();
        let mut other = one.clone();
        let shared = |one: &CowMap<u8, String>, other: &CowMap<u8, String>, key| {
            std::ptr::eq(one.get(&key).unwrap(), other.get(&key).unwrap())
        };
        assert!(shared(&one, &other, 1) && shared(&one, &other, 2));
        other.get_mut(&2).unwrap().push('!');
        assert_eq!((one.get(&2).unwrap().as_str(), other.get(&2).unwrap().as_str()), ("two", "two!"));
        assert!(shared(&one, &other, 1));
        assert_eq!(other.changed_since(&one).collect::<Vec<_>>(), [(&2, &"two!".to_owned())]);
        assert_eq!(one, [(1, "one".to_owned()), (2, "two".to_owned())].into());
    }
}
