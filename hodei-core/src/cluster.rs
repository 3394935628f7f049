//! One daemon's view of the other daemons of its store: which are alive, and which leases and streams they hold.
//!
//! No clock of another machine is trusted: a watcher takes a daemon for dead once it has seen the same beat count for
//! one whole lease, while all its own reads of the store succeeded.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::{DaemonId, WorkerId};
use crate::port::{Cluster, DaemonBeat, Epoch, Lease};
use crate::queue::QueueStatus;
use crate::worker::LeaseWatch;

/// One daemon's memory of the other daemons. Times are of its monotonic clock.
#[derive(Debug)]
pub struct ClusterWatch {
    own: DaemonId,
    /// Whether this daemon has the store for itself: any other lease holder is gone.
    exclusive: bool,
    lease: Duration,
    seen: Cluster,
    watches: BTreeMap<DaemonId, LeaseWatch>,
    /// Workers whose streams other daemons hold.
    elsewhere: BTreeSet<WorkerId>,
    /// Number of reads of the store that failed or were late.
    blinds: u64,
    /// Number of reads that differed from the read before.
    changes: u64,
    standing: Standing,
    /// Workers whose streams other daemons reported between two reads, and when.
    heard: BTreeMap<WorkerId, Duration>,
}

/// The state of the other daemons at the last read.
#[derive(Debug, Default, PartialEq)]
struct Standing {
    dead: Vec<DaemonId>,
    urls: Vec<String>,
    holders: Vec<(String, Option<DaemonId>)>,
}

impl ClusterWatch {
    /// Starts to watch; a daemon counts as dead after `lease` without a beat.
    pub fn new(own: DaemonId, exclusive: bool, lease: Duration) -> Self {
        Self {
            own,
            exclusive,
            lease,
            seen: Cluster::default(),
            watches: BTreeMap::new(),
            elsewhere: BTreeSet::new(),
            blinds: 0,
            changes: 0,
            standing: Standing::default(),
            heard: BTreeMap::new(),
        }
    }

    /// Records a read of the store.
    pub fn observe(&mut self, cluster: Cluster, now: Duration) {
        self.seen = cluster;
        let beats: BTreeMap<DaemonId, u64> =
            self.seen.daemons.iter().map(|beat| (beat.daemon, beat.beats)).collect();
        // Every lease holder is watched, also one without a beat.
        let holders = self.seen.leases.iter().filter_map(|lease| lease.holder);
        let watched: BTreeSet<DaemonId> = holders.chain(beats.keys().copied()).collect();
        self.watches.retain(|daemon, _| watched.contains(daemon));
        for daemon in watched {
            let beats = beats.get(&daemon).copied().unwrap_or(0);
            self.watches.entry(daemon).or_insert_with(|| LeaseWatch::begin(beats, now)).observe(beats, now);
        }
        let elsewhere = self.others().flat_map(|beat| beat.streams.iter().map(|(worker, _)| *worker));
        let elsewhere: BTreeSet<WorkerId> = elsewhere.collect();
        let holders = self.seen.leases.iter().map(|lease| (lease.name.clone(), lease.holder)).collect();
        let standing = Standing { dead: self.dead(now), urls: self.urls(now), holders };
        if elsewhere != self.elsewhere || standing != self.standing {
            (self.elsewhere, self.standing) = (elsewhere, standing);
            self.changes += 1;
        }
        self.heard.retain(|_, heard| *heard + self.lease > now);
    }

    /// Records that a read failed or was late: earlier reads prove nothing about which daemons are alive.
    pub fn blind(&mut self) {
        self.watches.clear();
        self.blinds += 1;
    }

    /// Number of reads that failed or were late. A watch that is based on these reads restarts when it rises.
    pub fn blinds(&self) -> u64 {
        self.blinds
    }

    /// Number of reads that saw a daemon appear, gain or lose a lease or stream, or die.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Records a message from a worker whose stream another daemon holds.
    pub fn hear(&mut self, worker: WorkerId, now: Duration) {
        self.heard.insert(worker, now);
    }

    /// Returns the epoch of a lease that may be taken now; `None` while a daemon that may be alive holds it.
    pub fn free(&self, name: &str, now: Duration) -> Option<Epoch> {
        let Some(lease) = self.lease(name) else { return Some(Epoch(0)) };
        lease.holder.is_none_or(|holder| self.is_dead(holder, now)).then_some(lease.epoch)
    }

    /// Whether a daemon that may be alive holds a lease.
    pub fn is_held(&self, name: &str, now: Duration) -> bool {
        self.holder(name).is_some_and(|holder| !self.is_dead(holder, now))
    }

    /// Whether this daemon holds a lease.
    pub fn holds(&self, name: &str) -> bool {
        self.holder(name) == Some(self.own)
    }

    /// Whether another daemon has taken a lease since this daemon took it with `epoch`.
    pub fn is_lost(&self, name: &str, epoch: Epoch) -> bool {
        self.lease(name).is_some_and(|lease| {
            lease.epoch > epoch || (lease.epoch == epoch && lease.holder != Some(self.own))
        })
    }

    /// Whether another daemon is known to hold the stream of a worker.
    pub fn has_stream(&self, worker: WorkerId) -> bool {
        self.elsewhere.contains(&worker) || self.heard.contains_key(&worker)
    }

    /// Returns the queue status that the holder of a lease reports, if that is another daemon.
    pub fn queue_of_holder(&self, name: &str) -> Option<&QueueStatus> {
        let holder = self.holder(name)?;
        self.others().find(|beat| beat.daemon == holder)?.queue.as_ref()
    }

    /// Returns the lease renewals of each worker whose stream another daemon holds, as that daemon reports them.
    pub fn renewals(&self) -> impl Iterator<Item = (WorkerId, u64)> {
        self.others().flat_map(|beat| beat.streams.iter().copied())
    }

    /// Returns the URLs of the daemons that may be alive, in the order of their ids.
    pub fn urls(&self, now: Duration) -> Vec<String> {
        let alive = self.seen.daemons.iter().filter(|beat| !self.is_dead(beat.daemon, now));
        alive.filter_map(|beat| beat.url.clone()).collect()
    }

    /// Returns the daemons that are dead.
    pub fn dead(&self, now: Duration) -> Vec<DaemonId> {
        self.others().map(|beat| beat.daemon).filter(|daemon| self.is_dead(*daemon, now)).collect()
    }

    /// Whether every other known daemon is dead.
    pub fn is_alone(&self, now: Duration) -> bool {
        self.others().all(|beat| self.is_dead(beat.daemon, now))
    }

    fn lease(&self, name: &str) -> Option<&Lease> {
        self.seen.leases.iter().find(|lease| lease.name == name)
    }

    fn holder(&self, name: &str) -> Option<DaemonId> {
        self.lease(name)?.holder
    }

    fn others(&self) -> impl Iterator<Item = &DaemonBeat> {
        self.seen.daemons.iter().filter(|beat| beat.daemon != self.own)
    }

    fn is_dead(&self, daemon: DaemonId, now: Duration) -> bool {
        if daemon == self.own {
            return false;
        }
        self.exclusive || self.watches.get(&daemon).is_some_and(|watch| watch.is_silent(self.lease, now))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn daemon(number: u128) -> DaemonId {
        DaemonId::from_uuid(Uuid::from_u128(number))
    }

    fn cluster(beats: &[(u128, u64)], holder: Option<u128>) -> Cluster {
        let beat = |(number, beats): &(u128, u64)| DaemonBeat {
            daemon: daemon(*number),
            beats: *beats,
            url: Some(format!("http://{number}")),
            streams: vec![(WorkerId::from_uuid(Uuid::from_u128(100 + number)), *beats)],
            queue: None,
        };
        let lease = Lease { name: "l".into(), epoch: Epoch(3), holder: holder.map(daemon) };
        Cluster { daemons: beats.iter().map(beat).collect(), leases: vec![lease] }
    }

    const fn second(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_is_free_once_its_holder_is_silent_for_a_whole_lease() {
        let mut watch = ClusterWatch::new(daemon(1), false, second(5));
        assert_eq!(watch.free("l", second(0)), Some(Epoch(0)), "it was never taken");
        watch.observe(cluster(&[(1, 1), (2, 7)], Some(2)), second(10));
        assert_eq!((watch.free("l", second(14)), watch.is_held("l", second(14))), (None, true));
        watch.observe(cluster(&[(1, 2), (2, 8)], Some(2)), second(14));
        assert_eq!(
            (watch.free("l", second(18)), watch.is_alone(second(18))),
            (None, false),
            "the holder is alive"
        );
        watch.observe(cluster(&[(1, 3), (2, 8)], Some(2)), second(18));
        assert_eq!((watch.free("l", second(19)), watch.is_held("l", second(19))), (Some(Epoch(3)), false));
        assert_eq!(
            (watch.dead(second(19)), watch.urls(second(19))),
            (vec![daemon(2)], vec!["http://1".into()])
        );
        assert!(watch.is_alone(second(19)));
    }

    #[test]
    fn a_watch_restarts_after_a_failed_read() {
        let mut watch = ClusterWatch::new(daemon(1), false, second(5));
        watch.observe(cluster(&[(2, 7)], Some(2)), second(10));
        watch.blind();
        assert_eq!(watch.free("l", second(30)), None);
        watch.observe(cluster(&[(2, 7)], Some(2)), second(30));
        assert_eq!((watch.free("l", second(34)), watch.free("l", second(35))), (None, Some(Epoch(3))));
    }

    #[test]
    fn a_holder_without_a_beat_keeps_its_lease_for_a_whole_lease() {
        let mut watch = ClusterWatch::new(daemon(1), false, second(5));
        watch.observe(cluster(&[], Some(2)), second(10));
        assert_eq!((watch.free("l", second(14)), watch.free("l", second(15))), (None, Some(Epoch(3))));
    }

    #[test]
    fn a_lease_is_lost_to_a_later_epoch_or_another_holder() {
        let mut watch = ClusterWatch::new(daemon(1), false, second(5));
        assert!(!watch.is_lost("l", Epoch(1)), "not seen yet");
        watch.observe(cluster(&[], Some(1)), second(1));
        assert!(
            !watch.is_lost("l", Epoch(3)) && !watch.is_lost("l", Epoch(4)) && watch.is_lost("l", Epoch(2))
        );
        assert_eq!(watch.free("l", second(100)), None, "a lease of this daemon is not free");
        watch.observe(cluster(&[], None), second(1));
        assert!(watch.is_lost("l", Epoch(3)));
        assert_eq!(watch.free("l", second(1)), Some(Epoch(3)), "given back");
    }

    #[test]
    fn a_daemon_with_an_exclusive_store_takes_leases_at_once() {
        let mut watch = ClusterWatch::new(daemon(1), true, second(5));
        watch.observe(cluster(&[(2, 7)], Some(2)), second(10));
        assert_eq!(watch.free("l", second(10)), Some(Epoch(3)));
    }

    #[test]
    fn a_stream_of_another_daemon_is_known_by_its_beat_or_by_a_message() {
        let worker = |number| WorkerId::from_uuid(Uuid::from_u128(number));
        let mut watch = ClusterWatch::new(daemon(1), false, second(5));
        watch.observe(cluster(&[(1, 1), (2, 7)], None), second(10));
        assert!(
            watch.has_stream(worker(102)) && !watch.has_stream(worker(101)),
            "a stream of this daemon does not count"
        );
        assert_eq!(watch.renewals().collect::<Vec<_>>(), [(worker(102), 7)]);
        watch.hear(worker(9), second(10));
        watch.observe(cluster(&[(2, 8)], None), second(14));
        assert!(watch.has_stream(worker(9)));
        watch.observe(cluster(&[(2, 8)], None), second(15));
        assert!(!watch.has_stream(worker(9)));
    }
}
