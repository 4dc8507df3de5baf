//! Gives the shared library the name that programs look for at run time; cargo sets none.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The number is that of LOMUSAI_ABI_VERSION.
    match std::env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("macos" | "ios") => {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libmlomusai.1.dylib");
            println!("cargo:rustc-cdylib-link-arg=-Wl,-compatibility_version,1.0.0,-current_version,1.0.0");
        }
        Ok("windows") => {}
        _ => println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libmlomusai.so.1"),
    }
}
