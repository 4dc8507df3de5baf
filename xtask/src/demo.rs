//! `cargo xtask demo`: one run in three programs. Python begins it and is killed, Node goes on with it, C reads its journal.

use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::shell::Shell;
use crate::suites::{c, node, python};

pub(crate) const USAGE: &str = "[--plain]";

pub(crate) fn run(shell: &Shell, arguments: &[&str]) -> Result<(), String> {
    let plain = match arguments {
        [] => !std::io::stdout().is_terminal(),
        ["--plain"] => true,
        other => return Err(format!("unknown argument `{}`: cargo xtask demo {USAGE}", other.join(" "))),
    };
    let say = |text: &str| if plain { println!("\n{text}") } else { println!("\n\x1b[1;36m{text}\x1b[0m") };
    let folder = shell.target().join("demo");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("node_modules/@lomusai")).map_err(|e| format!("{}: {e}", folder.display()))?;

    say("Building the library and its packages. The first time this takes some minutes.");
    let interpreter = python::interpreter(shell)?;
    let link = folder.join("node_modules/@lomusai/node");
    std::os::unix::fs::symlink(node::package(shell)?, &link).map_err(|e| format!("{}: {e}", link.display()))?;
    let sources = shell.root().join("examples/demo");
    fs::copy(sources.join("resume.mjs"), folder.join("resume.mjs")).map_err(|e| format!("resume.mjs: {e}"))?;
    let journal = folder.join("journal");
    c::compile(shell, &sources.join("journal.c"), &journal)?;

    let file = folder.join("runs.db");
    say("1. A program in Python runs an agent. Its tool wants a person's approval.");
    println!("   The model is a script, so that the demo needs no key and no download; everything else is real.\n");
    let mut command = shell.command(&interpreter);
    command.arg(sources.join("start.py")).arg(&file);
    let run_id = shown_until_it_waits(command)?;

    say("2. That process was just killed (SIGKILL), while the run waited. What is left of it is one file:");
    println!("   {} bytes in {}", size(&file), name(&file));

    say("3. A program in Node opens the file, registers its own `refund`, and approves.");
    let mut command = shell.command("node");
    command.arg(folder.join("resume.mjs")).arg(&file).arg(&run_id);
    succeed(command)?;

    say("4. A program in C reads the journal, and its digest: the same in every language.");
    let mut command = shell.command(&journal);
    command.arg(&file).arg(&run_id);
    succeed(command)?;

    say("The programs are in examples/demo. The README begins with the smallest ones.");
    Ok(())
}

/// Shows what a program prints until it says which run waits, and kills it.
fn shown_until_it_waits(mut command: Command) -> Result<String, String> {
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let (mut line, mut run_id) = (Vec::new(), None);
    // By the byte: an answer is shown while it is written.
    while let Some(byte) = output.fill_buf().map_err(|e| e.to_string())?.first().copied() {
        output.consume(1);
        line.push(byte);
        let begins_run = b"run ".starts_with(&line[..line.len().min(4)]);
        if byte == b'\n' {
            if let Some(id) = std::str::from_utf8(&line).ok().and_then(|line| line.strip_prefix("run ")) {
                run_id = Some(id.trim().to_owned());
                break;
            }
            line.clear();
        }
        if !begins_run {
            let mut out = std::io::stdout();
            out.write_all(&[byte]).and_then(|()| out.flush()).map_err(|e| e.to_string())?;
        }
    }
    child.kill().and_then(|()| child.wait()).map_err(|e| e.to_string())?;
    run_id.ok_or_else(|| "the program ended before its run waited".into())
}

fn succeed(mut command: Command) -> Result<(), String> {
    let status = command.status().map_err(|e| e.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}")) }
}

fn size(file: &Path) -> u64 {
    // Both count: what is committed is in the log beside the file until it is folded in.
    let wal = format!("{}-wal", file.display());
    [file, Path::new(&wal)].iter().filter_map(|path| fs::metadata(path).ok()).map(|file| file.len()).sum()
}

fn name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
