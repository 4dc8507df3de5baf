//! `cargo xtask dist`: what is published, in target/dist: the wheel, the npm packages, the C archive, their sizes and checksums.

use std::fs;
use std::path::{Path, PathBuf};

use crate::shell::Shell;
use crate::suites::{node, python};

pub(crate) fn run(shell: &Shell, arguments: &[&str]) -> Result<(), String> {
    if let Some(other) = arguments.first() {
        return Err(format!("unknown argument `{other}`: cargo xtask dist"));
    }
    let folder = shell.target().join("dist");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;

    shell.run(shell.cargo(&[
        "build",
        "--release",
        "--locked",
        "--package",
        "mlomusai",
        "--package",
        "lomusai_node",
    ]))?;
    c_archive(shell, &folder)?;
    node::pack(shell, &shell.target().join("release"), &folder)?;
    python::release_wheel(shell, &folder)?;

    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .map_err(|e| format!("{}: {e}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    let mut sums = shell.command("sha256sum");
    sums.current_dir(&folder).args(files.iter().filter_map(|path| path.file_name()));
    let sums = sums.output().map_err(|e| format!("sha256sum: {e}"))?.stdout;
    fs::write(folder.join("SHA256SUMS"), &sums).map_err(|e| format!("SHA256SUMS: {e}"))?;
    for path in &files {
        let bytes = fs::metadata(path).map_or(0, |file| file.len());
        println!("{:>8.2} MB  {}", bytes as f64 / 1e6, path.file_name().unwrap_or_default().to_string_lossy());
    }
    println!("in {}, with SHA256SUMS", folder.display());
    Ok(())
}

/// Headers, libraries, pkg-config and CMake files, as `ffi/install.sh` lays them.
fn c_archive(shell: &Shell, folder: &Path) -> Result<(), String> {
    let name = format!("lomusai-c-{}-{}-{}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH, std::env::consts::OS);
    let staged = folder.join(&name);
    let mut install = shell.command("sh");
    install.arg("ffi/install.sh").env("PREFIX", "/").env("LIBDIR", "/lib").env("INCLUDEDIR", "/include");
    install.env("DESTDIR", &staged);
    shell.run(install)?;
    for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
        fs::copy(shell.root().join(licence), staged.join(licence)).map_err(|e| format!("{licence}: {e}"))?;
    }
    let mut tar = shell.command("tar");
    tar.current_dir(folder).args(["--create", "--gzip", "--file", &format!("{name}.tar.gz"), &name]);
    shell.run(tar)?;
    fs::remove_dir_all(&staged).map_err(|e| format!("{}: {e}", staged.display()))
}
