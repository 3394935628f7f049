//! Conformance checks of daemons and leases in a store.

use hodei_core::id::{DaemonId, WorkerId};
use hodei_core::port::{COORDINATOR_LEASE, DaemonBeat, Epoch, Fence, Lease, Store, StoreError};

use hodei_core::scheduling::{QueueStatus, WaitCause, WaitingClass};

use super::world::{Maker, command};

fn daemon(maker: &Maker) -> DaemonId {
    DaemonId::from_uuid(maker.uuid())
}

fn beat(daemon: DaemonId, beats: u64) -> DaemonBeat {
    DaemonBeat { daemon, beats, url: None, streams: Vec::new(), queue: None }
}

async fn take(store: &dyn Store, name: &str, seen: u32, holder: DaemonId) -> Option<Epoch> {
    store.take_lease(name, Epoch(seen), holder).await.expect("an answer")
}

pub(super) async fn only_the_newest_epoch_may_plan(maker: &Maker, store: &dyn Store) {
    let (one, other) = (daemon(maker), daemon(maker));
    let old = take(store, COORDINATOR_LEASE, 0, one).await.expect("the lease is free");
    let new =
        take(store, COORDINATOR_LEASE, old.0, other).await.expect("a lease can be taken from its holder");
    assert!(old < new && old > Epoch(0));
    let write = maker.write(&maker.submit("t", command()));
    match store.commit(Fence::Plan(old), std::slice::from_ref(&write)).await {
        Err(StoreError::StaleEpoch { current }) => assert_eq!(current, new),
        other => panic!("a stale plan gave {other:?}"),
    }
    let left = store.open_jobs(None, 10).await.expect("a read");
    assert_eq!(left, [], "a stale plan stores no job");
    let outcomes = store.commit(Fence::Plan(new), &[write]).await.expect("a commit");
    assert_eq!(outcomes, [Ok(())]);
}

pub(super) async fn a_lease_has_one_holder(maker: &Maker, store: &dyn Store) {
    let (one, other) = (daemon(maker), daemon(maker));
    assert_eq!(take(store, "a", 0, one).await, Some(Epoch(1)));
    assert_eq!(take(store, "a", 0, other).await, None, "another daemon was faster");
    assert_eq!(take(store, "b", 0, other).await, Some(Epoch(1)), "leases are independent");
    let lease = |name: &str, epoch, holder| Lease { name: name.to_owned(), epoch: Epoch(epoch), holder };
    let seen = store.beat(&beat(one, 1)).await.expect("an answer").leases;
    assert_eq!(seen, [lease("a", 1, Some(one)), lease("b", 1, Some(other))]);
    assert_eq!(take(store, "a", 1, other).await, Some(Epoch(2)));
    store.leave(other).await.expect("an end");
    let seen = store.beat(&beat(one, 2)).await.expect("an answer").leases;
    assert_eq!(seen, [lease("a", 2, None), lease("b", 1, None)], "free, with their epochs");
    assert_eq!(take(store, "b", 0, one).await, None, "an epoch is never used twice");
    assert_eq!(take(store, "b", 1, one).await, Some(Epoch(2)));
    store.leave(other).await.expect("nothing to do");
    assert_eq!(store.beat(&beat(one, 3)).await.expect("an answer").leases[1].holder, Some(one));
}

pub(super) async fn daemons_know_each_other(maker: &Maker, store: &dyn Store) {
    let head = hodei_core::id::JobId::from_uuid(maker.uuid());
    let waiting = WaitingClass { head: Some(head), jobs: 2, cause: WaitCause::Provisioning };
    let [one, other] = [1, 1].map(|beats| DaemonBeat {
        url: Some("http://127.0.0.1:1".into()),
        streams: vec![(WorkerId::from_uuid(maker.uuid()), 7), (WorkerId::from_uuid(maker.uuid()), 0)],
        queue: Some(QueueStatus {
            fault: Some("a fault".into()),
            queued: 2,
            open: 3,
            waiting: vec![waiting.clone()],
            ..QueueStatus::default()
        }),
        ..beat(daemon(maker), beats)
    });
    assert_eq!(store.beat(&one).await.expect("an answer").daemons, std::slice::from_ref(&one));
    let known = |mut daemons: Vec<DaemonBeat>| {
        daemons.sort_by_key(|beat| beat.daemon);
        daemons
    };
    let seen = store.beat(&other).await.expect("an answer").daemons;
    assert_eq!(seen, known(vec![one.clone(), other.clone()]));
    // A beat replaces the daemon's previous one.
    let later = beat(one.daemon, 2);
    let seen = store.beat(&later).await.expect("an answer").daemons;
    assert_eq!(seen, known(vec![later.clone(), other.clone()]));
    let seen = store.beat(&other).await.expect("an answer").daemons;
    assert_eq!(seen, known(vec![later, other.clone()]));
    store.leave(one.daemon).await.expect("an end");
    assert_eq!(store.beat(&other).await.expect("an answer").daemons, [other]);
}
