//! The environment of a job.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use crate::executor::Job;
use crate::executor::host::account::Account;
use crate::executor::host::marks::Marks;
use crate::executor::secrets::SECRETS_DIR;

/// Names the workspace in the environment of a job.
const WORKSPACE: &str = "HODEI_WORKSPACE";

/// What a job has where neither it nor the environment of this program says otherwise.
const DEFAULTS: [(&str, &str); 2] =
    [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("LANG", "C.UTF-8")];

/// The environment of a job: five variables of the agent's own and its directory for temporary files, then the spec's, then
/// the marks and where its workspace and its secrets are. Nothing else is inherited. Of the five, `TZ` is there only if the
/// agent has it, `HOME` and `USER` only if the agent or the account that it runs as has them.
pub(in crate::executor) fn environment(
    job: &Job,
    marks: &Marks,
    account: Option<&Account>,
    workspace: Option<&Path>,
    temp: &Path,
    secrets_dir: Option<&Path>,
) -> BTreeMap<OsString, OsString> {
    let own = |key: &str| std::env::var_os(key).filter(|value| !value.is_empty());
    let mut variables: BTreeMap<OsString, OsString> = BTreeMap::new();
    for (key, default) in DEFAULTS {
        variables.insert(key.into(), own(key).unwrap_or_else(|| default.into()));
    }
    let home = own("HOME").or_else(|| Some(account?.home.clone()));
    let user = own("USER").or_else(|| Some(account?.name.clone()));
    // An empty one is UTC, and not the time of this machine: see tzset(3).
    let zone = std::env::var_os("TZ");
    let known = [("HOME", home), ("USER", user), ("TZ", zone)];
    variables.extend(known.into_iter().filter_map(|(key, value)| Some((key.into(), value?))));
    variables.insert("TMPDIR".into(), temp.into());
    variables.extend(job.spec.env().iter().map(|(key, value)| (key.into(), value.into())));
    variables.extend(marks.of_job(job.attempt).map(|(key, value)| (key.into(), value.into())));
    variables.extend(workspace.map(|dir| (WORKSPACE.into(), dir.into())));
    variables.extend(secrets_dir.map(|dir| (SECRETS_DIR.into(), dir.into())));
    variables
}
