use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::Job;
use super::secrets::SECRETS_DIR;
use super::tree::Marks;

/// Names the workspace in the environment of a job.
const WORKSPACE: &str = "HODEI_WORKSPACE";

/// The environment of a job: six variables of the agent's own, then the spec's, then the marks and where its workspace and
/// its secrets are. Nothing else is inherited.
pub(super) fn environment(
    job: &Job,
    marks: &Marks,
    workspace: Option<&Path>,
    secrets_dir: Option<&Path>,
) -> BTreeMap<OsString, OsString> {
    let own = |key: &str, default: &str| {
        std::env::var_os(key).filter(|value| !value.is_empty()).unwrap_or_else(|| default.into())
    };
    let mut variables: BTreeMap<OsString, OsString> = BTreeMap::new();
    for (key, default) in [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/"),
        ("USER", "nobody"),
        ("LANG", "C.UTF-8"),
        ("TZ", "UTC"),
        ("TMPDIR", "/tmp"),
    ] {
        variables.insert(key.into(), own(key, default));
    }
    variables.extend(job.spec.env().iter().map(|(key, value)| (key.into(), value.into())));
    variables.extend(marks.of_job(job.attempt).map(|(key, value)| (key.into(), value.into())));
    variables.extend(workspace.map(|dir| (WORKSPACE.into(), dir.into())));
    variables.extend(secrets_dir.map(|dir| (SECRETS_DIR.into(), dir.into())));
    variables
}
