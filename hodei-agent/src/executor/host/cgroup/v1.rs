//! Control groups of version 1.

use std::io;
use std::path::{Path, PathBuf};

use hodei_core::job::{JobResources, Usage};

use super::{create, field, number};

/// The directory of each available controller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Dirs {
    pub(super) memory: Option<PathBuf>,
    pub(super) cpu: Option<PathBuf>,
    pub(super) cpuacct: Option<PathBuf>,
    pub(super) pids: Option<PathBuf>,
}

/// Period of the processor time quota in microseconds: the kernel's default.
pub(super) const PERIOD_MICROS: u64 = 100_000;

impl Dirs {
    pub(super) fn join(&self, name: &str) -> Self {
        let join = |dir: &Option<PathBuf>| dir.as_ref().map(|dir| dir.join(name));
        Self {
            memory: join(&self.memory),
            cpu: join(&self.cpu),
            cpuacct: join(&self.cpuacct),
            pids: join(&self.pids),
        }
    }

    /// Returns each directory once: two controllers may share one.
    pub(super) fn all(&self) -> impl Iterator<Item = &Path> {
        let mut all: Vec<&Path> = [&self.memory, &self.cpu, &self.cpuacct, &self.pids]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
            .collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter()
    }
}

pub(super) fn make(dirs: &Dirs, limits: &JobResources) -> io::Result<()> {
    for dir in dirs.all() {
        create(dir)?;
    }
    let missing =
        |what: &str| io::Error::other(format!("this machine has no control group controller for {what}"));
    if limits.memory_bytes > 0 {
        let dir = dirs.memory.as_ref().ok_or_else(|| missing("memory"))?;
        let limit = limits.memory_bytes.to_string();
        std::fs::write(dir.join("memory.limit_in_bytes"), &limit)?;
        // Without this, swap would circumvent the limit. Fails on a kernel that does not count swap.
        let _ = std::fs::write(dir.join("memory.memsw.limit_in_bytes"), &limit);
    }
    if limits.cpu_millis > 0 {
        let dir = dirs.cpu.as_ref().ok_or_else(|| missing("processor time"))?;
        std::fs::write(dir.join("cpu.cfs_period_us"), PERIOD_MICROS.to_string())?;
        std::fs::write(dir.join("cpu.cfs_quota_us"), quota(limits.cpu_millis).to_string())?;
    }
    if limits.pids > 0 {
        let dir = dirs.pids.as_ref().ok_or_else(|| missing("processes"))?;
        std::fs::write(dir.join("pids.max"), limits.pids.to_string())?;
    }
    Ok(())
}

/// Returns the microseconds of each period; the kernel's minimum is a millisecond.
pub(super) fn quota(cpu_millis: u32) -> u64 {
    (u64::from(cpu_millis) * PERIOD_MICROS / 1000).max(1000)
}

pub(super) fn oom_kills(dirs: &Dirs) -> u64 {
    dirs.memory.as_ref().and_then(|dir| field(&dir.join("memory.oom_control"), "oom_kill")).unwrap_or(0)
}

pub(super) fn usage(dirs: &Dirs) -> Usage {
    let cpu_nanos = dirs.cpuacct.as_ref().and_then(|dir| number(&dir.join("cpuacct.usage")));
    let peak = dirs.memory.as_ref().and_then(|dir| number(&dir.join("memory.max_usage_in_bytes")));
    Usage { cpu_micros: cpu_nanos.unwrap_or(0) / 1000, peak_memory_bytes: peak.unwrap_or(0) }
}
