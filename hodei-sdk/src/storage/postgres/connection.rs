//! Connections to a database, retries of calls whose connection breaks, and the meaning of PostgreSQL's errors.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hodei_core::port::{Clock, ClockExt, StoreError};
use hodei_core::time::Timestamp;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::{ConnectOptions, Connection, Executor};

use super::Query;
use super::idle::{Held, IdleConnections};
use crate::clock::SystemClock;
use crate::error::OpenError;
use crate::task::{detach, is_running};

/// A connection pool with timeouts.
#[derive(Debug, Clone)]
pub(super) struct Database {
    pool: PgPool,
    /// `None` with a caller's pool, which wants its connections back after each call.
    idle: Option<IdleConnections>,
    /// True behind a pooler that assigns a connection per transaction.
    is_pooled: bool,
    clock: Arc<dyn Clock>,
    /// Number of times that a connection was broken, or led to a read-only database.
    broken: Arc<AtomicU64>,
}

/// Maximum size of a pool that is not the caller's.
pub(super) const MAX_CONNECTIONS: u32 = 8;
/// Timeout for getting a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for a statement, because a database that vanishes silently does not close its connections.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout for the answer to an abandoned statement.
const ABANDONED_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of broken connections before a read fails: after a restart of the database all of them are broken.
const MAX_BROKEN_CONNECTIONS: u32 = MAX_CONNECTIONS + 2;

/// Begins a query for a client. From version 14 on, the server checks every second whether its caller is still
/// connected.
const BEGIN_LIST: &str =
    "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; SET LOCAL statement_timeout = '20s';
    SELECT set_config('client_connection_check_interval', '1000', true)
    WHERE current_setting('client_connection_check_interval', true) IS NOT NULL";

impl Database {
    /// Connects to the database at a URL.
    pub(super) async fn connect(url: &str, connections: u32) -> Result<Self, OpenError> {
        let (url, is_pooled) = without_pooler(url);
        let options = PgConnectOptions::from_str(&url).map_err(|error| OpenError::Database {
            what: "the database URL".into(),
            why: error.to_string(),
        })?;
        let mut options = options.application_name("hodei").disable_statement_logging();
        if is_pooled {
            // The next statement may run on another connection, and poolers reject parameters that they do not know.
            options = options.statement_cache_capacity(0).extra_float_digits(None);
        } else {
            // Every statement finds its rows by an index, whatever its arguments and however few rows there are when it
            // is planned. Planning each call again costs as much as the call.
            options = options.options([
                ("plan_cache_mode", "force_generic_plan"),
                ("enable_seqscan", "off"),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                // Disabled plan nodes count as expensive, and expensive plans would be compiled.
                ("jit", "off"),
                // An abandoned statement must not keep running on the server, and a caller must hear of a lock before
                // its own timeout.
                ("lock_timeout", "5s"),
                ("statement_timeout", "25s"),
            ]);
        }
        let what = name(&options);
        // Connect once without the pool, which would retry until its timeout.
        let first = SystemClock::default().timeout(ACQUIRE_TIMEOUT, options.connect()).await;
        match first {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(open_error(&what, &error)),
            Err(_) => {
                return Err(OpenError::Database {
                    what,
                    why: format!("it did not answer within {ACQUIRE_TIMEOUT:?}"),
                });
            }
        }
        let idle = Some(IdleConnections::default());
        Ok(Self { idle, is_pooled, ..Self::of(pool(options, connections)) })
    }

    /// Uses a caller's pool.
    pub(super) fn of(pool: PgPool) -> Self {
        let (clock, broken) = (Arc::new(SystemClock::default()), Arc::default());
        Self { pool, idle: None, is_pooled: false, clock, broken }
    }

    /// Returns the same database with a new pool, or with the same pool if that is the caller's.
    pub(super) fn beside(&self, connections: u32) -> Self {
        if self.idle.is_none() {
            return self.clone();
        }
        let pool = pool((*self.pool.connect_options()).clone(), connections);
        Self { pool, idle: Some(IdleConnections::default()), ..self.clone() }
    }

    /// Returns the name of the database for messages.
    pub(super) fn name(&self) -> String {
        name(&self.pool.connect_options())
    }

    /// Runs a repeatable query and returns its rows; retries on another connection when one is broken.
    pub(super) async fn read<'q>(&self, query: impl Fn() -> Query<'q>) -> Result<Vec<PgRow>, StoreError> {
        let mut broken = 0;
        loop {
            let mut turn = self.turn().await?;
            match turn.alone(query()).await {
                Ok(rows) => {
                    turn.end();
                    return Ok(rows);
                }
                Err(error) if is_broken(&error) && broken < MAX_BROKEN_CONNECTIONS => {
                    self.note(&error);
                    broken += 1;
                }
                Err(error) => {
                    self.note(&error);
                    return Err(store_error(error));
                }
            }
        }
    }

    /// Runs a query for a client: the server ends the statement when its caller disconnects, and when it takes too
    /// long.
    pub(super) async fn list<'q>(&self, query: impl Fn() -> Query<'q>) -> Result<Vec<PgRow>, StoreError> {
        let mut broken = 0;
        loop {
            let mut turn = self.turn().await?;
            let answer = async {
                turn.run(BEGIN_LIST).await?;
                let rows = turn.rows(query()).await?;
                turn.run("COMMIT").await?;
                Ok(rows)
            };
            let answer: Result<Vec<PgRow>, sqlx::Error> = answer.await;
            match answer {
                Ok(rows) => {
                    turn.end();
                    return Ok(rows);
                }
                Err(error) => {
                    self.note(&error);
                    if !is_broken(&error) || broken >= MAX_BROKEN_CONNECTIONS {
                        return Err(store_error(error));
                    }
                    broken += 1;
                }
            }
        }
    }

    /// Takes a connection for one caller.
    pub(super) async fn turn(&self) -> Result<Turn, StoreError> {
        let held = match &self.idle {
            Some(idle) => idle.take(&self.pool, self.clock.monotonic()).await,
            None => self.pool.acquire().await.map(Held::once),
        };
        let held = Some(held.map_err(store_error)?);
        let (idle, clock) = (self.idle.clone(), self.clock.clone());
        Ok(Turn { held, idle, clock, is_pooled: self.is_pooled, state: TransactionState::Outside })
    }

    /// Returns the maximum size of the pool.
    pub(super) fn connections(&self) -> u32 {
        self.pool.options().get_max_connections()
    }

    /// Returns how often a connection broke. State that was read before a break may come from another database.
    pub(super) fn broken(&self) -> u64 {
        self.broken.load(Ordering::Relaxed)
    }

    /// Counts an error if it means that the connection is broken or leads to a read-only database.
    pub(super) fn note(&self, error: &sqlx::Error) {
        if is_broken(error) || is_read_only(&code_of(error)) {
            self.broken.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the monotonic time.
    pub(super) fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Returns the time of day.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Waits on the database's clock.
    pub(super) async fn sleep(&self, wait: Duration) {
        self.clock.sleep(wait).await;
    }
}

fn pool(options: PgConnectOptions, connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .connect_lazy_with(options)
}

/// A connection, held by one caller.
pub(super) struct Turn {
    /// `Some` until the turn is dropped.
    held: Option<Held>,
    idle: Option<IdleConnections>,
    clock: Arc<dyn Clock>,
    is_pooled: bool,
    state: TransactionState,
}

/// Transaction state of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TransactionState {
    /// Outside of any transaction.
    Outside,
    /// Outside of any transaction, once the pending answer has arrived.
    AwaitingAnswer,
    /// Inside a transaction, or unknown.
    Inside,
}

impl Turn {
    /// Runs statements without parameters.
    pub(super) async fn run(&mut self, statements: &'static str) -> Result<(), sqlx::Error> {
        self.run_for(STATEMENT_TIMEOUT, statements).await
    }

    /// Runs statements without parameters, with another timeout.
    pub(super) async fn run_for(
        &mut self,
        limit: Duration,
        statements: &'static str,
    ) -> Result<(), sqlx::Error> {
        self.state = TransactionState::Inside;
        let Some(held) = &mut self.held else { return Err(sqlx::Error::PoolClosed) };
        let run = held.connection.execute(sqlx::raw_sql(statements));
        self.clock.timeout(limit, run).await.map_err(|_| silent(limit))?.map(drop)
    }

    /// Runs a query as a transaction of its own.
    pub(super) async fn alone(&mut self, query: Query<'_>) -> Result<Vec<PgRow>, sqlx::Error> {
        if !self.is_pooled {
            self.state = TransactionState::AwaitingAnswer;
            let answer = self.ask(query).await;
            let is_fit = answer.as_ref().err().is_none_or(is_of_the_statement);
            self.state = if is_fit { TransactionState::Outside } else { TransactionState::Inside };
            return answer;
        }
        // The driver uses two round trips for a query, and outside of a transaction a pooler may use another connection
        // for each.
        self.run("BEGIN").await?;
        let rows = self.rows(query).await?;
        self.run("COMMIT").await?;
        Ok(rows)
    }

    /// Runs a query in the open transaction.
    pub(super) async fn rows(&mut self, query: Query<'_>) -> Result<Vec<PgRow>, sqlx::Error> {
        self.state = TransactionState::Inside;
        self.ask(query).await
    }

    async fn ask(&mut self, query: Query<'_>) -> Result<Vec<PgRow>, sqlx::Error> {
        let Some(held) = &mut self.held else { return Err(sqlx::Error::PoolClosed) };
        let query = query.persistent(!self.is_pooled);
        let rows = query.fetch_all(&mut *held.connection);
        self.clock.timeout(STATEMENT_TIMEOUT, rows).await.map_err(|_| silent(STATEMENT_TIMEOUT))?
    }

    /// Marks the connection as outside of any transaction, so that it can be used again.
    pub(super) fn end(mut self) {
        self.state = TransactionState::Outside;
    }
}

impl Drop for Turn {
    /// Keeps the connection of a reader that is dropped in the middle, such as one whose client disconnected: a new
    /// connection costs the server a process.
    fn drop(&mut self) {
        let Some(mut held) = self.held.take() else { return };
        if !is_running() {
            // The pool needs a runtime, and there is none any more.
            return drop(held.connection.detach());
        }
        match self.state {
            TransactionState::Outside => {
                if let Some(idle) = &self.idle {
                    idle.give_back(held, self.clock.monotonic());
                }
            }
            TransactionState::Inside => held.connection.close_on_drop(),
            TransactionState::AwaitingAnswer => {
                let clock = self.clock.clone();
                detach(async move {
                    if !matches!(
                        clock.timeout(ABANDONED_ANSWER_TIMEOUT, held.connection.ping()).await,
                        Ok(Ok(()))
                    ) {
                        held.connection.close_on_drop();
                    }
                });
            }
        }
    }
}

fn silent(limit: Duration) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        format!("the database did not answer within {limit:?}"),
    ))
}

/// Removes the parameter `pgbouncer=true`, which tells of a pooler in transaction mode, and returns whether it was
/// there.
fn without_pooler(url: &str) -> (String, bool) {
    let Some((base, parameters)) = url.split_once('?') else { return (url.to_owned(), false) };
    let is_pooler = |parameter: &&str| *parameter == "pgbouncer=true";
    let others: Vec<&str> = parameters.split('&').filter(|parameter| !is_pooler(parameter)).collect();
    let is_pooled = parameters.split('&').any(|parameter| is_pooler(&parameter));
    let url = if others.is_empty() { base.to_owned() } else { format!("{base}?{}", others.join("&")) };
    (url, is_pooled)
}

fn name(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    format!("the database `{database}` at {}:{}", options.get_host(), options.get_port())
}

/// PostgreSQL's error codes (<https://www.postgresql.org/docs/15/errcodes-appendix.html>).
mod code {
    pub(super) const READ_ONLY: &str = "25006";
    /// Answer of a standby to a writing transaction, and error of a cached plan that a migration made invalid.
    pub(super) const NOT_SUPPORTED: &str = "0A000";
    pub(super) const PASSWORD: [&str; 2] = ["28P01", "28000"];
    pub(super) const NO_DATABASE: &str = "3D000";
    pub(super) const NO_RIGHT: &str = "42501";
    pub(super) const NO_TABLE: [&str; 2] = ["42P01", "3F000"];
    pub(super) const UNIQUE: &str = "23505";
    /// A statement ran into its timeout.
    pub(super) const CANCELED: &str = "57014";
    /// Raised by `hodei.undo`.
    pub(super) const UNDONE: &str = "HO001";
    /// A statement waited for a lock longer than `lock_timeout`.
    pub(super) const LOCKED: &str = "55P03";
    /// Class of deadlocks and serialization failures.
    pub(super) const CONFLICT: &str = "40";
    /// Classes of invalid values, and of statements that exceed a limit of the database at any time.
    pub(super) const INVALID_VALUE: [&str; 2] = ["22", "54"];
    /// Classes and codes of temporary errors: connections, resources, conflicts, locks, an operator's command.
    pub(super) const TEMPORARY: [&str; 8] = ["08", "53", CONFLICT, LOCKED, "57", READ_ONLY, "25P03", "58"];
}

fn code_of(error: &sqlx::Error) -> String {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.map_or_else(String::new, std::borrow::Cow::into_owned)
}

/// Returns whether the connection is at fault, and not the statement.
pub(super) fn is_broken(error: &sqlx::Error) -> bool {
    let code = code_of(error);
    matches!(error, sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::Tls(_))
        || code.starts_with("57P")
        // A pooler reports this when its own connection broke.
        || code.starts_with("08")
}

/// Returns whether the database takes no writes, now or on this connection, which may lead to a former primary.
fn is_read_only(code: &str) -> bool {
    code == code::READ_ONLY || code == code::NOT_SUPPORTED
}

/// Returns whether another writer changed the same rows.
pub(super) fn is_contested(error: &sqlx::Error) -> bool {
    let code = code_of(error);
    code == code::UNIQUE || code == code::UNDONE || code.starts_with(code::CONFLICT)
}

/// Returns whether a statement failed because of the stored rows. Any other failure may come from the connection: from
/// the server that it leads to, or from a cached plan.
fn is_of_the_statement(error: &sqlx::Error) -> bool {
    [code::UNIQUE, code::UNDONE].contains(&code_of(error).as_str())
}

/// Converts an error of the database into one of the port; tells temporary errors from permanent ones.
pub(super) fn store_error(error: sqlx::Error) -> StoreError {
    let code = code_of(&error);
    let passes = is_broken(&error)
        || is_read_only(&code)
        || matches!(error, sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed)
        || code::TEMPORARY.iter().any(|class| code.starts_with(class));
    if code == code::CANCELED {
        let why = "the database took too long to answer: narrow the query by a state or a label".to_owned();
        return StoreError::Unavailable { retry_after: Duration::from_secs(1), why };
    }
    if passes {
        let why = if code == code::LOCKED {
            "the database made the statement wait for 5 s because another session holds a lock on a table of Hodei \
             (find it with `SELECT * FROM pg_locks WHERE NOT granted`)"
                .to_owned()
        } else {
            error.to_string()
        };
        StoreError::Unavailable { retry_after: Duration::from_secs(1), why }
    } else if code::INVALID_VALUE.iter().any(|class| code.starts_with(class)) {
        StoreError::Rejected(error.to_string())
    } else {
        StoreError::Other(error.into())
    }
}

/// Converts an error at the start into one that says what to do about it.
pub(super) fn open_error(what: &str, error: &sqlx::Error) -> OpenError {
    let code = code_of(error);
    let hint = match code.as_str() {
        code::NO_DATABASE => "; create it with `createdb`, or name another one in the URL",
        code::NO_RIGHT => {
            "; grant its role the right to CREATE in the database, or all rights in the schema `hodei`"
        }
        code::READ_ONLY | code::NOT_SUPPORTED => "; it is a standby: name the primary",
        code if code::PASSWORD.contains(&code) => "; check the user and the password in the URL",
        _ if matches!(error, sqlx::Error::Io(_)) => "; is PostgreSQL running there?",
        _ => "",
    };
    let why = match error.as_database_error() {
        Some(error) => error.message().to_owned(),
        None => error.to_string(),
    };
    OpenError::Database { what: what.to_owned(), why: format!("{why}{hint}") }
}

/// Returns whether the role lacks a right.
pub(super) fn is_denied(error: &sqlx::Error) -> bool {
    code_of(error) == code::NO_RIGHT
}

/// Returns whether the tables are missing.
pub(super) fn is_missing(error: &sqlx::Error) -> bool {
    code::NO_TABLE.contains(&code_of(error).as_str())
}

#[cfg(test)]
mod tests {
    use super::without_pooler;

    #[test]
    fn the_url_parameter_tells_of_a_pooler() {
        for (url, rest, is_pooled) in [
            ("postgres://h/d", "postgres://h/d", false),
            ("postgres://h/d?pgbouncer=true", "postgres://h/d", true),
            ("postgres://h/d?sslmode=require&pgbouncer=true", "postgres://h/d?sslmode=require", true),
            ("postgres://h/d?pgbouncer=false", "postgres://h/d?pgbouncer=false", false),
        ] {
            assert_eq!(without_pooler(url), (rest.to_owned(), is_pooled), "{url}");
        }
    }
}
