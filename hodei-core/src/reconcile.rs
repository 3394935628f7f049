//! What a provider has against what the store ordered.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{OrderId, WorkerId};
use crate::port::ProvidedWorker;
use crate::worker::Worker;

/// What to do about a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The provider has it and no open order wants it: destroy it.
    Orphan(WorkerId),
    /// The store wants it and the provider does not have it: it is lost.
    Missing {
        /// The worker.
        worker: WorkerId,
        /// What the provider says of it.
        why: String,
    },
}

/// Compares; the listing must be older than the orders, so that what was created in between is no orphan.
///
/// A worker is missing only when its creation was confirmed, it is absent from this list and from the one
/// before (`absent_before`), and it has no stream. Returns the differences and those absent now.
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
