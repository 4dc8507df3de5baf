//! `ffi/src/*.rs` → `include/lomusai.h`, by cbindgen.

use std::path::Path;

use cbindgen::{Builder, Config, DocumentationStyle, Language, Style};

use super::Generated;

const PREFACE: &str = r#"/*
 * Lomusai: an embeddable agent engine. This is its C interface.
 *
 * Made by `cargo xtask codegen` from the crate in ffi/. Do not edit.
 *
 * What holds for every function, and is not said again at each:
 *
 * - STATUS. A function that can fail returns a `lomusai_status`: LOMUSAI_OK, an error's kind (LOMUSAI_E_*), or, where its
 *   description says so, LOMUSAI_TIMEOUT, LOMUSAI_END or LOMUSAI_FULL, which are no errors.
 * - ERRORS. `err`, always last, may be NULL. It is set to NULL on success; on failure `*err` is the caller's, to be freed with
 *   `lomusai_error_free`. There is no hidden last error. The function returns what `lomusai_error_status` of it says.
 * - NULL. A NULL that must not be there is the error `argument_invalid`, not a crash. Functions that free take NULL.
 * - TEXT is UTF-8, else `utf8_invalid`. Names are NUL-terminated; payloads are pointer and length, and need no NUL. Text that comes
 *   out as `char **` is NUL-terminated, the caller's, and freed with `lomusai_string_free`; the place is set to NULL on failure.
 * - HANDLES are opaque. A handle is valid from the function that gave it to the one that frees it.
 * - USERDATA that is passed with a drop function belongs to the engine from then on, even when the call fails; the drop function is
 *   called exactly once. A NULL drop function frees nothing.
 * - CALLBACKS return normally. A C++ exception, longjmp or pthread_exit that would leave one through the engine ends the process.
 * - THREADS. "Thread-safe" means: on any thread, at the same time as other calls on the same handle. Functions that free are not
 *   called beside others that use the handle they free.
 * - FORK. Handles belong to the process that made them. In a forked child, functions say `engine_forked` and freeing only forgets.
 * - OUTPUT. The library prints nothing; a panic inside, which would be a defect, comes back as LOMUSAI_E_INTERNAL, and Rust's panic
 *   hook reports it on stderr.
 * - Numbers named here never change; new ones are added. Structs grow at their end only and begin with their size.
 *
 * Needs C11 or C++17.
 */"#;

pub(super) fn generate(root: &Path) -> Result<Generated, String> {
    let config = Config {
        language: Language::C,
        header: Some(PREFACE.into()),
        include_guard: Some("LOMUSAI_H".into()),
        no_includes: true,
        sys_includes: ["stdbool.h", "stddef.h", "stdint.h"].map(String::from).to_vec(),
        cpp_compat: true,
        style: Style::Both,
        usize_is_size_t: true,
        documentation_style: DocumentationStyle::C99,
        line_length: 128,
        ..Config::default()
    };
    let bindings = Builder::new()
        .with_config(config)
        .with_src(root.join("ffi/src/lib.rs"))
        .generate()
        .map_err(|e| format!("cbindgen: {e}"))?;
    let mut text = Vec::new();
    bindings.write(&mut text);
    let text = String::from_utf8(text).map_err(|e| format!("cbindgen: {e}"))?;
    Ok(Generated { path: "include/lomusai.h", text })
}
