//! What the process takes, from Linux's /proc; under the names that Prometheus's own client libraries use.

use std::fs;
use std::sync::Mutex;

use super::{Counter, Gauge, Level, Metrics, Unit, lock};

/// Ticks of a second in /proc: a constant of the kernel's interface, whatever the kernel's own clock.
const TICKS: f64 = 100.0;

/// Absent where there is no /proc.
#[derive(Debug, Default)]
pub(super) struct Process {
    resident: Gauge,
    cpu: Counter<f64, std::sync::atomic::AtomicU64>,
    open_files: Gauge,
    start: Level,
    threads: Gauge,
    workers: Gauge,
    /// One reading after the other: the counter is moved by differences.
    reading: Mutex<()>,
}

/// Fields of /proc/self/stat.
struct Stat {
    cpu_seconds: f64,
    start_ticks: f64,
    threads: i64,
}

impl Process {
    pub(super) fn new() -> Option<Process> {
        let process = Process::default();
        let boot = boot_seconds()?;
        process.start.set(boot + stat()?.start_ticks / TICKS);
        process.refresh();
        Some(process)
    }

    pub(super) fn register(&self, metrics: &Metrics) {
        let (seconds, bytes) = (Unit::Seconds, Unit::Bytes);
        metrics.add_with_unit("process_resident_memory", "Resident memory", bytes, self.resident.clone());
        metrics.add_with_unit("process_cpu", "CPU time, user and system", seconds.clone(), self.cpu.clone());
        metrics.add("process_open_fds", "Open files and sockets", self.open_files.clone());
        metrics.add_with_unit("process_start_time", "Start, since 1970", seconds, self.start.clone());
        metrics.add("process_threads", "Threads, of whatever kind", self.threads.clone());
        metrics.add("semlink_worker_threads", "Threads that serve calls", self.workers.clone());
    }

    /// Reads them anew; what cannot be read stays.
    pub(super) fn refresh(&self) {
        let _reading = lock(&self.reading);
        if let Some(stat) = stat() {
            self.cpu.inc_by((stat.cpu_seconds - self.cpu.get()).max(0.0));
            self.threads.set(stat.threads);
        }
        if let Some(resident) = resident_bytes() {
            self.resident.set(resident);
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            // Without the one that reads.
            self.open_files.set((files.count() as i64 - 1).max(0));
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.workers.set(runtime.metrics().num_workers() as i64);
        }
    }
}

fn stat() -> Option<Stat> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // The name before it may hold spaces and brackets.
    let (_, after) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    // proc(5) counts from 1 and with the two before.
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let cpu_seconds = (field(14)? + field(15)?) / TICKS;
    Some(Stat { cpu_seconds, threads: field(20)? as i64, start_ticks: field(22)? })
}

fn resident_bytes() -> Option<i64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn boot_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::{Instant, SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_process_is_seen_as_it_is() {
        let process = Process::new().expect("Linux has /proc");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now - process.start.get()).abs() < 3600.0, "started {} s, now {now} s", process.start.get());

        let (before, cpu) = (process.resident.get(), process.cpu.get());
        // Written, so that it is resident.
        let held = vec![1_u8; 64 << 20];
        let files: Vec<_> = (0..20).map(|_| fs::File::open("/proc/self/stat").unwrap()).collect();
        let start = Instant::now();
        while start.elapsed().as_millis() < 100 {
            std::hint::black_box(held.iter().map(|&byte| u64::from(byte)).sum::<u64>());
        }
        process.refresh();
        assert!(process.resident.get() - before > 48 << 20, "{before} then {}", process.resident.get());
        assert!(process.open_files.get() >= files.len() as i64, "{} files", process.open_files.get());
        assert!(process.cpu.get() > cpu, "{cpu} then {}", process.cpu.get());
        assert!(process.threads.get() >= 1);
    }

    #[test]
    fn workers_are_those_of_the_runtime() {
        let process = Process::new().expect("Linux has /proc");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).build().unwrap();
        runtime.block_on(async { process.refresh() });
        assert_eq!(process.workers.get(), 3);
    }
}
