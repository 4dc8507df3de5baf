//! What the benchmark programs share: CPU time, and the lines they print for `cargo xtask bench`.

// Printing is what these programs do.
#![allow(clippy::print_stdout)]

pub mod flows;

use std::alloc::{GlobalAlloc, Layout};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use lomusai::tool::{Tool, TypedTool};
use serde_json::json;

/// The allocator that the libraries for hosts have.
#[cfg(all(target_os = "linux", not(debug_assertions)))]
pub use mimalloc::MiMalloc as Allocator;
/// The allocator that the libraries for hosts have.
#[cfg(not(all(target_os = "linux", not(debug_assertions))))]
pub use std::alloc::System as Allocator;

/// The same, counted: make it the `global_allocator`.
pub struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

impl Counting {
    /// How often memory was asked for so far, by all threads; growing counts as asking.
    pub fn allocations() -> u64 {
        ALLOCATIONS.load(Ordering::Relaxed)
    }
}

// SAFETY: everything is passed on to the allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { Allocator.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { Allocator.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { Allocator.realloc(pointer, layout, size) }
    }
}

/// What a model calls `add` with.
#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Sum {
    a: f64,
    b: f64,
}

/// A tool that adds two numbers.
pub fn add(name: &str) -> impl Tool + use<> {
    TypedTool::new(name, "Add two numbers", |_context, sum: Sum| async move { Ok(json!({"sum": sum.a + sum.b})) })
}

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

/// The clock on the wall.
#[allow(clippy::disallowed_methods, reason = "a benchmark times the real world; nothing is replayed")]
pub fn now() -> Instant {
    Instant::now()
}

/// CPU time of each thread that this process has, by its id, in microseconds. Empty where the system does not say.
pub fn threads_cpu_us() -> HashMap<String, f64> {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return HashMap::new() };
    let of_thread = |thread: std::fs::DirEntry| {
        let spent = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let nanoseconds: f64 = spent.split_ascii_whitespace().next()?.parse().ok()?;
        Some((thread.file_name().into_string().ok()?, nanoseconds / 1e3))
    };
    threads.flatten().filter_map(of_thread).collect()
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

/// Prints a case's line: bytes per microsecond, which is megabytes per second.
pub fn print_speed(case: &str, mb_per_s: f64) {
    println!("{}", json!({"case": case, "mb_per_s": mb_per_s}));
}

/// Prints a case's line: a count per something, of what has no time.
pub fn print_count(case: &str, count: f64) {
    println!("{}", json!({"case": case, "count": count}));
}

/// Prints a case's line: time by the clock per something, which says what it waited for, and what else the machine did.
pub fn print_wall(case: &str, us: f64) {
    println!("{}", json!({"case": format!("{case}: by the clock"), "wall_us": us}));
}
