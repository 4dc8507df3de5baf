//! `cargo xtask dist`: what is published, in target/dist: the wheel, the npm packages and the C archive, each tried once; their symbols
//! apart, a bill of materials for each, sizes and checksums. With `--local` also the packages with models in the process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::edition::Edition;
use crate::files::{copy, fresh};
use crate::shell::Shell;
use crate::suites::examples::code_block;
use crate::suites::{c, node, python};

/// Largest shared C library in bytes, without its symbols. What made it larger has to be looked at before this is raised.
const LIBRARY_MAX: u64 = 12_500_000;

pub(crate) const USAGE: &str = "[--local]";

pub(crate) fn run(shell: &Shell, arguments: &[&str]) -> Result<(), String> {
    let local = match arguments {
        [] => false,
        ["--local"] => true,
        other => return Err(format!("unknown argument `{}`: cargo xtask dist {USAGE}", other.join(" "))),
    };
    for (program, package) in [("objcopy", "binutils"), ("sha256sum", "coreutils"), ("tar", "tar")] {
        shell.need(program, package)?;
    }
    let folder = shell.target().join("dist");
    fresh(&folder)?;
    let usual = Dist::new(shell, Edition::Usual, &folder);
    let archive = usual.c_archive()?;
    let packages = usual.node_packages()?;
    let wheel = usual.wheel()?;
    c::unpacked(shell, &archive)?;
    let readme = fs::read_to_string(shell.root().join("README.md")).map_err(|e| format!("README.md: {e}"))?;
    let program =
        |language: &str| code_block(&readme, language).ok_or(format!("README.md has no program in {language}"));
    node::installed(shell, &packages, program("js")?, "1 + 2 is 3.")?;
    python::installed(shell, &[&wheel], program("python")?, "1 + 2 is 3.")?;
    if local {
        shell.need_llama()?;
        let local = Dist::new(shell, Edition::Local, &folder);
        let archive = local.c_archive()?;
        let parts = local.node_packages()?;
        let part = local.wheel()?;
        c::unpacked(shell, &archive)?;
        // Beside the usual packages: they find them.
        node::installed(shell, &[packages, parts].concat(), HAS_MODELS_NODE, "configured: true")?;
        python::installed(shell, &[&wheel, &part], HAS_MODELS_PYTHON, "configured: true")?;
    }
    list(shell, &folder)
}

/// Programs that see whether they have models in the process.
const HAS_MODELS_PYTHON: &str = "\
from lomusai import Engine

with Engine() as engine:
    [local] = [model for model in engine.models() if model['provider'] == 'local']
    print('configured:', str(local['configured']).lower())
";
const HAS_MODELS_NODE: &str = "\
import { Engine } from '@lomusai/node';

const engine = new Engine();
const local = (await engine.models()).find((model) => model.provider === 'local');
console.log(`configured: ${local.configured}`);
await engine.close();
";

struct Dist<'a> {
    shell: &'a Shell,
    edition: Edition,
    folder: PathBuf,
    build: PathBuf,
}

impl<'a> Dist<'a> {
    fn new(shell: &'a Shell, edition: Edition, folder: &Path) -> Self {
        let build = edition.shipping(shell);
        Self { shell, edition, folder: folder.to_owned(), build }
    }

    /// Builds one package alone: beside others it would get what they ask of shared crates too. Gives the folder of the libraries.
    fn built(&self, package: &str) -> Result<PathBuf, String> {
        let mut cargo = self.shell.cargo(&["build", "--locked", "--profile", "shipped", "--package", package]);
        cargo.args(self.edition.features());
        self.shell.run(self.in_shipping(&mut cargo))?;
        Ok(self.build.join("shipped"))
    }

    fn in_shipping(&self, command: &mut Command) -> Command {
        let mut own = std::mem::replace(command, Command::new("true"));
        own.env("CARGO_TARGET_DIR", &self.build);
        if cfg!(target_os = "linux") {
            // What is the same code is there once, where nobody can tell the difference.
            own.env("RUSTFLAGS", "-C link-arg=-Wl,--icf=safe");
        }
        own
    }

    /// Copies a library to `to`, without its symbols, which go to target/dist under `name`.debug: what a crash report needs.
    fn stripped(&self, library: &Path, to: &Path, name: &str) -> Result<(), String> {
        make(to.parent().expect("a file is in a folder"))?;
        fs::copy(library, to).map_err(|e| format!("{}: {e}", library.display()))?;
        if !cfg!(target_os = "linux") {
            return Ok(());
        }
        let symbols = self.folder.join(format!("{name}.debug"));
        let objcopy = |arguments: &[&str], files: &[&Path]| {
            let mut command = self.shell.command("objcopy");
            command.args(arguments).args(files);
            self.shell.run(command)
        };
        objcopy(&["--only-keep-debug", "--compress-debug-sections"], &[to, &symbols])?;
        objcopy(&["--strip-unneeded"], &[to])?;
        objcopy(&[&format!("--add-gnu-debuglink={}", symbols.display())], &[to])
    }

    /// Headers, libraries, pkg-config and CMake files, as `ffi/install.sh` lays them.
    fn c_archive(&self) -> Result<PathBuf, String> {
        let shell = self.shell;
        let version = env!("CARGO_PKG_VERSION");
        let kind = if self.edition == Edition::Local { "c-local" } else { "c" };
        let name = format!("lomusai-{kind}-{version}-{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        let (built, staged, libraries) = (self.built("mlomusai")?, self.folder.join(&name), self.build.join("c"));
        let shared = format!("{}mlomusai{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
        self.stripped(&built.join(&shared), &libraries.join(&shared), &name)?;
        let size = fs::metadata(libraries.join(&shared)).map_or(0, |file| file.len());
        if self.edition == Edition::Usual && size > LIBRARY_MAX {
            return Err(format!("{shared} has {size} bytes, more than {LIBRARY_MAX}: see what made it larger"));
        }
        println!("{shared} without its symbols: {:.2} MB", size as f64 / 1e6);
        let (archive, stripped) = (built.join("libmlomusai.a"), libraries.join("libmlomusai.a"));
        fs::copy(&archive, &stripped).map_err(|e| format!("{}: {e}", archive.display()))?;
        let mut strip = shell.command("objcopy");
        strip.arg("--strip-debug").arg(&stripped);
        shell.run(strip)?;

        let mut install = shell.command("sh");
        install.arg("ffi/install.sh").env("PREFIX", "/").env("LIBDIR", "/lib").env("INCLUDEDIR", "/include");
        install.env("DESTDIR", &staged).env("BUILD", &libraries);
        shell.run(install)?;
        // Where the archive is unpacked is known only there: from the file itself.
        let pc = staged.join("lib/pkgconfig/lomusai.pc");
        let text = fs::read_to_string(&pc).map_err(|e| format!("{}: {e}", pc.display()))?;
        let text = text.replace("prefix=/\n", "prefix=${pcfiledir}/../..\n").replace("dir=/", "dir=${prefix}/");
        fs::write(&pc, text).map_err(|e| format!("{}: {e}", pc.display()))?;
        for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
            fs::copy(shell.root().join(licence), staged.join(licence)).map_err(|e| format!("{licence}: {e}"))?;
        }
        self.materials("mlomusai", &name)?;
        let file = self.folder.join(format!("{name}.tar.gz"));
        let mut tar = shell.command("tar");
        tar.current_dir(&self.folder).args(["--create", "--gzip", "--file"]).arg(&file).arg(&name);
        shell.run(tar)?;
        fs::remove_dir_all(&staged).map_err(|e| format!("{}: {e}", staged.display()))?;
        Ok(file)
    }

    fn node_packages(&self) -> Result<Vec<PathBuf>, String> {
        let built = node::library(&self.built("lomusai_node")?);
        let library = self.build.join("node").join(built.file_name().expect("a library has a name"));
        let kind = if self.edition == Edition::Local { "local" } else { "node" };
        let name = format!("lomusai-{kind}-{}-{}", env!("CARGO_PKG_VERSION"), node::platform(self.shell)?);
        self.stripped(&built, &library, &name)?;
        self.materials("lomusai_node", &name)?;
        node::pack(self.shell, self.edition, &library, &self.folder)
    }

    fn wheel(&self) -> Result<PathBuf, String> {
        let wheels = self.build.join("wheels");
        fresh(&wheels)?;
        let (python, mut maturin) = python::maturin(self.shell, "shipped", &wheels)?;
        maturin.arg("--strip=false").args(self.edition.features());
        self.shell.run(self.in_shipping(&mut maturin))?;
        let mut wheel = python::wheel_in(&wheels)?;
        if self.edition == Edition::Local {
            wheel = python::local_wheel(self.shell, &python, &wheel, &wheels)?;
        }
        let name = wheel.file_name().expect("a wheel has a name").to_string_lossy().into_owned();
        let (published, library) = (self.folder.join(&name), self.build.join("python/lib_lomusai.so"));
        let symbols = name.trim_end_matches(".whl");
        self.stripped(&self.build.join("shipped/lib_lomusai.so"), &library, symbols)?;
        copy(&wheel, &published)?;
        let mut repack = self.shell.command(&python);
        repack.arg("bindings/python/scripts/repack_wheel.py").arg(&published).arg(&library);
        self.shell.run(repack)?;
        self.materials("lomusai_python", symbols)?;
        Ok(published)
    }

    /// A bill of materials in CycloneDX: every crate that is compiled into a package, with its licence.
    fn materials(&self, package: &str, name: &str) -> Result<(), String> {
        let mut tree = self.shell.cargo(&["tree", "--locked", "--package", package, "--edges", "normal"]);
        tree.args(self.edition.features());
        tree.args(["--prefix", "none", "--no-dedupe", "--format", "{p}\t{l}"]);
        let output = tree.output().map_err(|e| format!("cargo tree: {e}"))?;
        if !output.status.success() {
            return Err(format!("cargo tree: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let mut crates: Vec<(&str, &str, &str)> = text
            .lines()
            .filter_map(|line| {
                let (crate_, licence) = line.split_once('\t')?;
                let mut words = crate_.split(' ');
                Some((words.next()?, words.next()?.trim_start_matches('v'), licence))
            })
            .collect();
        crates.sort_unstable();
        crates.dedup();
        let component = |(name, version, licence): (&str, &str, &str)| {
            // An old spelling of the same, which is no expression of SPDX.
            let licences = json!([{"expression": licence.replace('/', " OR ")}]);
            let purl = format!("pkg:cargo/{name}@{version}");
            json!({"type": "library", "name": name, "version": version, "purl": purl, "licenses": licences})
        };
        let (own, parts): (Vec<Value>, Vec<Value>) =
            crates.into_iter().map(component).partition(|component| component["name"] == package);
        let bill = json!({
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {"component": own.first()},
            "components": parts,
        });
        let path = self.folder.join(format!("{name}.cdx.json"));
        let text = serde_json::to_string_pretty(&bill).expect("a tree of JSON is JSON");
        fs::write(&path, text + "\n").map_err(|e| format!("{}: {e}", path.display()))
    }
}

/// Sizes, checksums, and the oldest system that the libraries run on.
fn list(shell: &Shell, folder: &Path) -> Result<(), String> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(|e| format!("{}: {e}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    let mut sums = shell.command("sha256sum");
    sums.current_dir(folder).args(files.iter().filter_map(|path| path.file_name()));
    let sums = sums.output().map_err(|e| format!("sha256sum: {e}"))?.stdout;
    fs::write(folder.join("SHA256SUMS"), &sums).map_err(|e| format!("SHA256SUMS: {e}"))?;
    for path in &files {
        let bytes = fs::metadata(path).map_or(0, |file| file.len());
        println!("{:>8.2} MB  {}", bytes as f64 / 1e6, path.file_name().unwrap_or_default().to_string_lossy());
    }
    if let Some(version) = glibc(shell)? {
        println!("needs glibc {version} or later: that of the machine it is built on decides");
    }
    println!("in {}, with SHA256SUMS", folder.display());
    Ok(())
}

/// The newest version of glibc's symbols that a library asks for.
fn glibc(shell: &Shell) -> Result<Option<String>, String> {
    let mut versions: Vec<Vec<u32>> = Vec::new();
    for edition in [Edition::Usual, Edition::Local] {
        for library in ["c/libmlomusai.so", "node/liblomusai_node.so", "python/lib_lomusai.so"] {
            let library = edition.shipping(shell).join(library);
            if !library.exists() {
                continue;
            }
            let mut objdump = shell.command("objdump");
            objdump.arg("-T").arg(library);
            let output = objdump.output().map_err(|e| format!("objdump: {e}"))?;
            let text = String::from_utf8_lossy(&output.stdout);
            let asked = text.split("(GLIBC_").skip(1).filter_map(|rest| rest.split_once(')'));
            versions.extend(asked.map(|(version, _)| version.split('.').flat_map(str::parse).collect()));
        }
    }
    Ok(versions.into_iter().max().map(|v| v.iter().map(u32::to_string).collect::<Vec<_>>().join(".")))
}

fn make(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))
}
