//! Compares the workers that a provider has with the workers that the store ordered.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{OrderId, WorkerId};
use crate::port::ProvidedWorker;
use crate::worker::Worker;

/// A difference between the provider and the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The provider has a worker without an open order: destroy it.
    Orphan(WorkerId),
    /// The store ordered a worker that the provider does not have: it is lost.
    Missing {
        /// The worker.
        worker: WorkerId,
        /// The provider's reason.
        why: String,
    },
}

/// Compares `listed` with `live`. Take the listing before reading the orders, so that a worker created in between is
/// not taken for an orphan.
///
/// A worker is missing when its creation was confirmed, it has no stream, and either the provider says that it exited
/// or it is absent from this listing and from the one before (`absent_before`). Returns the differences, and the
/// workers that are absent for the first time.
pub fn compare(
    listed: &[ProvidedWorker],
    live: &[&Worker],
    has_stream: impl Fn(WorkerId) -> bool,
    absent_before: &BTreeSet<WorkerId>,
) -> (Vec<Difference>, BTreeSet<WorkerId>) {
    let open: BTreeSet<OrderId> = live.iter().map(|worker| worker.order().id).collect();
    let there: BTreeMap<WorkerId, &ProvidedWorker> = listed.iter().map(|item| (item.worker, item)).collect();
    let mut differences: Vec<Difference> = listed
        .iter()
        .filter(|item| !open.contains(&item.order))
        .map(|item| Difference::Orphan(item.worker))
        .collect();
    let mut absent = BTreeSet::new();
    for worker in live.iter().filter(|worker| worker.reference().is_some() && !has_stream(worker.id())) {
        let id = worker.id();
        match there.get(&id) {
            Some(ProvidedWorker { exited: Some(why), .. }) => {
                differences.push(Difference::Missing { worker: id, why: why.clone() });
            }
            Some(_) => {}
            None if absent_before.contains(&id) => {
                differences
                    .push(Difference::Missing { worker: id, why: "its provider does not have it".into() });
            }
            None => {
                absent.insert(id);
            }
        }
    }
    (differences, absent)
}
