//! The connections to a database, and what becomes of a call when one breaks.

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

/// The pool, and the limits of what is done with it.
#[derive(Debug, Clone)]
pub(super) struct Database {
    pool: PgPool,
    /// None beside a pool of the caller's, who wants them back.
    idle: Option<IdleConnections>,
    /// Reached through a pooler that gives a connection for a transaction at a time.
    is_pooled: bool,
    clock: Arc<dyn Clock>,
    /// How often a connection was found broken, or led to a database that takes no writes.
    broken: Arc<AtomicU64>,
}

/// Connections of a pool that is not the caller's.
pub(super) const CONNECTIONS: u32 = 8;
/// How long a call waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(5);
/// How long a statement may take: a database that is gone without a word ends no connection.
const STATEMENT: Duration = Duration::from_secs(30);
/// How long the answer to a statement is awaited that nobody wants any more.
const ANSWER: Duration = Duration::from_secs(1);
/// Connections that may be found broken before a read fails: after a restart of the database all are.
const BROKEN: u32 = CONNECTIONS + 2;

/// Begins what people ask. The server looks every second whether the caller is still there, where it knows how: from
/// version 14 on.
const BEGIN_LIST: &str =
    "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; SET LOCAL statement_timeout = '20s';
    SELECT set_config('client_connection_check_interval', '1000', true)
    WHERE current_setting('client_connection_check_interval', true) IS NOT NULL";

impl Database {
    /// Connects to the database of a URL.
    pub(super) async fn connect(url: &str, connections: u32) -> Result<Self, OpenError> {
        let (url, is_pooled) = without_pooler(url);
        let options = PgConnectOptions::from_str(&url).map_err(|error| OpenError::Database {
            what: "the URL of the database".into(),
            why: error.to_string(),
        })?;
        let mut options = options.application_name("hodei").disable_statement_logging();
        if is_pooled {
            // The next statement may have another connection, and poolers refuse parameters that they do not know.
            options = options.statement_cache_capacity(0).extra_float_digits(None);
        } else {
            // Every statement finds its rows by an index, whatever its arguments and however few there are when it is
            // planned. A plan made again for each call costs as much as the call.
            options = options.options([
                ("plan_cache_mode", "force_generic_plan"),
                ("enable_seqscan", "off"),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                // What is forbidden counts as dear, and what is dear would be compiled.
                ("jit", "off"),
                // What was given up here must not go on there; and who waits is told of a lock before it gives up.
                ("lock_timeout", "5s"),
                ("statement_timeout", "25s"),
            ]);
        }
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
        let idle = Some(IdleConnections::default());
        Ok(Self { idle, is_pooled, ..Self::of(pool(options, connections)) })
    }

    /// Uses a pool of the caller's.
    pub(super) fn of(pool: PgPool) -> Self {
        let (clock, broken) = (Arc::new(SystemClock::default()), Arc::default());
        Self { pool, idle: None, is_pooled: false, clock, broken }
    }

    /// The same database by a pool of its own; by the same one, where that is the caller's.
    pub(super) fn beside(&self, connections: u32) -> Self {
        if self.idle.is_none() {
            return self.clone();
        }
        let pool = pool((*self.pool.connect_options()).clone(), connections);
        Self { pool, idle: Some(IdleConnections::default()), ..self.clone() }
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
            match turn.alone(query()).await {
                Ok(rows) => {
                    turn.end();
                    return Ok(rows);
                }
                Err(error) if is_broken(&error) && broken < BROKEN => {
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

    /// Reads what people ask: the server ends the statement when its caller goes, and when it takes too long.
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
                    if !is_broken(&error) || broken >= BROKEN {
                        return Err(store_error(error));
                    }
                    broken += 1;
                }
            }
        }
    }

    /// A connection for one caller.
    pub(super) async fn turn(&self) -> Result<Turn, StoreError> {
        let held = match &self.idle {
            Some(idle) => idle.take(&self.pool, self.clock.monotonic()).await,
            None => self.pool.acquire().await.map(Held::once),
        };
        let held = Some(held.map_err(store_error)?);
        let (idle, clock) = (self.idle.clone(), self.clock.clone());
        Ok(Turn { held, idle, clock, is_pooled: self.is_pooled, stands: Stands::Outside })
    }

    /// Connections that the pool may have.
    pub(super) fn connections(&self) -> u32 {
        self.pool.options().get_max_connections()
    }

    /// How often a connection broke: what was seen before may be of another database than what is seen now.
    pub(super) fn broken(&self) -> u64 {
        self.broken.load(Ordering::Relaxed)
    }

    /// Takes note of an error.
    pub(super) fn note(&self, error: &sqlx::Error) {
        if is_broken(error) || is_read_only(&code_of(error)) {
            self.broken.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Of the clock that is only good for differences.
    pub(super) fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    /// The time.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
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

/// A connection, held by one caller.
pub(super) struct Turn {
    /// Until it is dropped.
    held: Option<Held>,
    idle: Option<IdleConnections>,
    clock: Arc<dyn Clock>,
    is_pooled: bool,
    stands: Stands,
}

/// Where a connection stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stands {
    /// Outside of any transaction.
    Outside,
    /// There too, once the answer to a statement has come.
    Asked,
    /// In the middle of a transaction, or nobody knows.
    Within,
}

impl Turn {
    /// Runs statements without parameters.
    pub(super) async fn run(&mut self, statements: &'static str) -> Result<(), sqlx::Error> {
        self.run_for(STATEMENT, statements).await
    }

    /// The same, with another limit of time.
    pub(super) async fn run_for(
        &mut self,
        limit: Duration,
        statements: &'static str,
    ) -> Result<(), sqlx::Error> {
        self.stands = Stands::Within;
        let Some(held) = &mut self.held else { return Err(sqlx::Error::PoolClosed) };
        let run = held.connection.execute(sqlx::raw_sql(statements));
        self.clock.timeout(limit, run).await.map_err(|_| silent(limit))?.map(drop)
    }

    /// Runs a query that is a transaction of its own.
    pub(super) async fn alone(&mut self, query: Query<'_>) -> Result<Vec<PgRow>, sqlx::Error> {
        if !self.is_pooled {
            self.stands = Stands::Asked;
            let answer = self.ask(query).await;
            let is_fit = answer.as_ref().err().is_none_or(is_of_the_statement);
            self.stands = if is_fit { Stands::Outside } else { Stands::Within };
            return answer;
        }
        // The driver takes two turns for a query, and outside of a transaction a pooler gives each another connection.
        self.run("BEGIN").await?;
        let rows = self.rows(query).await?;
        self.run("COMMIT").await?;
        Ok(rows)
    }

    /// Runs a query in the transaction that is open.
    pub(super) async fn rows(&mut self, query: Query<'_>) -> Result<Vec<PgRow>, sqlx::Error> {
        self.stands = Stands::Within;
        self.ask(query).await
    }

    async fn ask(&mut self, query: Query<'_>) -> Result<Vec<PgRow>, sqlx::Error> {
        let Some(held) = &mut self.held else { return Err(sqlx::Error::PoolClosed) };
        let query = query.persistent(!self.is_pooled);
        let rows = query.fetch_all(&mut *held.connection);
        self.clock.timeout(STATEMENT, rows).await.map_err(|_| silent(STATEMENT))?
    }

    /// The connection stands outside of any transaction, and may be used again.
    pub(super) fn end(mut self) {
        self.stands = Stands::Outside;
    }
}

impl Drop for Turn {
    /// A reader that goes in the middle, as one does whose client went, takes no connection with it: a new one costs the
    /// server a process.
    fn drop(&mut self) {
        let Some(mut held) = self.held.take() else { return };
        if !is_running() {
            // The pool wants a runtime, and that has gone.
            return drop(held.connection.detach());
        }
        match self.stands {
            Stands::Outside => {
                if let Some(idle) = &self.idle {
                    idle.give_back(held, self.clock.monotonic());
                }
            }
            Stands::Within => held.connection.close_on_drop(),
            Stands::Asked => {
                let clock = self.clock.clone();
                detach(async move {
                    if !matches!(clock.timeout(ANSWER, held.connection.ping()).await, Ok(Ok(()))) {
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

/// Without the parameter that says that a pooler in transaction mode is between: `pgbouncer=true`.
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
    /// What a standby says to a transaction that is to write; and what a plan is that a migration made useless.
    pub(super) const NOT_HERE: &str = "0A000";
    pub(super) const PASSWORD: [&str; 2] = ["28P01", "28000"];
    pub(super) const NO_DATABASE: &str = "3D000";
    pub(super) const NO_RIGHT: &str = "42501";
    pub(super) const NO_TABLE: [&str; 2] = ["42P01", "3F000"];
    pub(super) const UNIQUE: &str = "23505";
    /// Of a statement that ran into its limit.
    pub(super) const CANCELED: &str = "57014";
    /// Of `hodei.undo`.
    pub(super) const UNDONE: &str = "HO001";
    /// What waits for a lock beyond `lock_timeout`.
    pub(super) const LOCKED: &str = "55P03";
    /// The class of deadlocks, and of transactions that cannot follow each other.
    pub(super) const CONFLICT: &str = "40";
    /// Classes of what is wrong with a value, and of what is too much for the database whenever it comes.
    pub(super) const OF_THE_VALUE: [&str; 2] = ["22", "54"];
    /// Classes and codes of what passes by itself: connections, resources, conflicts, locks, an operator's command.
    pub(super) const PASSING: [&str; 8] = ["08", "53", CONFLICT, LOCKED, "57", READ_ONLY, "25P03", "58"];
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
        // Of a pooler, whose own connection broke.
        || code.starts_with("08")
}

/// Whether the database takes no writes, now or on this connection: it may lead to a primary of before.
fn is_read_only(code: &str) -> bool {
    code == code::READ_ONLY || code == code::NOT_HERE
}

/// Whether somebody else wrote the same.
pub(super) fn is_contested(error: &sqlx::Error) -> bool {
    let code = code_of(error);
    code == code::UNIQUE || code == code::UNDONE || code.starts_with(code::CONFLICT)
}

/// Whether a statement failed of what is stored. What else fails may fail of the connection: of the server that it leads
/// to, or of a plan that it keeps.
fn is_of_the_statement(error: &sqlx::Error) -> bool {
    [code::UNIQUE, code::UNDONE].contains(&code_of(error).as_str())
}

/// Why a database did nothing, in the words of the port. What passes by itself is told from what does not.
pub(super) fn store_error(error: sqlx::Error) -> StoreError {
    let code = code_of(&error);
    let passes = is_broken(&error)
        || is_read_only(&code)
        || matches!(error, sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed)
        || code::PASSING.iter().any(|class| code.starts_with(class));
    if code == code::CANCELED {
        let why = "the database took too long for it: ask for less, by a state or a label".to_owned();
        return StoreError::Unavailable { retry_after: Duration::from_secs(1), why };
    }
    if passes {
        let why = if code == code::LOCKED {
            "the database has made it wait for 5 s: another session holds a lock on a table of Hodei \
             (`SELECT * FROM pg_locks WHERE NOT granted` shows which)"
                .to_owned()
        } else {
            error.to_string()
        };
        StoreError::Unavailable { retry_after: Duration::from_secs(1), why }
    } else if code::OF_THE_VALUE.iter().any(|class| code.starts_with(class)) {
        StoreError::Rejected(error.to_string())
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
        code::READ_ONLY | code::NOT_HERE => "; a standby cannot be used: name the primary",
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

/// Whether the role lacks a right.
pub(super) fn is_denied(error: &sqlx::Error) -> bool {
    code_of(error) == code::NO_RIGHT
}

/// Whether the tables are missing.
pub(super) fn is_missing(error: &sqlx::Error) -> bool {
    code::NO_TABLE.contains(&code_of(error).as_str())
}

#[cfg(test)]
mod tests {
    use super::without_pooler;

    #[test]
    fn a_pooler_is_said_by_the_url() {
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
