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

impl<K: Ord + Copy, V: Default + PartialOrd> Watches<K, V> {
    /// Waits for news of `key`. Subscribe first, then look, then wait: so nothing falls in between.
    pub(crate) fn subscribe(&self, key: K) -> watch::Receiver<V> {
        self.lock().entry(key).or_insert_with(|| watch::channel(V::default()).0).subscribe()
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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, watch::Sender<V>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
