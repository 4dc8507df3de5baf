//! The Rust examples, and a project of a user's own that depends on the crate: what the README promises.

use std::fs;

use crate::shell::Shell;
use crate::test::Report;

/// What each example prints, in part.
const EXAMPLES: &[(&str, &[&str])] = &[
    ("hello", &["Hello from Lomusai."]),
    ("tools", &["adding 1 and 2 under the key 1.0", "1 + 2 is 3.", "digest 01"]),
    ("provider", &["Polly wants a cracker."]),
    ("stream", &["[reasoning] They want a story.", "[text] Once upon a time there was a crab.", "Completed after"]),
    (
        "workflow",
        &["Suspended: boss", "paying back 120 under the key refund-1/pay", "Completed: [\"told Ada\",\"told Bob\"]"],
    ),
    ("approval", &["waits: refund({\"order\":\"A-17\"})", "It is refunded."]),
];

pub(crate) fn rust(shell: &Shell, report: &mut Report) -> Result<(), String> {
    let folder = shell.build(&["--examples"])?.join("examples");
    for (name, expected) in EXAMPLES {
        let command = shell.command(folder.join(name));
        report.prints(&format!("examples/rust/{name}.rs"), command, expected)?;
    }
    consumer(shell, report)
}

/// The README's Rust program, in a project of its own with a path dependency.
fn consumer(shell: &Shell, report: &mut Report) -> Result<(), String> {
    let readme = fs::read_to_string(shell.root().join("README.md")).map_err(|e| format!("README.md: {e}"))?;
    let program = code_block(&readme, "rust").ok_or("README.md has no Rust program")?;
    let workspace = fs::read_to_string(shell.root().join("Cargo.toml")).map_err(|e| format!("Cargo.toml: {e}"))?;
    // The same profile and target folder: what is compiled already need not be compiled again.
    let profiles = workspace.find("[profile.dev]").map_or("", |at| &workspace[at..]);
    let profiles = &profiles[..profiles.find("[profile.release]").unwrap_or(profiles.len())];
    let folder = shell.target().join("consumer");
    let source = folder.join("src");
    fs::create_dir_all(&source).map_err(|e| format!("{}: {e}", source.display()))?;
    let manifest = format!(
        "[package]\nname = \"consumer\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\nlomusai = {{ path = {:?} }}\nschemars = \"1\"\nserde = {{ version = \"1\", features = [\"derive\"] }}\ntokio = {{ version = \"1\", features = [\"rt-multi-thread\", \"macros\"] }}\n\n{profiles}",
        shell.root().join("engine/lomusai")
    );
    for (path, text) in [(folder.join("Cargo.toml"), manifest.as_str()), (source.join("main.rs"), program)] {
        fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    // The versions that are tested here, not newer ones.
    let lock = folder.join("Cargo.lock");
    fs::copy(shell.root().join("Cargo.lock"), &lock).map_err(|e| format!("{}: {e}", lock.display()))?;
    let mut command = shell.cargo(&["run", "--quiet"]);
    command.current_dir(&folder).env("CARGO_TARGET_DIR", shell.target());
    report.prints("the README's Rust program in a project of its own", command, &["1 + 2 is 3."])
}

/// The first fenced block of a language in a Markdown text.
pub(crate) fn code_block<'a>(markdown: &'a str, language: &str) -> Option<&'a str> {
    let start = markdown.find(&format!("```{language}\n"))? + language.len() + 4;
    let rest = &markdown[start..];
    Some(&rest[..rest.find("```")?])
}
