//! The limits of a job spec.

use std::time::Duration;

/// Maximum bytes of all texts of a spec, without its stdin: 1 MiB.
pub const SPEC_BYTES: usize = 1 << 20;
/// Maximum bytes of stdin: 1 MiB.
pub const STDIN_BYTES: usize = 1 << 20;
/// Maximum number of secrets of a job.
pub const SECRETS: usize = 64;
/// Maximum bytes of the values of a job's secrets together, checked when the job is delivered: 4 MiB.
pub const SECRETS_BYTES: usize = 4 << 20;
/// Maximum number of inputs of a job, and of outputs that its spec names.
pub const ARTIFACTS: usize = 256;
/// Maximum number of files and links that are kept of an attempt.
pub const STORED: usize = 10_000;
/// Maximum bytes of their names together, which are part of the result of the job: 1 MiB.
pub const STORED_NAMES_BYTES: usize = 1 << 20;
/// Maximum bytes of the extension of a script.
pub const EXTENSION_BYTES: usize = 16;
/// Maximum bytes of a working directory that is an absolute path: the limit of the kernel.
pub const WORKING_DIR_BYTES: usize = 4095;
/// Maximum number of labels of a job.
pub const LABELS: usize = 256;
/// The shortest timeout.
pub const TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// The longest timeout, and the longest kill grace.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Maximum number of retries of either kind.
pub const RETRIES: u32 = 1000;
/// Maximum bytes of one argument, one line of a shell, or one NAME=VALUE, without its NUL: MAX_ARG_STRLEN of Linux.
pub const ARGUMENT_BYTES: usize = (128 << 10) - 1;
/// Maximum bytes of all arguments and variables, each with its NUL and 8 bytes of address: the limit of execve(2)
/// with a stack of 8 MiB, less 128 KiB for the variables that the agent adds.
pub const EXEC_BYTES: usize = (2 << 20) - (128 << 10);
/// The smallest memory limit, in bytes: with less no program starts.
pub const MEMORY_MIN: u64 = 1 << 20;
/// The smallest limit of processor time, in thousandths of a processor: a millisecond in each tenth of a second.
pub const CPU_MILLIS_MIN: u32 = 10;
/// How far the time in the id of a new job may be ahead of now; stores forget no job before that time.
pub const ID_AHEAD: Duration = Duration::from_secs(24 * 3600);
/// Maximum bytes of a key, label name or variable name.
pub const KEY_BYTES: usize = 256;
