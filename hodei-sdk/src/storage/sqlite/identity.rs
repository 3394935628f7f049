//! Identity of a database: its store's id is tied to its place, and a copy gets another id.

use std::path::Path;

use hodei_core::id::StoreId;
use sqlx::SqlitePool;
use uuid::Uuid;

use super::errors::open_error;
use super::row;
use crate::error::OpenError;
use crate::storage::data_dir::place::{Place, PlaceChange};
use crate::storage::shared::column;

/// Treatment of a database that is a copy of another existing one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CopyPolicy {
    /// The copy is rejected: it would take the original's workers for its own and kill them.
    Refused,
    /// The copy becomes a separate store.
    Adopted,
}

/// Determines the id of a database that had the id `known`, and stores its place. A separate store gets the id `new`.
pub(super) async fn settle(
    database: &Path,
    writer: &SqlitePool,
    known: StoreId,
    new: Uuid,
    copies: CopyPolicy,
) -> Result<StoreId, OpenError> {
    let file = |source| OpenError::File { path: database.to_owned(), source };
    let sql = |error: sqlx::Error| open_error(database, error);
    let here = Place::of(database).map_err(file)?;
    let stored: Option<String> =
        sqlx::query_scalar("SELECT place FROM hodei").fetch_one(writer).await.map_err(sql)?;
    // An unreadable place is ignored, like the missing one of a store of an earlier version.
    let stored = stored.and_then(|text| column::parse::<Place>(&text).ok());
    let found = stored.as_ref().map_or(PlaceChange::Same, |stored| here.compare(stored));
    let adopts = copies == CopyPolicy::Adopted;
    match &found {
        PlaceChange::Copy(original) if !adopts => {
            let dir = database.parent().unwrap_or(database).to_owned();
            return Err(OpenError::Copied { dir, original: original.clone() });
        }
        PlaceChange::Same if !adopts => {
            if stored.as_ref() != Some(&here) {
                // A full disk must not prevent reading.
                let noted = note(writer, &here, None).await;
                let _ = noted.inspect_err(
                    |error| tracing::debug!(%error, "the place of the database cannot be stored"),
                );
            }
            return Ok(known);
        }
        PlaceChange::Restored if !adopts => tracing::warn!(
            database = %database.display(),
            store = %new,
            "this database is in another place than before, but was not renamed; it becomes a store of its own. \
             Workers of the original store do not belong to it"
        ),
        _ => {}
    }
    note(writer, &here, Some((known, new))).await.map_err(sql)?;
    Ok(StoreId::from_uuid(new))
}

/// Stores the place, and a new id if there is one; the events of the platform move to the new id.
async fn note(writer: &SqlitePool, here: &Place, ids: Option<(StoreId, Uuid)>) -> Result<(), sqlx::Error> {
    let place = column::json(here).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let mut transaction = writer.begin().await?;
    sqlx::query("UPDATE hodei SET place = ?").bind(place).execute(&mut *transaction).await?;
    if let Some((known, new)) = ids {
        let [known, new] = [known.as_uuid(), new].map(row::blob);
        sqlx::query("UPDATE hodei SET store_id = ?").bind(&new).execute(&mut *transaction).await?;
        let told = "UPDATE events SET aggregate = ? WHERE aggregate = ? AND kind = 5";
        sqlx::query(told).bind(&new).bind(&known).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}
