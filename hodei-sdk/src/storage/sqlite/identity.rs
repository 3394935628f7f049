//! Whose a database is: its store's id goes with the place where it lies, and a copy gets another.

use std::path::Path;

use hodei_core::id::StoreId;
use sqlx::SqlitePool;
use uuid::Uuid;

use super::row;
use super::schema::open_error;
use crate::error::OpenError;
use crate::storage::data_dir::place::{Found, Place};
use crate::storage::shared::column;

/// What becomes of a database that is found to be a copy of another one that is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copies {
    /// It is refused: what the original runs would be taken for its own, and killed.
    Refused,
    /// It becomes a store of its own.
    Adopted,
}

/// Settles whose a database is, which has this id until now, and notes where it lies. `new` is its id when it is a store
/// of its own from now on.
pub(super) async fn settle(
    database: &Path,
    writer: &SqlitePool,
    known: StoreId,
    new: Uuid,
    copies: Copies,
) -> Result<StoreId, OpenError> {
    let file = |source| OpenError::File { path: database.to_owned(), source };
    let sql = |error: sqlx::Error| open_error(database, error);
    let here = Place::of(database).map_err(file)?;
    let stored: Option<String> =
        sqlx::query_scalar("SELECT place FROM hodei").fetch_one(writer).await.map_err(sql)?;
    // One that cannot be read says nothing, as with a store that an earlier version made.
    let stored = stored.and_then(|text| column::parse::<Place>(&text).ok());
    let found = stored.as_ref().map_or(Found::Same, |stored| here.compare(stored));
    let adopts = copies == Copies::Adopted;
    match &found {
        Found::Copy(original) if !adopts => {
            let dir = database.parent().unwrap_or(database).to_owned();
            return Err(OpenError::Copied { dir, original: original.clone() });
        }
        Found::Same if !adopts => {
            if stored.as_ref() != Some(&here) {
                // A disk that is full keeps nobody from reading.
                let noted = note(writer, &here, None).await;
                let _ = noted.inspect_err(|error| tracing::debug!(%error, "the place is not noted"));
            }
            return Ok(known);
        }
        Found::Restored if !adopts => tracing::warn!(
            database = %database.display(),
            store = %new,
            "this database lies in another place than before, and not by a rename: it is a store of its own from now \
             on. Workers that the one of before left running are not its own"
        ),
        _ => {}
    }
    note(writer, &here, Some((known, new))).await.map_err(sql)?;
    Ok(StoreId::from_uuid(new))
}

/// Notes the place, and another id where it gets one: what belongs to the platform goes with it.
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
