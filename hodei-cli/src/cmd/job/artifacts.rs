//! `hodei job artifacts`: lists the kept files of a job, and writes one to a file.

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
    command: ArtifactCommand,
}

#[derive(Debug, Subcommand)]
enum ArtifactCommand {
    /// List the artifacts of the job.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Write an artifact to a file, completely or not at all.
    Get(GetArgs),
}

#[derive(Debug, Args)]
struct GetArgs {
    /// Name of the artifact, as `list` shows it.
    name: WorkspacePath,
    /// Write to this file, or with `-` to standard output [default: the last part of NAME, in the current directory].
    #[arg(long, value_name = "FILE|-")]
    to: Option<PathBuf>,
    /// Overwrite an existing file.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(target: &Target, format: Format, args: ArtifactArgs) -> Result<u8, CliError> {
    match args.command {
        ArtifactCommand::List { place } => {
            let job = target.open(place.dir()).await?.jobs().get(args.id).await?;
            list(job.artifacts(), job.is_terminal(), format)?;
        }
        ArtifactCommand::Get(GetArgs { name, to, force, place }) => {
            let to = to.unwrap_or_else(|| name.file_name().into());
            if to != Path::new("-") && !force && to.exists() {
                return Err(CliError::Exists(to));
            }
            // Replacing a link or a device with a file would surprise the user.
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
            "No artifacts yet: they are available when the job has ended.\n"
        });
    }
    let mut table = table(&["NAME", "BYTES", "SHA256"]);
    for Artifact { name, bytes, sha256, .. } in artifacts {
        table.add_row([shown(name.as_str()), bytes.to_string(), sha256.to_string()]);
    }
    print(&lines(&table))
}

/// Copies an artifact to standard output. A partial copy shows in the exit code.
async fn copy(mut reader: ArtifactReader) -> Result<(), CliError> {
    while let Some(piece) = reader.next().await? {
        if !print_more(&piece)? {
            break;
        }
    }
    Ok(())
}

/// Writes an artifact to a temporary file, then moves it to `to`.
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

/// Writes a symbolic link with the target of the artifact, even if that does not exist from there.
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
