//! Errors of the driver as errors of the port and of an open.

use std::io;
use std::path::Path;
use std::time::Duration;

use hodei_core::port::StoreError;

use crate::error::OpenError;

/// SQLite's primary result codes (<https://www.sqlite.org/rescode.html>).
mod code {
    pub(super) const PERM: i32 = 3;
    pub(super) const BUSY: i32 = 5;
    pub(super) const LOCKED: i32 = 6;
    pub(super) const READONLY: i32 = 8;
    pub(super) const IOERR: i32 = 10;
    pub(super) const CORRUPT: i32 = 11;
    pub(super) const FULL: i32 = 13;
    pub(super) const CANTOPEN: i32 = 14;
    pub(super) const TOOBIG: i32 = 18;
    pub(super) const NOTADB: i32 = 26;
}

fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// Converts an error of an open database into one of the port; tells temporary errors from permanent ones.
pub(super) fn store_error(error: sqlx::Error) -> StoreError {
    let why = match (&error, primary_code(&error)) {
        (_, Some(code::FULL)) => return StoreError::disk_full(),
        (_, Some(code::BUSY | code::LOCKED | code::IOERR | code::CANTOPEN | code::READONLY)) => {
            error.to_string()
        }
        (sqlx::Error::PoolTimedOut | sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed, _) => error.to_string(),
        (_, Some(code::TOOBIG)) => return StoreError::Rejected(error.to_string()),
        _ => return StoreError::Other(error.into()),
    };
    StoreError::Unavailable { retry_after: Duration::from_secs(1), why }
}

/// Converts an error at opening a database.
pub(super) fn open_error(path: &Path, error: sqlx::Error) -> OpenError {
    let path = path.to_owned();
    let io = |kind: io::ErrorKind| OpenError::File {
        path: path.clone(),
        source: io::Error::new(kind, error.to_string()),
    };
    match primary_code(&error) {
        Some(code::NOTADB | code::CORRUPT) => {
            OpenError::NotAStore { path, why: "it is not a database, or it is damaged".into() }
        }
        Some(code::PERM | code::READONLY | code::CANTOPEN) => io(io::ErrorKind::PermissionDenied),
        Some(code::FULL) => io(io::ErrorKind::StorageFull),
        _ => io(io::ErrorKind::Other),
    }
}
