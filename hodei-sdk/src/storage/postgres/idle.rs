//! Idle connections, kept outside of the driver's pool. The connection that was returned last is reused first, because
//! its process has recently read data at hand. The driver's pool would rotate through all of its connections and ping
//! each returned one, which wakes two processes once more per statement (docs/decisions/0010).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, Postgres};

/// Idle connections of one pool. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct IdleConnections {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    connections: Vec<(Held, Duration)>,
    /// Number of callers that wait for a connection.
    wanted: usize,
}

impl Drop for State {
    /// Drops the connections without the pool, which would need a runtime that may be gone.
    fn drop(&mut self) {
        self.connections.drain(..).for_each(|(held, _)| drop(held.connection.detach()));
    }
}

/// A connection that was taken from the pool.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) connection: PoolConnection<Postgres>,
    /// Time of taking it, on the monotonic clock.
    taken_at: Duration,
}

impl Held {
    /// Creates a connection that goes straight back to its pool.
    pub(super) fn once(connection: PoolConnection<Postgres>) -> Self {
        Self { connection, taken_at: Duration::ZERO }
    }
}

/// Time after which a connection goes back to the pool, which closes old and superfluous ones.
const MAX_IDLE_TIME: Duration = Duration::from_secs(60);

impl IdleConnections {
    /// Returns an idle connection, or else one from the pool. Cancel safe.
    pub(super) async fn take(&self, pool: &PgPool, now: Duration) -> Result<Held, sqlx::Error> {
        let _wanted = {
            let mut state = self.lock();
            state.connections.retain(|(_, since)| now.saturating_sub(*since) < MAX_IDLE_TIME);
            if let Some((held, _)) = state.connections.pop() {
                return Ok(held);
            }
            state.wanted += 1;
            Wanted(self)
        };
        Ok(Held { connection: pool.acquire().await?, taken_at: now })
    }

    /// Keeps the connection, unless a caller waits for the pool or its time is over.
    pub(super) fn give_back(&self, held: Held, now: Duration) {
        let mut state = self.lock();
        if state.wanted == 0 && now.saturating_sub(held.taken_at) < MAX_IDLE_TIME {
            state.connections.push((held, now));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A waiting caller.
struct Wanted<'a>(&'a IdleConnections);

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.lock().wanted -= 1;
    }
}
