//! The border itself: what every function does with pointers that come in and panics that would go out.

use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use lomusai_core::{Error, Result};
use lomusai_wire::codes;

use crate::{LOMUSAI_FOREVER, lomusai_drop_fn, lomusai_error, lomusai_status};

/// Runs a function's body: no panic gets out, and its error goes where the caller wants it.
pub(crate) fn guard(err: *mut *mut lomusai_error, body: impl FnOnce() -> Result<lomusai_status>) -> lomusai_status {
    if !err.is_null() {
        // SAFETY: not NULL, and the caller promises that it points to a place for a pointer.
        unsafe { *err = std::ptr::null_mut() };
    }
    let error = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(status)) => return status,
        Ok(Err(error)) => error,
        Err(panic) => {
            let why = panic.downcast_ref::<&str>().map(ToString::to_string);
            let why = why.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            // Whatever it was: its own drop must not panic through the border.
            std::mem::forget(panic);
            Error::new(codes::INTERNAL, format!("the engine panicked, which is a defect: {why}"))
        }
    };
    let status = error.kind().status();
    if !err.is_null() {
        // SAFETY: as above.
        unsafe { *err = Box::into_raw(Box::new(lomusai_error::new(error))) };
    }
    status
}

/// As [`guard`], where nobody could be told.
pub(crate) fn quietly(body: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
        std::mem::forget(panic);
    }
}

fn invalid(message: String) -> Error {
    Error::new(codes::ARGUMENT_INVALID, message)
}

/// What a handle points to.
pub(crate) fn handle<'a, T>(what: &str, pointer: *const T) -> Result<&'a T> {
    // SAFETY: the caller promises that it is NULL or a live handle of this type.
    unsafe { pointer.as_ref() }.ok_or_else(|| invalid(format!("{what} is NULL")))
}

/// A place for a result, set to `empty` first.
pub(crate) fn place<'a, T>(what: &str, pointer: *mut T, empty: T) -> Result<&'a mut T> {
    if pointer.is_null() {
        return Err(invalid(format!("{what} is NULL: it is where the result goes")));
    }
    // SAFETY: not NULL, and the caller promises that it points to a place for a `T`, initialised or not.
    unsafe { pointer.write(empty) };
    // SAFETY: as above, and written just now.
    Ok(unsafe { &mut *pointer })
}

/// Text given as pointer and length.
pub(crate) fn text<'a>(what: &str, pointer: *const c_char, len: usize) -> Result<&'a str> {
    if pointer.is_null() {
        return Err(invalid(format!("{what} is NULL")));
    }
    if isize::try_from(len).is_err() {
        return Err(invalid(format!("{what} cannot have {len} bytes")));
    }
    // SAFETY: not NULL, and the caller promises `len` readable bytes.
    let bytes = unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), len) };
    utf8(what, bytes)
}

/// As [`text`], where NULL means that there is none.
pub(crate) fn text_or<'a>(what: &str, pointer: *const c_char, len: usize, default: &'a str) -> Result<&'a str> {
    if pointer.is_null() && len == 0 { Ok(default) } else { text(what, pointer, len) }
}

/// A name: NUL-terminated text.
pub(crate) fn name<'a>(what: &str, pointer: *const c_char) -> Result<&'a str> {
    if pointer.is_null() {
        return Err(invalid(format!("{what} is NULL")));
    }
    // SAFETY: not NULL, and the caller promises a NUL at the end.
    utf8(what, unsafe { CStr::from_ptr(pointer) }.to_bytes())
}

/// As [`name`], where NULL means that there is none.
pub(crate) fn name_or_none<'a>(what: &str, pointer: *const c_char) -> Result<Option<&'a str>> {
    if pointer.is_null() { Ok(None) } else { name(what, pointer).map(Some) }
}

fn utf8<'a>(what: &str, bytes: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|e| {
        Error::new(codes::UTF8_INVALID, format!("{what} is not valid UTF-8: byte {} is wrong", e.valid_up_to()))
    })
}

/// A versioned struct, as far as the caller's version of it goes; the rest is as in `default`.
pub(crate) fn versioned<T: Copy>(what: &str, pointer: *const T, default: T) -> Result<T> {
    if pointer.is_null() {
        return Ok(default);
    }
    // SAFETY: every versioned struct begins with its size, and the caller promises that it is there.
    let theirs = unsafe { pointer.cast::<usize>().read_unaligned() };
    if theirs < size_of::<usize>() {
        return Err(invalid(format!("{what}: struct_size is {theirs}: set it to sizeof the struct")));
    }
    let mut ours = default;
    // SAFETY: the smaller of the two sizes is inside both, and every field is valid for any bytes that C can have put there.
    unsafe {
        std::ptr::copy_nonoverlapping(
            pointer.cast::<u8>(),
            std::ptr::from_mut(&mut ours).cast::<u8>(),
            theirs.min(size_of::<T>()),
        );
    }
    Ok(ours)
}

/// `LOMUSAI_FOREVER` waits for ever.
pub(crate) fn timeout(ms: u32) -> Option<Duration> {
    (ms != LOMUSAI_FOREVER).then(|| Duration::from_millis(ms.into()))
}

/// The host's pointer, and how to let go of it.
pub(crate) struct Userdata {
    pub(crate) pointer: *mut c_void,
    drop: lomusai_drop_fn,
}

// SAFETY: the header says that callbacks and their userdata are used from any thread.
unsafe impl Send for Userdata {}
// SAFETY: as above; this side only passes the pointer on.
unsafe impl Sync for Userdata {}

impl Userdata {
    /// Takes it. Made before anything is checked, so that it is let go of whatever happens.
    pub(crate) fn new(pointer: *mut c_void, drop: lomusai_drop_fn) -> Self {
        Self { pointer, drop }
    }
}

impl Drop for Userdata {
    fn drop(&mut self) {
        if let Some(drop) = self.drop {
            // SAFETY: the header's contract for `lomusai_drop_fn`; called once, since this is a drop.
            unsafe { drop(self.pointer) };
        }
    }
}
