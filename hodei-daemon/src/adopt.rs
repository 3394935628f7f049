//! `hodei-daemon adopt`: makes a copied data directory a store of its own.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use hodei_sdk::port::{Clock, IdGenerator};
use hodei_sdk::{DataDir, OpenError, SqliteStore, SystemClock, SystemIds};

use crate::config::AdoptArgs;

/// Why a directory cannot be adopted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptError {
    #[error("{} has no store: its file hodei.db is missing", .0.display())]
    NoStore(PathBuf),
    #[error("{0}")]
    Open(#[from] OpenError),
    #[error("the runtime cannot start: {0}")]
    Runtime(#[from] io::Error),
}

/// Gives the store of a data directory a new id. Returns the text to print.
pub(crate) fn adopt(args: &AdoptArgs) -> Result<String, AdoptError> {
    let dir = args.dir.as_path();
    if !dir.join("hodei.db").is_file() {
        return Err(AdoptError::NoStore(dir.to_owned()));
    }
    let locked = Arc::new(DataDir::lock(dir)?);
    let id = SystemIds::default().uuid(SystemClock::default().now());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let store = runtime.block_on(SqliteStore::adopt(locked, id))?;
    Ok(format!("{} is now store {store}\n", dir.display()))
}
