//! Lists of waiters by key, and their notification.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Wakes waiters by key: waiters of jobs for their next versions, waiters of logs for their next records. Clones share
/// the waiters.
#[derive(Debug)]
pub(crate) struct WatchList<K> {
    waiting: Arc<Mutex<Waiting<K>>>,
}

/// The waiters of each key.
type Waiting<K> = BTreeMap<K, Vec<Arc<News<K>>>>;

impl<K> Clone for WatchList<K> {
    fn clone(&self) -> Self {
        Self { waiting: self.waiting.clone() }
    }
}

impl<K> Default for WatchList<K> {
    fn default() -> Self {
        Self { waiting: Arc::default() }
    }
}

/// Changed keys that one waiter has not received yet.
#[derive(Debug)]
struct News<K> {
    keys: Mutex<BTreeSet<K>>,
    some: Notify,
}

impl<K: Ord + Copy> News<K> {
    fn add(&self, key: K) {
        self.lock().insert(key);
        self.some.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<K>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A waiter for changes of some keys. Dropping it unsubscribes.
#[derive(Debug)]
pub(crate) struct Watcher<K: Ord + Copy> {
    watches: WatchList<K>,
    keys: BTreeSet<K>,
    news: Arc<News<K>>,
}

impl<K: Ord + Copy> Watcher<K> {
    /// Waits for changes; returns the changed keys. Cancel safe.
    pub(crate) async fn changed(&mut self) -> BTreeSet<K> {
        loop {
            let changed = std::mem::take(&mut *self.news.lock());
            if !changed.is_empty() {
                return changed;
            }
            self.news.some.notified().await;
        }
    }

    /// Unsubscribes from one key.
    pub(crate) fn forget(&mut self, key: K) {
        if self.keys.remove(&key) {
            self.watches.leave(key, &self.news);
            self.news.lock().remove(&key);
        }
    }
}

impl<K: Ord + Copy> Drop for Watcher<K> {
    fn drop(&mut self) {
        for key in &self.keys {
            self.watches.leave(*key, &self.news);
        }
    }
}

impl<K: Ord + Copy> WatchList<K> {
    /// Subscribes to changes of keys. Subscribe first, then read the store, then wait, so that no change is missed.
    pub(crate) fn subscribe(&self, keys: impl IntoIterator<Item = K>) -> Watcher<K> {
        let keys: BTreeSet<K> = keys.into_iter().collect();
        let news = Arc::new(News { keys: Mutex::default(), some: Notify::new() });
        let mut waiting = self.lock();
        for key in &keys {
            waiting.entry(*key).or_default().push(news.clone());
        }
        drop(waiting);
        Watcher { watches: self.clone(), keys, news }
    }

    /// Wakes the waiters of a key.
    pub(crate) fn notify(&self, key: K) {
        if let Some(waiting) = self.lock().get(&key) {
            waiting.iter().for_each(|news| news.add(key));
        }
    }

    /// Wakes every waiter, since notifications were lost.
    pub(crate) fn notify_all(&self) {
        for (key, waiting) in &*self.lock() {
            waiting.iter().for_each(|news| news.add(*key));
        }
    }

    fn leave(&self, key: K, news: &Arc<News<K>>) {
        let mut all = self.lock();
        if let Some(waiting) = all.get_mut(&key) {
            waiting.retain(|other| !Arc::ptr_eq(other, news));
            if waiting.is_empty() {
                all.remove(&key);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<K>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_waiter_receives_its_own_keys_and_a_dropped_one_leaves_nothing_behind() {
        let watches: WatchList<u32> = WatchList::default();
        let (mut one, mut two) = (watches.subscribe([1, 2]), watches.subscribe([2, 3]));
        [1, 2, 4].into_iter().for_each(|key| watches.notify(key));
        assert_eq!(one.changed().await, BTreeSet::from([1, 2]));
        assert_eq!(two.changed().await, BTreeSet::from([2]));
        two.forget(2);
        watches.notify_all();
        assert_eq!(two.changed().await, BTreeSet::from([3]));
        drop((one, two));
        assert!(watches.lock().is_empty());
    }
}
