//! The C ABI as C programs see it: the header, the exported symbols, conformance, hostile hosts, valgrind, and an installed prefix.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::examples::code_block;
use crate::edition::Edition;
use crate::files::fresh;
use crate::shell::Shell;
use crate::soak::{self, Counter};
use crate::tally::Reader;
use crate::test::Report;

/// The number in the library's file name. See `ffi/build.rs`.
const ABI: &str = "1";

const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-pedantic"];

/// What each example prints, in part.
const EXAMPLES: &[(&str, &[&str])] = &[
    ("hello", &["Hello from Lomusai."]),
    ("tools", &["adding 1 and 2", "1 + 2 is 3.", "digest 01"]),
    ("provider", &["Polly wants a cracker."]),
    ("stream", &["Once upon a time there was a crab.", "completed"]),
    ("workflow", &["suspended for boss", "under the key refund-1/pay", "completed: told Ada and Bob"]),
    ("approval", &["suspended: refund waits", "paying back {\"order\":\"A-17\"}", "It is refunded."]),
];

/// Hosts that break the rules, so that valgrind can look at each alone. Those that only start processes are left out.
const HOSTILE: &[&str] = &[
    "answers_twice",
    "drops_unanswered",
    "answers_invalid_json",
    "answers_invalid_utf8_and_nul",
    "rejects_with_nul_bytes",
    "never_answers",
    "answers_after_cancel",
    "answers_after_close",
    "answers_64_mib",
    "calls_back_a_thousand_deep",
    "unregisters_itself",
    "closes_in_a_callback",
    "frees_the_run_in_its_callback",
    "frees_the_run_unread",
    "a_forked_child_uses_the_engine",
    "null_everywhere",
    "a_step_answers_twice",
    "a_step_drops_unanswered",
    "a_step_answers_invalid_json",
    "a_step_fails_for_good",
    "a_step_never_answers",
    "a_step_answers_after_cancel",
    "a_run_is_resumed_twice_at_once",
];

pub(crate) fn run(shell: &Shell, report: &mut Report) -> Result<(), String> {
    needs(shell)?;
    let folder = folder(shell)?;
    let root = shell.root().to_path_buf();
    library(shell, Edition::Usual)?;
    symbols(shell, report)?;
    headers(shell, report, &folder)?;

    for name in ["basic", "hostile", "models", "conformance"] {
        compile(shell, &root.join(format!("tests/c/{name}.c")), &folder.join(name))?;
        report.tests(&format!("tests/c/{name}.c"), shell.command(folder.join(name)), Reader::Plain)?;
    }
    compile(shell, &root.join("tests/c/bad_input.c"), &folder.join("bad_input"))?;
    report.tests("tests/c/bad_input.c", shell.command(folder.join("bad_input")), Reader::Plain)?;
    for (name, expected) in EXAMPLES {
        let program = folder.join(format!("example-{name}"));
        compile(shell, &root.join(format!("examples/c/{name}.c")), &program)?;
        let mut command = shell.command(&program);
        command.current_dir(&folder);
        report.prints(&format!("examples/c/{name}.c"), command, expected)?;
    }
    readme(shell, report, &folder)?;
    compile(shell, &root.join("tests/c/frozen/client.c"), &folder.join("frozen"))?;
    report.prints("tests/c/frozen/client.c", shell.command(folder.join("frozen")), &["frozen client: "])?;
    installed(shell, report, &folder)?;
    valgrind(shell, report, &folder)
}

/// Each hostile case so often that a leak shows.
pub(crate) fn soak(shell: &Shell, report: &mut Report) -> Result<(), String> {
    needs(shell)?;
    let program = folder(shell)?.join("hostile");
    compile(shell, &shell.root().join("tests/c/hostile.c"), &program)?;
    let counter = Counter::new(shell, "c")?;
    for case in HOSTILE.iter().chain(["exits_in_mid_run"].iter()) {
        let mut command = shell.command(&program);
        command.args(["--soak", case, soak::TIMES]);
        report.tests(&format!("soak of {case}"), counter.counts(command), Reader::Plain)?;
    }
    Ok(())
}

/// The README's program.
fn readme(shell: &Shell, report: &mut Report, folder: &Path) -> Result<(), String> {
    let page = fs::read_to_string(shell.root().join("README.md")).map_err(|e| format!("README.md: {e}"))?;
    let source = folder.join("readme.c");
    let program = code_block(&page, "c").ok_or("README.md has no C program")?;
    fs::write(&source, program).map_err(|e| format!("{}: {e}", source.display()))?;
    compile(shell, &source, &folder.join("readme"))?;
    report.prints("the README's C program", shell.command(folder.join("readme")), &["1 + 2 is 3.", "run_finished"])
}

/// The folder with the shared and the static library, built from what is there now.
pub(crate) fn library(shell: &Shell, edition: Edition) -> Result<PathBuf, String> {
    let folder = edition.c_library(shell)?;
    // Programs look for it by the name inside it; cargo makes only the other one.
    let name = folder.join(format!("libmlomusai.so.{ABI}"));
    if cfg!(target_os = "linux") && !name.exists() {
        let _ = fs::remove_file(&name);
        std::os::unix::fs::symlink("libmlomusai.so", &name).map_err(|e| format!("{}: {e}", name.display()))?;
    }
    Ok(folder)
}

/// Compiles one C program against the library of the checkout, so that it runs from anywhere.
pub(crate) fn compile(shell: &Shell, source: &Path, program: &Path) -> Result<(), String> {
    compile_with(shell, Edition::Usual, source, program)
}

/// As [`compile`], against either edition of the library.
pub(crate) fn compile_with(shell: &Shell, edition: Edition, source: &Path, program: &Path) -> Result<(), String> {
    shell.need("gcc", "gcc")?;
    let library = library(shell, edition)?;
    let mut command = compiler(shell, "gcc", "c11");
    command.arg("-g").arg(format!("-I{}", shell.root().join("include").display()));
    command.arg(source).arg("-o").arg(program);
    command.arg(format!("-L{}", library.display())).arg("-lmlomusai");
    command.arg(format!("-Wl,-rpath,{}", library.display())).arg("-pthread");
    if fs::read_to_string(source).is_ok_and(|text| text.contains("<jansson.h>")) {
        command.arg("-ljansson");
    }
    shell.run(command)
}

fn compiler(shell: &Shell, program: &str, standard: &str) -> Command {
    let mut command = shell.command(program);
    command.args([&format!("-std={standard}"), "-D_GNU_SOURCE"]).args(WARNINGS);
    command
}

fn needs(shell: &Shell) -> Result<(), String> {
    for (program, package) in
        [("gcc", "gcc"), ("g++", "g++"), ("nm", "binutils"), ("pkg-config", "pkg-config"), ("valgrind", "valgrind")]
    {
        shell.need(program, package)?;
    }
    shell.need_header("jansson.h", "libjansson-dev")
}

fn folder(shell: &Shell) -> Result<PathBuf, String> {
    let folder = shell.target().join("c");
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    Ok(folder)
}

/// What the library exports is what `ffi/symbols.txt` promises: a function that is gone breaks programs, one too many is a promise.
fn symbols(shell: &Shell, report: &mut Report) -> Result<(), String> {
    let promised = fs::read_to_string(shell.root().join("ffi/symbols.txt")).map_err(|e| format!("symbols.txt: {e}"))?;
    let mut nm = shell.command("nm");
    nm.args(["-D", "--defined-only"]).arg(library(shell, Edition::Usual)?.join("libmlomusai.so"));
    let output = nm.output().map_err(|e| format!("nm: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut exported: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().last()).collect();
    exported.sort_unstable();
    let promised: Vec<&str> = promised.lines().collect();
    if exported == promised {
        println!("ok: {} symbols are exported, as ffi/symbols.txt says", exported.len());
        report.pass();
    } else {
        let missing: Vec<&&str> = promised.iter().filter(|name| !exported.contains(name)).collect();
        let extra: Vec<&&str> = exported.iter().filter(|name| !promised.contains(name)).collect();
        report.fail(format!("exported symbols differ from ffi/symbols.txt: missing {missing:?}, not listed {extra:?}"));
    }
    Ok(())
}

/// The header stands alone, in both languages.
fn headers(shell: &Shell, report: &mut Report, folder: &Path) -> Result<(), String> {
    let include = format!("-I{}", shell.root().join("include").display());
    for (program, standard, extension) in [("gcc", "c11", "c"), ("g++", "c++17", "cpp")] {
        let source = folder.join(format!("header.{extension}"));
        fs::write(
            &source,
            "#include <lomusai.h>\nint main(void) { return lomusai_abi_version() != LOMUSAI_ABI_VERSION; }\n",
        )
        .map_err(|e| format!("{}: {e}", source.display()))?;
        let mut command = compiler(shell, program, standard);
        command.args([&include, "-fsyntax-only"]).arg(&source);
        report.check(&format!("lomusai.h as {standard}"), command)?;
    }
    Ok(())
}

/// Programs of a user's own, against an installed prefix: by pkg-config, by CMake, and with the static library.
fn installed(shell: &Shell, report: &mut Report, folder: &Path) -> Result<(), String> {
    let prefix = folder.join("prefix");
    let _ = fs::remove_dir_all(&prefix);
    let mut install = shell.command("sh");
    install
        .arg("ffi/install.sh")
        .env("PREFIX", &prefix)
        .env("BUILD", library(shell, Edition::Usual)?)
        .env_remove("DESTDIR");
    install.env_remove("LIBDIR").env_remove("INCLUDEDIR");
    shell.run(install)?;

    let app = shell.root().join("examples/c/tools.c");
    let mut flags = shell.command("pkg-config");
    flags.args(["--cflags", "--libs", "lomusai"]).env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
    let output = flags.output().map_err(|e| format!("pkg-config: {e}"))?;
    if !output.status.success() {
        return Err(format!("pkg-config: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let flags = String::from_utf8_lossy(&output.stdout).into_owned();
    let program = folder.join("app");
    let mut gcc = shell.command("gcc");
    gcc.arg(&app).arg("-o").arg(&program).args(flags.split_whitespace());
    shell.run(gcc)?;
    let mut command = shell.command(&program);
    command.env("LD_LIBRARY_PATH", prefix.join("lib"));
    report.prints("a program built with pkg-config", command, &["1 + 2 is 3."])?;

    let program = folder.join("app-static");
    let mut gcc = shell.command("gcc");
    gcc.arg(&app).arg("-o").arg(&program).arg(format!("-I{}", prefix.join("include").display()));
    gcc.arg(prefix.join("lib/libmlomusai.a")).args(["-pthread", "-ldl", "-lm"]);
    shell.run(gcc)?;
    report.prints("a program with the static library", shell.command(&program), &["1 + 2 is 3."])?;

    if let Err(why) = shell.need("cmake", "cmake") {
        report.skip(&format!("the CMake package: {why}"));
        return Ok(());
    }
    let build = folder.join("cmake");
    by_cmake(shell, &prefix, &build)?;
    for name in ["app", "app_static"] {
        report.prints(&format!("CMake's {name}"), shell.command(build.join(name)), &["1 + 2 is 3."])?;
    }
    Ok(())
}

/// Builds a project that finds the library by its CMake package.
fn by_cmake(shell: &Shell, prefix: &Path, build: &Path) -> Result<(), String> {
    let _ = fs::remove_dir_all(build);
    let app = shell.root().join("examples/c/tools.c");
    let mut configure = shell.command("cmake");
    configure.args(["-S", "tests/c/consumer", "-B"]).arg(build).arg(format!("-DAPP={}", app.display()));
    configure.arg(format!("-DCMAKE_PREFIX_PATH={}", prefix.display()));
    shell.run(configure)?;
    let mut make = shell.command("cmake");
    make.arg("--build").arg(build);
    shell.run(make)
}

/// Unpacks an archive in a clean folder, and builds and runs an example against it as its user would.
pub(crate) fn unpacked(shell: &Shell, archive: &Path) -> Result<(), String> {
    let folder = shell.target().join("try-c");
    fresh(&folder)?;
    let mut tar = shell.command("tar");
    tar.current_dir(&folder).args(["--extract", "--strip-components=1", "--file"]).arg(archive);
    shell.run(tar)?;
    let mut flags = shell.command("pkg-config");
    flags.args(["--cflags", "--libs", "lomusai"]).env("PKG_CONFIG_PATH", folder.join("lib/pkgconfig"));
    let output = flags.output().map_err(|e| format!("pkg-config: {e}"))?;
    let flags = String::from_utf8_lossy(&output.stdout).into_owned();
    for (name, last) in [("app", &[][..]), ("app-static", &["-Wl,-Bstatic", "-lmlomusai", "-Wl,-Bdynamic"][..])] {
        let (program, libraries) = (folder.join(name), folder.join("lib"));
        let mut gcc = compiler(shell, "gcc", "c11");
        gcc.arg("examples/c/tools.c").arg("-o").arg(&program);
        match last {
            [] => gcc.args(flags.split_whitespace()),
            _ => gcc.arg("-I").arg(folder.join("include")).arg("-L").arg(&libraries).args(last),
        };
        gcc.args(["-pthread", "-ldl", "-lm"]);
        shell.run(gcc)?;
        let mut command = shell.command(&program);
        command.env("LD_LIBRARY_PATH", libraries);
        shell.says(command, "1 + 2 is 3.")?;
    }
    shell.need("cmake", "cmake")?;
    let build = folder.join("cmake");
    by_cmake(shell, &folder, &build)?;
    for name in ["app", "app_static"] {
        shell.says(shell.command(build.join(name)), "1 + 2 is 3.")?;
    }
    Ok(())
}

fn valgrind(shell: &Shell, report: &mut Report, folder: &Path) -> Result<(), String> {
    let check = |program: &Path, arguments: &[&str], rounds: &str| {
        let mut command = shell.command("valgrind");
        // Nothing is suppressed. "Possibly lost" is no error: Rust's handle of the main thread is held by a pointer into its middle.
        // One thread at a time by turns, or a polling thread starves the others.
        command.args(["--quiet", "--error-exitcode=9", "--fair-sched=yes", "--leak-check=full"]);
        command.args(["--show-leak-kinds=definite,indirect", "--errors-for-leak-kinds=definite,indirect"]);
        command.arg(program).args(arguments);
        // With backtraces on, the symbolizer's cache would be in the way.
        command.env("RUST_BACKTRACE", "0").env("LOMUSAI_ROUNDS", rounds).env("LOMUSAI_FEW", "1");
        command
    };
    report.check("valgrind of basic", check(&folder.join("basic"), &[], "1"))?;
    for case in HOSTILE {
        report.check(&format!("valgrind of {case}"), check(&folder.join("hostile"), &[case], "50"))?;
    }
    Ok(())
}
