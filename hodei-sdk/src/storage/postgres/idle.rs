//! Connections that wait for the next caller. The one that came back last goes first: its process has at hand what it
//! just read. The pool of the driver takes all of its connections in turn, and asks each that comes back how it is,
//! which wakes two processes once more for every statement (docs/decisions/0010).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, Postgres};

/// Those of one pool. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct IdleConnections {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    connections: Vec<(Held, Duration)>,
    /// Callers that wait for one.
    wanted: usize,
}

impl Drop for State {
    /// Without the pool, which would want a runtime, and that may have gone.
    fn drop(&mut self) {
        self.connections.drain(..).for_each(|(held, _)| drop(held.connection.detach()));
    }
}

/// A connection that was taken from the pool.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) connection: PoolConnection<Postgres>,
    /// On the monotonic clock.
    taken_at: Duration,
}

impl Held {
    /// One that goes straight back to its pool.
    pub(super) fn once(connection: PoolConnection<Postgres>) -> Self {
        Self { connection, taken_at: Duration::ZERO }
    }
}

/// After so long a connection goes back to the pool, which closes those that are old or that nobody needs.
const KEPT: Duration = Duration::from_secs(60);

impl IdleConnections {
    /// A connection: one that waits, else of the pool. Cancel safe.
    pub(super) async fn take(&self, pool: &PgPool, now: Duration) -> Result<Held, sqlx::Error> {
        let _wanted = {
            let mut state = self.lock();
            state.connections.retain(|(_, since)| now.saturating_sub(*since) < KEPT);
            if let Some((held, _)) = state.connections.pop() {
                return Ok(held);
            }
            state.wanted += 1;
            Wanted(self)
        };
        Ok(Held { connection: pool.acquire().await?, taken_at: now })
    }

    /// Has it wait here, unless somebody waits for it or its time is over.
    pub(super) fn give_back(&self, held: Held, now: Duration) {
        let mut state = self.lock();
        if state.wanted == 0 && now.saturating_sub(held.taken_at) < KEPT {
            state.connections.push((held, now));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller that waits.
struct Wanted<'a>(&'a IdleConnections);

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.lock().wanted -= 1;
    }
}
