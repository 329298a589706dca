//! Settings of the process: memory allocator and threads. Call [`init`] once, first thing in `main`.

use std::cell::Cell;
use std::path::Path;

use crate::{Error, Result};

/// What [`init`] found and set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runtime {
    /// Threads of the global rayon pool, on which all operators run.
    pub threads: usize,
    /// Whether the allocator was told to keep freed memory.
    pub allocator_tuned: bool,
}

/// Sets up the allocator, candle's own threads and a global rayon pool of `threads` threads, or of as many as this process may use
/// ([`available_cpus`]).
///
/// # Errors
/// `threads` is 0, or the pool exists already (something used rayon before, or this is the second call).
pub fn init(threads: Option<usize>) -> Result<Runtime> {
    let bad = |what: String| Error::Argument { op: "runtime::init", what };
    let threads = threads.unwrap_or_else(available_cpus);
    if threads == 0 {
        return Err(bad("at least one thread is needed".to_owned()));
    }
    calm_candle();
    let allocator_tuned = keep_freed_memory();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("nn-{i}"));
    pool.build_global().map_err(|e| bad(e.to_string()))?;
    Ok(Runtime { threads, allocator_tuned })
}

/// Tells candle (0.11) to add tensors on the calling thread. Otherwise every sum of more than 64 Ki elements, which a backward pass
/// makes for each gradient, is shared with threads of candle's own that spin while they wait: they take the cores from the global pool, and
/// where another process runs too, most of the time goes into spinning.
fn calm_candle() {
    const NAME: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(NAME).is_none() {
        // SAFETY: `init` is to be called first thing in `main`: no other thread reads the environment.
        unsafe { std::env::set_var(NAME, "1") };
    }
}

/// Runs `f` on a thread of the global pool. A training loop inside does its share of every operator itself instead of sleeping
/// while the pool works, which saves a wake-up for each of them.
pub fn on_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` with all operators on the calling thread. For serving, where each thread has images of its own: these stay in its cache, and no
/// operator wakes another thread.
pub fn on_this_thread<R>(f: impl FnOnce() -> R) -> R {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            ALONE.set(self.0);
        }
    }
    let _before = Before(ALONE.replace(true));
    f()
}

/// Whether operators may share their work with other threads, see [`on_this_thread`].
pub fn shares_work() -> bool {
    !ALONE.get()
}

/// CPUs that this process may keep busy: the scheduler's mask, or the container's quota (cgroup v2 or v1) if it is less.
/// The standard library knows quotas on most systems already; hosts with mixed hierarchies are covered here.
pub fn available_cpus() -> usize {
    let mask = std::thread::available_parallelism().map_or(1, |n| n.get());
    match cgroup_quota(Path::new("/sys/fs/cgroup")) {
        Some(quota) => mask.min(quota),
        None => mask,
    }
}

/// CPUs granted by the control group mounted at `root`, rounded up; `None` without a limit.
fn cgroup_quota(root: &Path) -> Option<usize> {
    let read = |name: &str| std::fs::read_to_string(root.join(name)).ok();
    let v2 = read("cpu.max").and_then(|text| {
        let mut words = text.split_whitespace();
        cpus(words.next()?, words.next()?)
    });
    v2.or_else(|| {
        let (quota, period) = (read("cpu/cpu.cfs_quota_us")?, read("cpu/cpu.cfs_period_us")?);
        cpus(quota.trim(), period.trim())
    })
}

/// quota / period, rounded up; `None` for no limit ("max" or -1) and for what is not a number.
fn cpus(quota: &str, period: &str) -> Option<usize> {
    let (quota, period): (usize, usize) = (quota.parse().ok()?, period.parse().ok()?);
    if period == 0 { None } else { Some(quota.div_ceil(period).max(1)) }
}

/// Tensors are allocated and freed by the megabyte many times a second. By default glibc returns each to the system at once and
/// the next one is paid for in page faults; kept memory is reused instead.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_freed_memory() -> bool {
    // The largest threshold that glibc takes: half of its largest heap. Larger tensors are mapped anew each time.
    const MMAP_THRESHOLD: libc::c_int = 32 * 1024 * 1024;
    const TRIM_THRESHOLD: libc::c_int = libc::c_int::MAX;
    // SAFETY: mallopt takes any pair of numbers and reports by its result whether it accepts them.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD) == 1
            && libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD) == 1
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_freed_memory() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(files: &[(&str, &str)]) -> Option<usize> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("cpu")).unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        cgroup_quota(dir.path())
    }

    #[test]
    fn quotas_of_both_versions_are_read_and_rounded_up() {
        assert_eq!(quota(&[("cpu.max", "150000 100000\n")]), Some(2));
        assert_eq!(quota(&[("cpu.max", "5000 100000\n")]), Some(1));
        assert_eq!(quota(&[("cpu.max", "max 100000\n")]), None);
        let v1 = |q| quota(&[("cpu/cpu.cfs_quota_us", q), ("cpu/cpu.cfs_period_us", "100000\n")]);
        assert_eq!(v1("300000\n"), Some(3));
        assert_eq!(v1("-1\n"), None);
        assert_eq!(quota(&[]), None);
        assert_eq!(quota(&[("cpu.max", "rubbish")]), None);
    }

    #[test]
    fn zero_threads_are_refused() {
        assert!(init(Some(0)).is_err());
        assert!(available_cpus() >= 1);
    }
}
