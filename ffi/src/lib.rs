//! The C ABI of Lomusai: the host kit behind opaque handles, numbers and text.
//!
//! `include/lomusai.h` is made from this crate; its doc comments are written for people who read C.

// The names here are the ones in the header.
#![allow(non_camel_case_types)]
// What a pointer must be is said once, in the header's preface.
#![allow(clippy::missing_safety_doc)]

mod answer;
mod engine;
mod error;
mod guard;
mod run;
mod status;

pub use answer::*;
pub use engine::*;
pub use error::*;
pub use run::*;
pub use status::*;

use std::ffi::{CString, c_char, c_void};

lomusai_host::allocator!();

/// How a call went: `LOMUSAI_OK`, one of `LOMUSAI_TIMEOUT`, `LOMUSAI_END` and `LOMUSAI_FULL` where the function says so, or the
/// kind of an error (`LOMUSAI_E_*`). New kinds may be added: treat one you do not know as `LOMUSAI_E_INTERNAL`.
pub type lomusai_status = u32;

/// It worked.
pub const LOMUSAI_OK: u32 = 0;
/// Nothing came within the time given. Not an error.
pub const LOMUSAI_TIMEOUT: u32 = 100;
/// There will be no more. Not an error.
pub const LOMUSAI_END: u32 = 101;
/// There is no room now; nothing was taken. Not an error.
pub const LOMUSAI_FULL: u32 = 102;

/// The version of layouts and meanings that this header describes. Compare with `lomusai_abi_version()`.
pub const LOMUSAI_ABI_VERSION: u32 = 1;

/// As a timeout: wait as long as it takes.
pub const LOMUSAI_FOREVER: u32 = 0xFFFF_FFFF;

/// Flag of a registration: the callback runs on a thread of the engine's host pool, where it may block. The default.
pub const LOMUSAI_POOL: u32 = 0;
/// Flag of a registration: the callback runs on the thread that drives the run. It is faster, must return at once, and must not
/// call functions of this library that wait.
pub const LOMUSAI_INLINE: u32 = 1;

/// Level of a log line: for tracing.
pub const LOMUSAI_LOG_DEBUG: u32 = 0;
/// Level of a log line: for information.
pub const LOMUSAI_LOG_INFO: u32 = 1;
/// Level of a log line: something looks wrong.
pub const LOMUSAI_LOG_WARN: u32 = 2;
/// Level of a log line: something is wrong.
pub const LOMUSAI_LOG_ERROR: u32 = 3;

/// Text that a callback is given: UTF-8, not NUL-terminated, borrowed for as long as the callback's description says.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lomusai_str {
    /// Never NULL, even when `len` is 0.
    pub ptr: *const c_char,
    /// In bytes.
    pub len: usize,
}

impl lomusai_str {
    pub(crate) fn of(text: &str) -> Self {
        Self { ptr: text.as_ptr().cast(), len: text.len() }
    }
}

/// Frees what `userdata` of a registration or subscription points to. Called exactly once, on any thread, after the last use of
/// `userdata`; also when the call that took it FAILED, before that call returns.
pub type lomusai_drop_fn = Option<unsafe extern "C" fn(userdata: *mut c_void)>;

/// The version of the library, for example "0.1.0". Static text, never freed. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn lomusai_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The version of layouts and meanings that the library has. A program works with a library of the same number as its
/// `LOMUSAI_ABI_VERSION`. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn lomusai_abi_version() -> u32 {
    LOMUSAI_ABI_VERSION
}

/// Frees text that a function of this library gave as `char **`. NULL is fine. Each text once; thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_string_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: the caller passes what `owned` made, once.
        guard::quietly(|| drop(unsafe { CString::from_raw(text) }));
    }
}

/// Text for the caller to own. A NUL inside, which JSON never has, becomes U+FFFD.
pub(crate) fn owned(text: String) -> *mut c_char {
    terminated(text).into_raw()
}

pub(crate) fn terminated(text: String) -> CString {
    CString::new(text).unwrap_or_else(|e| {
        let text = String::from_utf8_lossy(&e.into_vec()).replace('\0', "\u{fffd}");
        CString::new(text).expect("every NUL was replaced")
    })
}
