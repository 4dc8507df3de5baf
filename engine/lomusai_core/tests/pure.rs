//! The core stays pure: nothing that does I/O, keeps a clock or runs threads is in its dependency tree.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// What the core must never depend on: runtimes, pollers, sockets, HTTP, TLS, databases, logging to the outside.
///
/// `libc` is not here. It comes with the schema validator (`ahash` seeds its maps by it, `parking_lot` parks a thread by it), and both build for
/// targets without it.
const DENIED: &[&str] = &[
    "async-io",
    "async-std",
    "chrono",
    "curl",
    "futures-executor",
    "futures-timer",
    "hyper",
    "hyper-util",
    "isahc",
    "mio",
    "native-tls",
    "openssl",
    "polling",
    "rand",
    "reqwest",
    "ring",
    "rusqlite",
    "rustls",
    "smol",
    "socket2",
    "sqlx",
    "time",
    "tokio",
    "tokio-postgres",
    "tokio-util",
    "tracing",
    "tracing-subscriber",
    "ureq",
    "uuid",
];

/// Names of the crates that `package` needs to run, itself included.
fn tree(package: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "tree",
            "--locked",
            "--package",
            package,
            "--edges",
            "normal,no-proc-macro",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("cargo prints UTF-8");
    text.lines().filter_map(|line| line.split(' ').next()).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[test]
#[allow(clippy::print_stdout, reason = "the numbers are wanted: run with --nocapture")]
fn the_core_depends_on_nothing_that_touches_the_world() {
    let core = tree("lomusai_core");
    let denied: Vec<&str> = DENIED.iter().copied().filter(|name| core.contains(*name)).collect();
    assert!(denied.is_empty(), "lomusai_core depends on {}", denied.join(", "));
    assert!(core.contains("lomusai_wire"), "the tree was read");
    println!("crates at run time: lomusai_core {}, lomusai (default features) {}", core.len(), tree("lomusai").len());
}
