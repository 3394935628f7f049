//! The connections to a database, and what becomes of a call when one breaks.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hodei_core::port::{Clock, ClockExt, StoreError};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::{ConnectOptions, Executor, Postgres};

use super::Query;
use crate::clock::SystemClock;
use crate::error::OpenError;

/// The pool, and the limits of what is done with it.
#[derive(Debug, Clone)]
pub(super) struct Database {
    pool: PgPool,
    is_own: bool,
    clock: Arc<dyn Clock>,
}

/// Connections of a pool that is not the caller's.
pub(super) const CONNECTIONS: u32 = 8;
/// How long a call waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(5);
/// How long a statement may take: a database that is gone without a word ends no connection.
const STATEMENT: Duration = Duration::from_secs(30);
/// Connections that may be found broken before a read fails: after a restart of the database all are.
const BROKEN: u32 = CONNECTIONS + 2;

impl Database {
    /// Connects to the database of a URL.
    pub(super) async fn connect(url: &str, connections: u32) -> Result<Self, OpenError> {
        let options = PgConnectOptions::from_str(url).map_err(|error| OpenError::Database {
            what: "the URL of the database".into(),
            why: error.to_string(),
        })?;
        let options = options.application_name("hodei").disable_statement_logging();
        let what = name(&options);
        // Once without the pool, which would try again for as long as it waits.
        let first = SystemClock::default().timeout(ACQUIRE, options.connect()).await;
        match first {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(open_error(&what, &error)),
            Err(_) => {
                return Err(OpenError::Database {
                    what,
                    why: format!("it did not answer within {ACQUIRE:?}"),
                });
            }
        }
        Ok(Self { is_own: true, ..Self::of(pool(options, connections)) })
    }

    /// Uses a pool of the caller's.
    pub(super) fn of(pool: PgPool) -> Self {
        Self { pool, is_own: false, clock: Arc::new(SystemClock::default()) }
    }

    /// The same database by a pool of its own; by the same one, where that is the caller's.
    pub(super) fn beside(&self, connections: u32) -> Self {
        if !self.is_own {
            return self.clone();
        }
        Self { pool: pool((*self.pool.connect_options()).clone(), connections), ..self.clone() }
    }

    /// What to call it.
    pub(super) fn name(&self) -> String {
        name(&self.pool.connect_options())
    }

    /// The rows of a query that changes nothing: it is made again on another connection when one is broken.
    pub(super) async fn read<'q>(&self, query: impl Fn() -> Query<'q>) -> Result<Vec<PgRow>, StoreError> {
        let mut broken = 0;
        loop {
            let mut turn = self.turn().await?;
            match turn.rows(query()).await {
                Ok(rows) => {
                    turn.end();
                    return Ok(rows);
                }
                Err(error) if is_broken(&error) && broken < BROKEN => broken += 1,
                Err(error) => return Err(store_error(error)),
            }
        }
    }

    /// A connection for one caller.
    pub(super) async fn turn(&self) -> Result<Turn<'_>, StoreError> {
        let connection = self.pool.acquire().await.map_err(store_error)?;
        Ok(Turn { connection, clock: &*self.clock, whole: false })
    }

    /// Waits between two looks.
    pub(super) async fn sleep(&self, wait: Duration) {
        self.clock.sleep(wait).await;
    }
}

fn pool(options: PgConnectOptions, connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE)
        .test_before_acquire(false)
        .connect_lazy_with(options)
}

/// A connection, held by one caller. Nobody knows where one stands that was left in the middle, or that failed: it is
/// closed.
pub(super) struct Turn<'a> {
    connection: PoolConnection<Postgres>,
    clock: &'a dyn Clock,
    whole: bool,
}

impl Turn<'_> {
    /// Runs statements without parameters.
    pub(super) async fn run(&mut self, statements: &'static str) -> Result<(), sqlx::Error> {
        let run = self.connection.execute(sqlx::raw_sql(statements));
        self.clock.timeout(STATEMENT, run).await.map_err(|_| silent())?.map(drop)
    }

    /// Runs a query.
    pub(super) async fn rows(&mut self, query: Query<'_>) -> Result<Vec<PgRow>, sqlx::Error> {
        let rows = query.fetch_all(&mut *self.connection);
        self.clock.timeout(STATEMENT, rows).await.map_err(|_| silent())?
    }

    /// The connection stands outside of any transaction, and may be used again.
    pub(super) fn end(mut self) {
        self.whole = true;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.whole {
            self.connection.close_on_drop();
        }
    }
}

fn silent() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        format!("the database did not answer within {STATEMENT:?}"),
    ))
}

fn name(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    format!("the database `{database}` at {}:{}", options.get_host(), options.get_port())
}

/// PostgreSQL's error codes (<https://www.postgresql.org/docs/15/errcodes-appendix.html>).
mod code {
    pub(super) const READ_ONLY: &str = "25006";
    pub(super) const PASSWORD: [&str; 2] = ["28P01", "28000"];
    pub(super) const NO_DATABASE: &str = "3D000";
    pub(super) const NO_RIGHT: &str = "42501";
    pub(super) const NO_TABLE: [&str; 2] = ["42P01", "3F000"];
    pub(super) const UNIQUE: &str = "23505";
    /// Classes and codes of what passes by itself: connections, resources, conflicts, locks, an operator's command.
    pub(super) const PASSING: [&str; 8] = ["08", "53", "40", "55P03", "57", "25006", "25P03", "58"];
}

fn code_of(error: &sqlx::Error) -> String {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.map_or_else(String::new, std::borrow::Cow::into_owned)
}

/// Whether the connection, and not the statement, is at fault.
pub(super) fn is_broken(error: &sqlx::Error) -> bool {
    let code = code_of(error);
    matches!(error, sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::Tls(_))
        || code.starts_with("57P")
        || code == code::READ_ONLY
}

/// Whether somebody else wrote the same new row.
pub(super) fn is_unique(error: &sqlx::Error) -> bool {
    code_of(error) == code::UNIQUE
}

/// Why a database did nothing, in the words of the port. What passes by itself is told from what does not.
pub(super) fn store_error(error: sqlx::Error) -> StoreError {
    let code = code_of(&error);
    let passes = is_broken(&error)
        || matches!(error, sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed)
        || code::PASSING.iter().any(|class| code.starts_with(class));
    if passes {
        StoreError::Unavailable { retry_after: Duration::from_secs(1), why: error.to_string() }
    } else {
        StoreError::Other(error.into())
    }
}

/// Why a database cannot be used from the start, and what to do about it.
pub(super) fn open_error(what: &str, error: &sqlx::Error) -> OpenError {
    let code = code_of(error);
    let hint = match code.as_str() {
        code::NO_DATABASE => "; make it with `createdb`, or name another in the URL",
        code::NO_RIGHT => {
            "; its role needs the right to CREATE in the database, or all rights in the schema `hodei`"
        }
        code::READ_ONLY => "; a standby cannot be used: name the primary",
        code if code::PASSWORD.contains(&code) => "; the user or the password in the URL is wrong",
        _ if matches!(error, sqlx::Error::Io(_)) => "; is PostgreSQL running there?",
        _ => "",
    };
    let why = match error.as_database_error() {
        Some(error) => error.message().to_owned(),
        None => error.to_string(),
    };
    OpenError::Database { what: what.to_owned(), why: format!("{why}{hint}") }
}

/// Whether the tables are missing.
pub(super) fn is_missing(error: &sqlx::Error) -> bool {
    code::NO_TABLE.contains(&code_of(error).as_str())
}
