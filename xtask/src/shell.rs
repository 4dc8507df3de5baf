//! Running other programs: in the checkout, without stdin, with what they print seen at once.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;

use crate::tally::{Reader, Tally};
use crate::watch;

/// Where tasks work.
pub(crate) struct Shell {
    root: PathBuf,
    output: Output,
}

/// What people see of the programs that are run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    /// All of it.
    Shown,
    /// Nothing, unless one fails.
    Kept,
    /// The last line, which the next one takes the place of; all of it if one fails.
    Last,
}

impl Shell {
    pub(crate) fn new() -> Self {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.parent().expect("xtask is one folder below the root").to_path_buf();
        Self { root, output: Output::Shown }
    }

    /// The same, but what programs print is only seen where one fails. `moving`: their last line is seen while they run.
    pub(crate) fn quiet(&self, moving: bool) -> Self {
        Self { root: self.root.clone(), output: if moving { Output::Last } else { Output::Kept } }
    }

    /// The checkout.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where everything that a task makes goes.
    pub(crate) fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// A program, to run in the checkout.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).stdin(Stdio::null()).env(watch::MARK, watch::mark());
        // Where it is relative, it is meant from here, and not from where each runner stands.
        if let Some(vectors) = std::env::var_os("LOMUSAI_VECTORS").and_then(|folder| std::path::absolute(folder).ok()) {
            command.env("LOMUSAI_VECTORS", vectors);
        }
        // `cargo run` adds variables about xtask. Build scripts that watch them would run again at every change between
        // `cargo xtask test` and `cargo test`, and its library path would hide that a program does not find our library.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "OUT_DIR" {
                command.env_remove(&name);
            }
        }
        if let Some(paths) = std::env::var_os("LD_LIBRARY_PATH") {
            let target = self.target();
            let ours =
                |path: &PathBuf| path.starts_with(&target) || path.components().any(|c| c.as_os_str() == "toolchains");
            let kept: Vec<PathBuf> = std::env::split_paths(&paths).filter(|path| !ours(path)).collect();
            match std::env::join_paths(&kept) {
                Ok(paths) if !kept.is_empty() => command.env("LD_LIBRARY_PATH", paths),
                _ => command.env_remove("LD_LIBRARY_PATH"),
            };
        }
        command
    }

    /// The cargo that runs this task.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments);
        self.cached(&mut command);
        command
    }

    /// Cargo for the packages that are tested. Which features a shared dependency has depends on what is built beside it: only where all
    /// suites name the same packages do they share one build. The extension module of Python has a build of its own, by maturin.
    pub(crate) fn tested(&self, command: &str) -> Command {
        self.cargo(&[command, "--workspace", "--exclude", "lomusai_python"])
    }

    /// Builds some of what the tests build, with `--lib`, `--bin NAME` or `--example NAME`, and gives the folder where cargo puts it.
    pub(crate) fn build(&self, targets: &[&str]) -> Result<PathBuf, String> {
        let mut command = self.tested("build");
        // An example makes cargo count the packages that only tests need, as it does for the tests themselves.
        command.arg("--quiet").args(targets).args(["--example", "hello"]);
        self.run(command)?;
        Ok(self.target().join("debug"))
    }

    /// Has what a build compiles in C and C++ kept in a cache, where there is one: llama.cpp is built for each of cargo's folders and
    /// profiles, and only the first time takes minutes then.
    pub(crate) fn cached(&self, build: &mut Command) {
        if found("ccache") {
            build.env("CMAKE_C_COMPILER_LAUNCHER", "ccache").env("CMAKE_CXX_COMPILER_LAUNCHER", "ccache");
        }
    }

    /// Makes sure that llama.cpp can be built: what the feature `local` needs.
    pub(crate) fn need_llama(&self) -> Result<(), String> {
        self.need("c++", "g++")?;
        self.need("cmake", "cmake")?;
        self.need("make", "make")?;
        // Its headers are read with libclang, which has no program; the compiler, whose own headers are read along, has.
        self.need("clang", "clang")?;
        if cfg!(target_os = "linux") && std::env::var_os("LIBCLANG_PATH").is_none() && !libclang() {
            self.install("libclang-dev").map_err(|why| {
                format!("libclang is missing: install the system package `libclang-dev`, or set LIBCLANG_PATH ({why})")
            })?;
        }
        // It only saves time.
        let _ = self.need("ccache", "ccache");
        Ok(())
    }

    /// Makes sure that a program is there: installs its Debian package where that is possible, or says what to install.
    pub(crate) fn need(&self, program: &str, package: &str) -> Result<(), String> {
        if found(program) {
            return Ok(());
        }
        self.install(package)
            .map_err(|why| format!("`{program}` is missing: install the system package `{package}` ({why})"))?;
        if found(program) { Ok(()) } else { Err(format!("the system package `{package}` brought no `{program}`")) }
    }

    /// As [`need`](Self::need), for a header of a C library.
    pub(crate) fn need_header(&self, header: &str, package: &str) -> Result<(), String> {
        let found = || {
            let mut command = self.command("gcc");
            command.args(["-E", "-include", header, "-x", "c", "/dev/null", "-o", "/dev/null"]);
            command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        if found() {
            return Ok(());
        }
        self.install(package)
            .map_err(|why| format!("`{header}` is missing: install the system package `{package}` ({why})"))?;
        if found() { Ok(()) } else { Err(format!("the system package `{package}` brought no `{header}`")) }
    }

    fn install(&self, package: &str) -> Result<(), String> {
        if !found("apt-get") {
            return Err("there is no apt-get here to do it".into());
        }
        let user = self.command("id").arg("-u").output().map_err(|e| format!("id: {e}"))?;
        if user.stdout.trim_ascii() != b"0" {
            return Err("this user may not".into());
        }
        println!("installing the system package {package}");
        let apt = |arguments: &[&str]| {
            let mut command = self.command("apt-get");
            command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
            self.run(command)
        };
        apt(&["-q", "update"])?;
        apt(&["-q", "install", "--yes", "--no-install-recommends", package])
    }

    /// A Python of our own under `target/venv`, with the pinned packages of `requirements` (a file) installed.
    pub(crate) fn venv(&self, requirements: &Path) -> Result<PathBuf, String> {
        let (venv, wanted) = (self.target().join("venv"), read(requirements)?);
        let python = venv.join("bin/python");
        let stamp = venv.join(format!("{}.stamp", requirements.display().to_string().replace('/', "_")));
        if python.exists() && fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
            return Ok(python);
        }
        if !python.exists() {
            self.need("python3", "python3")?;
            let make = || {
                let mut command = self.command("python3");
                command.args(["-m", "venv"]).arg(&venv);
                self.run(command)
            };
            // Debian ships Python without the part that fills a venv.
            make().or_else(|_| self.install("python3-venv").and_then(|()| make())).map_err(|why| {
                format!("no Python venv can be made: install the system package `python3-venv` ({why})")
            })?;
        }
        let mut pip = self.command(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(requirements);
        self.run(pip)?;
        fs::write(&stamp, wanted).map_err(|e| format!("{}: {e}", stamp.display()))?;
        Ok(python)
    }

    /// Installs what the `package.json` in `folder` asks for, if it is not there yet.
    pub(crate) fn npm_install(&self, folder: &Path) -> Result<(), String> {
        self.need("npm", "npm")?;
        let locked = folder.join("package-lock.json").exists();
        let wanted = read(&folder.join(if locked { "package-lock.json" } else { "package.json" }))?;
        let stamp = folder.join("node_modules/.lomusai-stamp");
        if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
            return Ok(());
        }
        let mut npm = self.command("npm");
        npm.current_dir(folder).args([if locked { "ci" } else { "install" }, "--no-audit", "--no-fund"]);
        self.run(npm)?;
        fs::create_dir_all(stamp.parent().expect("a stamp is in a folder"))
            .and_then(|()| fs::write(&stamp, wanted))
            .map_err(|e| format!("{}: {e}", stamp.display()))
    }

    /// Runs a program that must end well and print this.
    pub(crate) fn says(&self, mut command: Command, expected: &str) -> Result<(), String> {
        let shown = shown(&command);
        let output = command.output().map_err(|e| format!("{shown}: cannot be started: {e}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        if output.status.success() && said.contains(expected) {
            println!("ok: {shown}");
            return Ok(());
        }
        let complained = String::from_utf8_lossy(&output.stderr);
        Err(format!("{shown}: {}, and did not print `{expected}`\n{said}{complained}", output.status))
    }

    /// Runs a program whose output people want to see.
    pub(crate) fn run(&self, command: Command) -> Result<(), String> {
        let shown = shown(&command);
        let (status, said) = match self.output {
            Output::Shown => (stream(command, None)?.0, String::new()),
            output => kept(command, output == Output::Last)?,
        };
        if status.success() { Ok(()) } else { Err(format!("{said}{shown}: {status}")) }
    }
}

/// Runs a program and gives what it printed. `moving`: its last line is shown meanwhile, in dim letters behind what stands there.
fn kept(mut command: Command, moving: bool) -> Result<(ExitStatus, String), String> {
    let shown = shown(&command);
    let (read, write) = std::io::pipe().map_err(|e| format!("{shown}: {e}"))?;
    let second = write.try_clone().map_err(|e| format!("{shown}: {e}"))?;
    let mut child =
        command.stdout(write).stderr(second).spawn().map_err(|e| format!("{shown}: cannot be started: {e}"))?;
    // Its ends of the pipe are closed with the command: the output ends with the program.
    drop(command);
    let mut said = String::new();
    for line in BufReader::new(read).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        if moving {
            let short: String = line.trim().chars().take(60).collect();
            // Where the cursor was is remembered: each line takes the place of the last.
            print!("\x1b7\x1b[2m{short}\x1b[0m\x1b[K\x1b8");
            let _ = std::io::stdout().flush();
        }
        said.push_str(&line);
        said.push('\n');
    }
    let status = child.wait().map_err(|e| format!("{shown}: {e}"))?;
    Ok((status, said))
}

/// Whether clang's library is where it is looked for.
fn libclang() -> bool {
    let listed = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let llvm = listed("/usr/lib".into()).filter(|path| path.to_string_lossy().contains("llvm"));
    let systems = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from).into_iter();
    let machine = PathBuf::from(format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    systems.chain([machine]).chain(llvm.map(|path| path.join("lib"))).any(|folder| {
        listed(folder).any(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libclang")))
    })
}

/// Runs a program, shows what it prints as it prints it, and counts what its lines say.
pub(crate) fn stream(mut command: Command, reader: Option<Reader>) -> Result<(ExitStatus, Tally), String> {
    let shown = shown(&command);
    println!("$ {shown}");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{shown}: cannot be started: {e}"))?;
    let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let tally = Mutex::new(Tally::default());
    let count = |line: &str| {
        if let Some(reader) = reader {
            *tally.lock().expect("no panic while counting") += reader.read(line);
        }
    };
    std::thread::scope(|scope| {
        // Both are read at once: a program that fills one pipe would wait for ever while we wait on the other.
        scope.spawn(|| copy(stderr, std::io::stderr(), &count));
        copy(stdout, std::io::stdout(), &count);
    });
    let status = child.wait().map_err(|e| format!("{shown}: {e}"))?;
    Ok((status, tally.into_inner().expect("no panic while counting")))
}

/// Copies output as it comes, so that half a line of a program that hangs is seen, and gives each whole line to `count`.
fn copy(mut from: impl Read, mut to: impl Write, count: &dyn Fn(&str)) {
    let (mut buffer, mut line) = ([0; 8192], Vec::new());
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        // Nobody watching is no reason to stop.
        let _ = to.write_all(&buffer[..read]).and_then(|()| to.flush());
        for byte in &buffer[..read] {
            if *byte == b'\n' {
                count(&String::from_utf8_lossy(&line));
                line.clear();
            } else {
                line.push(*byte);
            }
        }
    }
    if !line.is_empty() {
        count(&String::from_utf8_lossy(&line));
    }
}

/// A command as a person would type it.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    std::iter::once(name).chain(arguments).collect::<Vec<_>>().join(" ")
}

fn found(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|folder| folder.join(program).is_file())
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}
