//! Daemons of a database, and their leases.

use async_trait::async_trait;
use hodei_core::id::{DaemonId, WorkerId};
use hodei_core::port::{Cluster, DaemonBeat, Epoch, Lease, LeaseStore, StoreError};
use uuid::Uuid;

use super::PostgresStore;
use super::connection::Database;
use super::row;
use crate::storage::shared::column;

/// Stores a beat and reads all beats, in one statement: see the port.
async fn note_beat(database: &Database, beat: &DaemonBeat) -> Result<Cluster, StoreError> {
    let (workers, renewals): (Vec<Uuid>, Vec<i64>) =
        beat.streams.iter().map(|(worker, renewals)| (worker.as_uuid(), column::int(*renewals))).unzip();
    let queue = beat.queue.as_ref().map(column::json).transpose()?;
    // A statement does not see its own writes.
    let sql = "
        WITH said AS (INSERT INTO hodei.daemons (id, beats, url, workers, renewals, queue) VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT (id) DO UPDATE SET beats = excluded.beats, url = excluded.url,
            workers = excluded.workers, renewals = excluded.renewals, queue = excluded.queue)
        SELECT NULL, id, beats, url, workers, renewals, queue FROM hodei.daemons WHERE id <> $1
        UNION ALL SELECT name, holder, epoch, NULL, NULL, NULL, NULL FROM hodei.leases";
    let query = || {
        let query = sqlx::query(sql).bind(beat.daemon.as_uuid()).bind(column::int(beat.beats));
        query.bind(&beat.url).bind(&workers).bind(&renewals).bind(&queue)
    };
    let mut cluster = Cluster { daemons: vec![beat.clone()], leases: Vec::new() };
    for found in database.read(query).await? {
        let (name, id): (Option<String>, Option<Uuid>) = (row::get(&found, 0)?, row::get(&found, 1)?);
        let (number, daemon): (i64, _) = (row::get(&found, 2)?, id.map(DaemonId::from_uuid));
        match (name, daemon) {
            (Some(name), holder) => cluster.leases.push(Lease { name, epoch: epoch(number), holder }),
            (None, Some(daemon)) => {
                let (workers, renewals): (Vec<Uuid>, Vec<i64>) = (row::get(&found, 4)?, row::get(&found, 5)?);
                let queue: Option<&str> = row::get(&found, 6)?;
                let renewals = renewals.into_iter().map(i64::unsigned_abs);
                cluster.daemons.push(DaemonBeat {
                    daemon,
                    beats: number.unsigned_abs(),
                    url: row::get(&found, 3)?,
                    queue: queue.map(column::parse).transpose()?,
                    streams: workers.into_iter().map(WorkerId::from_uuid).zip(renewals).collect(),
                });
            }
            (None, None) => {}
        }
    }
    cluster.daemons.sort_by_key(|beat| beat.daemon);
    cluster.leases.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(cluster)
}

/// Takes a lease: see the port. When retried after a broken connection, it finds that it has the lease.
async fn take(
    database: &Database,
    name: &str,
    seen: Epoch,
    holder: DaemonId,
) -> Result<Option<Epoch>, StoreError> {
    let sql = "
        WITH taken AS (INSERT INTO hodei.leases AS held (name, epoch, holder) VALUES ($1, $2 + 1, $3)
            ON CONFLICT (name) DO UPDATE SET epoch = $2 + 1, holder = $3 WHERE held.epoch = $2 RETURNING epoch)
        SELECT epoch FROM taken
        UNION ALL SELECT epoch FROM hodei.leases WHERE name = $1 AND epoch = $2 + 1 AND holder = $3";
    let query = || sqlx::query(sql).bind(name).bind(i64::from(seen.0)).bind(holder.as_uuid());
    let rows = database.read(query).await?;
    rows.first().map(|found| row::get(found, 0).map(epoch)).transpose()
}

/// Removes a daemon: see the port.
async fn leave(database: &Database, daemon: DaemonId) -> Result<(), StoreError> {
    let sql = "WITH gone AS (DELETE FROM hodei.daemons WHERE id = $1) \
               UPDATE hodei.leases SET holder = NULL WHERE holder = $1";
    database.read(|| sqlx::query(sql).bind(daemon.as_uuid())).await.map(drop)
}

fn epoch(number: i64) -> Epoch {
    Epoch(u32::try_from(number).unwrap_or(u32::MAX))
}

#[async_trait]
impl LeaseStore for PostgresStore {
    fn is_exclusive(&self) -> bool {
        false
    }

    async fn beat(&self, beat: &DaemonBeat) -> Result<Cluster, StoreError> {
        note_beat(&self.database, beat).await
    }

    async fn take_lease(
        &self,
        name: &str,
        seen: Epoch,
        holder: DaemonId,
    ) -> Result<Option<Epoch>, StoreError> {
        take(&self.database, name, seen, holder).await
    }

    async fn leave(&self, daemon: DaemonId) -> Result<(), StoreError> {
        leave(&self.database, daemon).await
    }
}
