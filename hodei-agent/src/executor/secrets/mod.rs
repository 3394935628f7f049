//! Passes secrets to a job, and masks them in its output.

mod encoded;
mod look;
mod mask;
mod needles;
mod quoting;
mod stdin;
mod tmpfs;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use hodei_core::job::FailureCause;
use hodei_core::secret::{SecretInjection, SecretName, SecretValue};

pub(super) use mask::Mask;
pub(super) use needles::Needles;
pub(super) use tmpfs::wipe_all;
pub(crate) use tmpfs::{MEMORY_DIR, is_memory};

use crate::executor::Job;
use crate::executor::host::marks::Marks;
use tmpfs::TmpfsFiles;

/// The variable with the directory of secret files.
pub(super) const SECRETS_DIR_VARIABLE: &str = "HODEI_SECRETS_DIR";

/// Passes secrets to jobs: as files in memory, or on standard input.
#[derive(Debug)]
pub(super) struct SecretInjector<'a> {
    marks: &'a Marks,
}

/// The secret values of an attempt.
pub(super) type Given = [(SecretName, SecretValue)];

/// The prepared secrets of one attempt. Its files are wiped when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Injected {
    files: Option<TmpfsFiles>,
    stdin: Option<Bytes>,
    needles: Option<Arc<Needles>>,
}

impl<'a> SecretInjector<'a> {
    pub(super) fn new(marks: &'a Marks) -> Self {
        Self { marks }
    }

    /// Prepares the secrets that a spec names.
    ///
    /// # Errors
    /// A [`FailureCause`]; no file is left behind.
    pub(super) fn inject(&self, job: &Job, given: &Given) -> Result<Injected, FailureCause> {
        if job.spec.secrets().is_empty() {
            return Ok(Injected::default());
        }
        let of = |wanted: SecretInjection| {
            let refs = job.spec.secrets().iter().filter(move |secret| secret.inject == wanted);
            let found = refs.map(|secret| value(given, &secret.name).map(|value| (&secret.name, value)));
            found.collect::<Result<Vec<_>, FailureCause>>()
        };
        let (by_file, by_stdin) = (of(SecretInjection::File)?, of(SecretInjection::Stdin)?);
        let files = match &by_file[..] {
            [] => None,
            // An infrastructure failure, since another machine may have room in memory.
            some => Some(TmpfsFiles::write(self.marks, job.attempt, some).map_err(|why| {
                FailureCause::Infrastructure(format!(
                    "its secrets cannot be stored in memory on this machine: {why}"
                ))
            })?),
        };
        let stdin = if by_stdin.is_empty() {
            None
        } else {
            Some(stdin::object(&by_stdin).map_err(FailureCause::SecretInjection)?)
        };
        let needles = Needles::of(given.iter().map(|(_, value)| value));
        Ok(Injected { files, stdin, needles: Some(Arc::new(needles)) })
    }
}

fn value<'a>(given: &'a Given, name: &SecretName) -> Result<&'a SecretValue, FailureCause> {
    let found = given.iter().find(|(known, _)| known == name).map(|(_, value)| value);
    // The job is not at fault.
    found.ok_or_else(|| {
        FailureCause::Infrastructure(format!("the platform sent no value of the secret `{name}`"))
    })
}

impl Injected {
    /// Returns the directory with the files.
    pub(super) fn dir(&self) -> Option<&Path> {
        self.files.as_ref().map(TmpfsFiles::dir)
    }

    /// Returns the standard input.
    pub(super) fn stdin(&self) -> Option<&Bytes> {
        self.stdin.as_ref()
    }

    /// Returns the values to mask in output.
    pub(super) fn needles(&self) -> Option<&Arc<Needles>> {
        self.needles.as_ref()
    }
}
