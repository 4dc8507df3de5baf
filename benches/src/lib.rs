//! What the benchmark programs share: CPU time, and the lines they print for `cargo xtask bench`.

// Printing is what these programs do.
#![allow(clippy::print_stdout)]

use serde_json::json;

/// CPU time that this process has used, user and system, in microseconds.
///
/// # Panics
/// Where the system has no such clock.
pub fn cpu_us() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec that lives as long as the call.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut now) };
    assert_eq!(status, 0, "the process's CPU clock");
    now.tv_sec as f64 * 1e6 + now.tv_nsec as f64 / 1e3
}

/// A figure of this process's `/proc/self/status` in kB, such as `VmHWM:`, the most memory it had. 0 where there is none.
pub fn memory_kb(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let figure = status.lines().find_map(|line| line.strip_prefix(name));
    figure.and_then(|figure| figure.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// Prints a case's line: CPU time of so many calls.
pub fn print_case(case: &str, calls: u64, us: f64) {
    println!("{}", json!({"case": case, "calls": calls, "cpu_us_per_call": us / calls as f64}));
}

/// Prints a case's line: a count per something, of what has no time.
pub fn print_count(case: &str, count: f64) {
    println!("{}", json!({"case": case, "count": count}));
}
