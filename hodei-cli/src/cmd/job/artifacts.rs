//! `hodei job artifacts`: the files that are kept of a job.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use hodei_sdk::id::JobId;
use hodei_sdk::{Artifact, ArtifactReader, WorkspacePath};
use serde_json::json;
use tempfile::NamedTempFile;

use crate::cmd::job::place::Place;
use crate::error::CliError;
use crate::job_json::artifact_json;
use crate::target::Target;
use crate::term::show::{Format, lines, print, print_more, shown, table};

#[derive(Debug, Args)]
pub(crate) struct ArtifactArgs {
    /// The job.
    id: JobId,
    #[command(subcommand)]
    what: ArtifactCommand,
}

#[derive(Debug, Subcommand)]
enum ArtifactCommand {
    /// List them.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Write one to a file, whole or not at all.
    Get(GetArgs),
}

#[derive(Debug, Args)]
struct GetArgs {
    /// Its name, as `list` has it.
    name: WorkspacePath,
    /// Write it there, or with `-` to standard output [default: the last part of its name, here].
    #[arg(long, value_name = "FILE|-")]
    to: Option<PathBuf>,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(target: &Target, format: Format, args: ArtifactArgs) -> Result<u8, CliError> {
    match args.what {
        ArtifactCommand::List { place } => {
            let job = target.open(place.dir()).await?.jobs().get(args.id).await?;
            list(job.artifacts(), job.is_terminal(), format)?;
        }
        ArtifactCommand::Get(GetArgs { name, to, force, place }) => {
            let to = to.unwrap_or_else(|| name.file_name().into());
            if to != Path::new("-") && !force && to.exists() {
                return Err(CliError::Exists(to));
            }
            // What it would put in the place of a link or a device is no file of the user's.
            if to != Path::new("-") && to.symlink_metadata().is_ok_and(|about| !about.is_file()) {
                return Err(CliError::NoFile(to));
            }
            let reader = target.open(place.dir()).await?.artifacts().get(args.id, &name).await?;
            if to == Path::new("-") { copy(reader).await } else { save(reader, &to, force).await }?;
        }
    }
    Ok(0)
}

fn list(artifacts: &[Artifact], is_over: bool, format: Format) -> Result<(), CliError> {
    if format == Format::Json {
        return print(&format!("{}\n", json!(artifacts.iter().map(artifact_json).collect::<Vec<_>>())));
    }
    if artifacts.is_empty() {
        return print(if is_over {
            "No artifacts: `hodei run --artifact PATH` keeps a file.\n"
        } else {
            "No artifacts yet: they are there when the job has ended.\n"
        });
    }
    let mut table = table(&["NAME", "BYTES", "SHA256"]);
    for Artifact { name, bytes, sha256, .. } in artifacts {
        table.add_row([shown(name.as_str()), bytes.to_string(), sha256.to_string()]);
    }
    print(&lines(&table))
}

/// What is broken off is said by the exit code.
async fn copy(mut reader: ArtifactReader) -> Result<(), CliError> {
    while let Some(piece) = reader.next().await? {
        if !print_more(&piece)? {
            break;
        }
    }
    Ok(())
}

async fn save(mut reader: ArtifactReader, to: &Path, force: bool) -> Result<(), CliError> {
    let failed = |error| CliError::File { path: to.to_owned(), error };
    let Artifact { mode, is_link, .. } = *reader.artifact();
    if is_link {
        return save_link(reader, to, force).await;
    }
    let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(dir).map_err(failed)?;
    while let Some(piece) = reader.next().await? {
        file.write_all(&piece).map_err(failed)?;
    }
    if let Some(mode) = mode {
        file.as_file().set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
    }
    let saved = if force { file.persist(to) } else { file.persist_noclobber(to) };
    saved.map(drop).map_err(|error| match error.error.kind() {
        std::io::ErrorKind::AlreadyExists => CliError::Exists(to.to_owned()),
        _ => failed(error.error),
    })
}

/// As a link, wherever it leads to from there.
async fn save_link(reader: ArtifactReader, to: &Path, force: bool) -> Result<(), CliError> {
    let failed = |error| CliError::File { path: to.to_owned(), error };
    let target = OsString::from_vec(reader.bytes().await?);
    if force && to.symlink_metadata().is_ok() {
        std::fs::remove_file(to).map_err(failed)?;
    }
    symlink(target, to).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => CliError::Exists(to.to_owned()),
        _ => failed(error),
    })
}
