//! The environment of a job.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use crate::executor::Job;
use crate::executor::host::account::Account;
use crate::executor::host::marks::Marks;
use crate::executor::secrets::SECRETS_DIR_VARIABLE;

/// The variable with the workspace.
const WORKSPACE_VARIABLE: &str = "HODEI_WORKSPACE";

/// The values of variables that neither the job nor the environment of this program sets.
const DEFAULTS: [(&str, &str); 2] =
    [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("LANG", "C.UTF-8")];

/// Returns the environment of a job: five variables of the agent and the directory for temporary files, then the spec's
/// variables, then the marks and the directories of its workspace and its secrets. Nothing else is inherited. Of the
/// five, `TZ` is set only if the agent has it, `HOME` and `USER` only if the agent or its account has them.
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
    // An empty value is kept: it means UTC, not the local time: see tzset(3).
    let zone = std::env::var_os("TZ");
    let known = [("HOME", home), ("USER", user), ("TZ", zone)];
    variables.extend(known.into_iter().filter_map(|(key, value)| Some((key.into(), value?))));
    variables.insert("TMPDIR".into(), temp.into());
    variables.extend(job.spec.env().iter().map(|(key, value)| (key.into(), value.into())));
    variables.extend(marks.of_job(job.attempt).map(|(key, value)| (key.into(), value.into())));
    variables.extend(workspace.map(|dir| (WORKSPACE_VARIABLE.into(), dir.into())));
    variables.extend(secrets_dir.map(|dir| (SECRETS_DIR_VARIABLE.into(), dir.into())));
    variables
}
