use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Wakes whoever waits for news of some things, by their keys: of jobs for their next versions, of logs for their next
/// records. Clones share it.
#[derive(Debug)]
pub(crate) struct WatchList<K> {
    waiting: Arc<Mutex<Waiting<K>>>,
}

/// Who waits for each key.
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

/// What one who waits has not been told yet.
#[derive(Debug)]
struct News<K> {
    of: Mutex<BTreeSet<K>>,
    some: Notify,
}

impl<K: Ord + Copy> News<K> {
    fn add(&self, key: K) {
        self.lock().insert(key);
        self.some.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<K>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits for news of some keys.
#[derive(Debug)]
pub(crate) struct Watcher<K: Ord + Copy> {
    watches: WatchList<K>,
    keys: BTreeSet<K>,
    news: Arc<News<K>>,
}

impl<K: Ord + Copy> Watcher<K> {
    /// Waits for news; returns what there is news of. Cancel safe.
    pub(crate) async fn changed(&mut self) -> BTreeSet<K> {
        loop {
            let changed = std::mem::take(&mut *self.news.lock());
            if !changed.is_empty() {
                return changed;
            }
            self.news.some.notified().await;
        }
    }

    /// Waits no more for news of one.
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
    /// Waits for news of some keys. Subscribe first, then look, then wait: so nothing falls in between.
    pub(crate) fn subscribe(&self, keys: impl IntoIterator<Item = K>) -> Watcher<K> {
        let keys: BTreeSet<K> = keys.into_iter().collect();
        let news = Arc::new(News { of: Mutex::default(), some: Notify::new() });
        let mut waiting = self.lock();
        for key in &keys {
            waiting.entry(*key).or_default().push(news.clone());
        }
        drop(waiting);
        Watcher { watches: self.clone(), keys, news }
    }

    /// Tells whoever waits for news of a key.
    pub(crate) fn notify(&self, key: K) {
        if let Some(waiting) = self.lock().get(&key) {
            waiting.iter().for_each(|news| news.add(key));
        }
    }

    /// Tells everybody to look: some news was lost.
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
    async fn each_hears_of_its_own_keys_and_nothing_is_left_of_those_that_went() {
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
