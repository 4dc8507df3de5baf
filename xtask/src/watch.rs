//! A limit on how long a suite may take: what hangs is killed and counted as a failure, so that the suites behind it still run.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Marks the programs that this task starts, and all that they start: a child that outlives its parent is found as well.
pub(crate) const MARK: &str = "LOMUSAI_TASK";

/// The value of [`MARK`].
pub(crate) fn mark() -> String {
    std::process::id().to_string()
}

/// The limit in minutes: `LOMUSAI_SUITE_MINUTES`, or this.
///
/// # Errors
/// When the variable is no number above 0.
pub(crate) fn minutes(default: f64) -> Result<f64, String> {
    let Ok(text) = std::env::var("LOMUSAI_SUITE_MINUTES") else { return Ok(default) };
    match text.parse() {
        Ok(minutes) if minutes > 0.0 && f64::is_finite(minutes) => Ok(minutes),
        _ => Err(format!("LOMUSAI_SUITE_MINUTES is `{text}`: give minutes above 0, such as 25")),
    }
}

/// Does some work, and kills every program it has started when it takes too long, and every further one. Gives what the work gave, and
/// whether it was cut off.
pub(crate) fn within<T>(minutes: f64, work: impl FnOnce() -> T) -> (T, bool) {
    let (done, over) = channel::<()>();
    std::thread::scope(|scope| {
        let watch = scope.spawn(move || {
            let mut cut_off = false;
            let mut wait = Duration::from_secs_f64(minutes * 60.0);
            while over.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                if !cut_off {
                    println!("\nThis takes longer than {minutes} minutes: it is killed. LOMUSAI_SUITE_MINUTES sets the limit.");
                }
                cut_off = true;
                kill_started();
                // Whoever waited for a killed program may start the next one.
                wait = Duration::from_millis(200);
            }
            cut_off
        });
        let result = work();
        drop(done);
        (result, watch.join().expect("watching does not panic"))
    })
}

fn kill_started() {
    let marked = format!("{MARK}={}", mark());
    let own = mark();
    let Ok(processes) = fs::read_dir("/proc") else {
        // No way to find them here. Better a task that ends than one that hangs.
        println!("total: 0 passed, 1 failed, 0 skipped");
        std::process::exit(1);
    };
    let names = processes.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let found: Vec<String> = names
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()) && *name != own)
        .filter(|name| {
            let environment = fs::read(format!("/proc/{name}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == marked.as_bytes())
        })
        .collect();
    if !found.is_empty() {
        // What ended in the meantime is no failure.
        let _ = Command::new("kill").arg("-9").args(found).stderr(Stdio::null()).status();
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn sleeper(script: &str) -> std::process::ExitStatus {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env(MARK, mark());
        command.output().expect("there is a shell").status
    }

    #[test]
    fn what_hangs_is_killed_and_so_is_what_it_left_behind() {
        // The pipe stays open for as long as the orphan lives: without its end, reading would go on for ever.
        let (statuses, cut_off) = within(0.001, || [sleeper("sleep 600 & exec sleep 600"), sleeper("sleep 600")]);
        assert!(cut_off);
        assert!(statuses.iter().all(|status| !status.success()));
    }

    #[test]
    fn what_ends_in_time_is_left_alone() {
        let (status, cut_off) = within(10.0, || sleeper("true"));
        assert!(status.success() && !cut_off);
    }
}
