use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Wakes whoever waits for one thing, by its key: a job for its next version, a log for its next record.
#[derive(Debug)]
pub(crate) struct Watches<K, V> {
    waiting: Arc<Mutex<BTreeMap<K, watch::Sender<V>>>>,
}

impl<K, V> Clone for Watches<K, V> {
    fn clone(&self) -> Self {
        Self { waiting: self.waiting.clone() }
    }
}

impl<K, V> Default for Watches<K, V> {
    fn default() -> Self {
        Self { waiting: Arc::default() }
    }
}

/// One who waits; when the last of a key goes, the key is forgotten.
#[derive(Debug)]
pub(crate) struct Watcher<K: Ord, V> {
    watches: Watches<K, V>,
    key: K,
    receiver: watch::Receiver<V>,
}

impl<K: Ord, V> Watcher<K, V> {
    /// Waits for news; an error when none will come under this subscription. Cancel safe.
    pub(crate) async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.receiver.changed().await
    }

    /// What comes from now on is news.
    pub(crate) fn catch_up(&mut self) {
        self.receiver.mark_unchanged();
    }
}

impl<K: Ord, V> Drop for Watcher<K, V> {
    fn drop(&mut self) {
        let mut waiting = self.watches.lock();
        if waiting.get(&self.key).is_some_and(|sender| sender.receiver_count() <= 1) {
            waiting.remove(&self.key);
        }
    }
}

impl<K: Ord, V> Watches<K, V> {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, watch::Sender<V>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord + Copy, V: Default + PartialOrd> Watches<K, V> {
    /// Waits for news of `key`. Subscribe first, then look, then wait: so nothing falls in between.
    pub(crate) fn subscribe(&self, key: K) -> Watcher<K, V> {
        let receiver = self.lock().entry(key).or_insert_with(|| watch::channel(V::default()).0).subscribe();
        Watcher { watches: self.clone(), key, receiver }
    }

    /// Tells whoever waits to look, whatever he has seen.
    pub(crate) fn touch(&self, key: K) {
        if let Some(sender) = self.lock().get(&key) {
            sender.send_modify(|_| {});
        }
    }

    /// Tells whoever waits; `last` forgets the key.
    pub(crate) fn notify(&self, key: K, value: V, last: bool) {
        let mut waiting = self.lock();
        let Some(sender) = waiting.get(&key) else { return };
        sender.send_if_modified(|seen| {
            let newer = value > *seen;
            if newer {
                *seen = value;
            }
            newer
        });
        if last || sender.receiver_count() == 0 {
            waiting.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_that_nobody_waits_for_is_forgotten() {
        let watches: Watches<u32, u64> = Watches::default();
        let (mut one, two) = (watches.subscribe(1), watches.subscribe(1));
        drop(two);
        watches.notify(1, 5, false);
        one.changed().await.unwrap();
        drop(one);
        assert!(watches.lock().is_empty());
    }
}
