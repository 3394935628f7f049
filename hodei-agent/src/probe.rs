//! Measures the machine from /proc.

use hodei_core::worker::WorkerMetrics;

/// Samples the machine; keeps the processor ticks of the previous sample.
#[derive(Debug, Default)]
pub(crate) struct HostProbe {
    busy: u64,
    total: u64,
}

impl HostProbe {
    /// Returns the current metrics; a value that cannot be read is 0. CPU is the share since the previous sample, and
    /// since the boot in the first.
    pub(crate) fn sample(&mut self) -> WorkerMetrics {
        let (busy, total) = read("/proc/stat").and_then(|text| cpu(&text)).unwrap_or_default();
        let (part, all) = (busy.saturating_sub(self.busy), total.saturating_sub(self.total));
        (self.busy, self.total) = (busy, total);
        let (memory_total, available) =
            read("/proc/meminfo").and_then(|text| memory(&text)).unwrap_or_default();
        let load = read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or(0.0);
        let (disk_total, disk_free) = disk().unwrap_or_default();
        WorkerMetrics {
            cpu: if all == 0 { 0.0 } else { part as f64 / all as f64 },
            load,
            memory_used: memory_total.saturating_sub(available),
            memory_total,
            disk_used: disk_total.saturating_sub(disk_free),
            disk_total,
            ..WorkerMetrics::default()
        }
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Returns the busy and the total time of all cores, in ticks: see proc_stat(5).
fn cpu(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    // user, nice, system, idle, iowait, irq, softirq, steal; user already includes the time of guests.
    let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    let idle = ticks.get(3)? + ticks.get(4)?;
    let total: u64 = ticks.iter().sum();
    Some((total - idle, total))
}

/// Returns the total and the available memory, in bytes.
fn memory(meminfo: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    Some((field("MemTotal")?, field("MemAvailable")?))
}

/// Returns the size and the free space of the disk of the current directory, in bytes.
fn disk() -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(".").ok()?;
    Some((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_parsed_as_its_manual_says() {
        assert_eq!(cpu("cpu  10 1 5 80 4 0 0 0 3 0\ncpu0 …"), Some((16, 100)));
        assert_eq!(cpu("intr 1"), None);
        assert_eq!(memory("MemTotal:  10 kB\nMemAvailable:    4 kB\n"), Some((10_240, 4096)));
    }

    #[test]
    fn this_machine_has_memory_and_a_disk() {
        let mut probe = HostProbe::default();
        let first = probe.sample();
        assert!(first.memory_total > first.memory_used && first.memory_used > 0, "{first:?}");
        assert!(first.disk_total > 0 && (0.0..=1.0).contains(&first.cpu), "{first:?}");
        assert!((0.0..=1.0).contains(&probe.sample().cpu));
    }
}
