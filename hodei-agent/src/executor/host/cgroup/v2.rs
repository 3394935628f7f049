//! Control groups of version 2.

use std::io;
use std::path::Path;

use hodei_core::job::{JobResources, Usage};

use super::v1::{PERIOD_MICROS, quota};
use super::{create, field, number};

pub(super) fn make(dir: &Path, limits: &JobResources) -> io::Result<()> {
    create(dir)?;
    if limits.memory_bytes > 0 {
        std::fs::write(dir.join("memory.max"), limits.memory_bytes.to_string())?;
        // Fails on a machine without swap.
        let _ = std::fs::write(dir.join("memory.swap.max"), "0");
    }
    if limits.cpu_millis > 0 {
        std::fs::write(dir.join("cpu.max"), format!("{} {PERIOD_MICROS}", quota(limits.cpu_millis)))?;
    }
    if limits.pids > 0 {
        std::fs::write(dir.join("pids.max"), limits.pids.to_string())?;
    }
    Ok(())
}

pub(super) fn oom_kills(dir: &Path) -> u64 {
    field(&dir.join("memory.events"), "oom_kill").unwrap_or(0)
}

pub(super) fn usage(dir: &Path) -> Usage {
    Usage {
        cpu_micros: field(&dir.join("cpu.stat"), "usage_usec").unwrap_or(0),
        peak_memory_bytes: number(&dir.join("memory.peak")).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    const LIMITS: JobResources =
        JobResources { cpu_millis: 1500, memory_bytes: 1 << 20, disk_bytes: 0, gpus: 0, pids: 7 };

    #[test]
    fn limits_and_counts_are_in_the_files_of_the_manual() {
        let tree = tempfile::tempdir().unwrap();
        let dir = tree.path().join("job");
        make(&dir, &LIMITS).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!(
            ["memory.max", "memory.swap.max", "cpu.max", "pids.max"].map(read),
            ["1048576", "0", "150000 100000", "7"]
        );
        assert_eq!((oom_kills(&dir), usage(&dir)), (0, Usage::default()), "a missing count is zero");
        let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        write("memory.events", "low 0\nhigh 0\nmax 9\noom 4\noom_kill 2\noom_group_kill 1\n");
        write("cpu.stat", "usage_usec 12345\nuser_usec 12000\nsystem_usec 345\n");
        write("memory.peak", "65536\n");
        assert_eq!(oom_kills(&dir), 2);
        assert_eq!(usage(&dir), Usage { cpu_micros: 12345, peak_memory_bytes: 65536 });
    }

    #[test]
    fn a_group_is_killed_whole() {
        let unified = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let name = format!("hodei-test.{}", std::process::id());
        let is_v2 = |dir: &&&Path| dir.join("cgroup.controllers").exists();
        let made = unified
            .iter()
            .find(is_v2)
            .map(|dir| dir.join(&name))
            .filter(|dir| make(dir, &JobResources::default()).is_ok());
        let Some(dir) = made else {
            eprintln!("skipped: this process may create no group of version 2 here");
            return;
        };
        let mut child = Command::new("/bin/sh")
            .args([
                "-c",
                &format!("echo $$ > {}/cgroup.procs; setsid sleep 1000 & exec sleep 1000", dir.display()),
            ])
            .process_group(0)
            .spawn()
            .unwrap();
        let lines = || std::fs::read_to_string(dir.join("cgroup.procs")).unwrap().lines().count();
        while lines() < 2 {
            std::thread::yield_now();
        }
        super::super::remove(&dir);
        assert!(!dir.exists(), "the group still exists");
        assert!(!child.wait().unwrap().success());
    }
}
