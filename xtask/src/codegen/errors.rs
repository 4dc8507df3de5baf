//! `tables/errors.toml` → constants and classes in every language, and the table in the docs.

use std::fmt::Write;

use serde::Deserialize;

use super::Generated;

const NOTE: &str = "Made by `cargo xtask codegen` from engine/lomusai_wire/tables/errors.toml. Do not edit.";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    retired: Vec<String>,
    kind: Vec<Kind>,
    code: Vec<Code>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kind {
    name: String,
    status: u32,
    class: String,
    doc: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Code {
    name: String,
    kind: String,
    #[serde(default)]
    retryable: bool,
    doc: String,
}

pub(super) fn generate(toml: &str) -> Result<Vec<Generated>, String> {
    let table: Table = toml::from_str(toml).map_err(|e| format!("errors.toml: {e}"))?;
    for code in &table.code {
        if table.retired.contains(&code.name) {
            return Err(format!("errors.toml: `{}` is retired and cannot be used again", code.name));
        }
        if !table.kind.iter().any(|kind| kind.name == code.kind) {
            return Err(format!("errors.toml: `{}` has the unknown kind `{}`", code.name, code.kind));
        }
    }
    Ok(vec![rust(&table), c(&table), python(&table), javascript(&table), typescript(&table), docs(&table)])
}

fn rust(table: &Table) -> Generated {
    let mut out = format!(
        "//! Kinds and codes of errors.\n//!\n//! {NOTE}\n\nuse schemars::JsonSchema;\nuse serde::{{Deserialize, Serialize}};\n\nuse super::Code;\n\n"
    );
    out.push_str(
        "/// What a caller can do about an error. A new kind exists only where a caller would act differently.\n",
    );
    out.push_str("#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]\n#[serde(rename_all = \"snake_case\")]\n#[non_exhaustive]\npub enum Kind {\n");
    for kind in &table.kind {
        let other = if kind.name == "internal" { "    #[serde(other)]\n" } else { "" };
        let _ = writeln!(out, "    /// {}\n{other}    {},", kind.doc, camel(&kind.name));
    }
    out.push_str("}\n\nimpl Kind {\n    /// The name on the wire.\n    pub fn as_str(self) -> &'static str {\n        match self {\n");
    for kind in &table.kind {
        let _ = writeln!(out, "            Self::{} => \"{}\",", camel(&kind.name), kind.name);
    }
    out.push_str("        }\n    }\n\n    /// The number that the C ABI and the bindings use.\n    pub fn status(self) -> u32 {\n        match self {\n");
    for kind in &table.kind {
        let _ = writeln!(out, "            Self::{} => {},", camel(&kind.name), kind.status);
    }
    out.push_str("        }\n    }\n}\n\n");
    for code in &table.code {
        let _ = writeln!(
            out,
            "/// {}\npub const {}: Code = Code {{ name: \"{}\", kind: Kind::{}, retryable: {} }};\n",
            code.doc,
            code.name.to_uppercase(),
            code.name,
            camel(&code.kind),
            code.retryable
        );
    }
    out.push_str("/// Every code.\npub const ALL: &[Code] = &[");
    for code in &table.code {
        let _ = write!(out, "{}, ", code.name.to_uppercase());
    }
    out.push_str("];\n");
    Generated { path: "engine/lomusai_wire/src/error/codes.rs", text: out }
}

/// The C statuses, as Rust for cbindgen to turn into the header.
fn c(table: &Table) -> Generated {
    let mut out = format!("//! Statuses and codes as C sees them.\n//!\n//! {NOTE}\n\n");
    for kind in &table.kind {
        let _ =
            writeln!(out, "/// {}\npub const LOMUSAI_E_{}: u32 = {};", kind.doc, kind.name.to_uppercase(), kind.status);
    }
    Generated { path: "ffi/src/status.rs", text: out }
}

fn python(table: &Table) -> Generated {
    let mut out = format!(
        "\"\"\"Exceptions, one class per kind of error.\n\n{NOTE}\n\"\"\"\n\nfrom __future__ import annotations\n\nfrom typing import Any\n\n"
    );
    out.push_str(
        "\nclass LomusaiError(Exception):\n    \"\"\"An error of the engine. `code` is stable and the same in every language.\"\"\"\n\n    kind: str = \"internal\"\n\n    def __init__(self, message: str, *, code: str = \"internal\", retryable: bool = False, retry_after_ms: int | None = None, details: dict[str, Any] | None = None) -> None:\n        super().__init__(message)\n        self.message = message\n        self.code = code\n        self.retryable = retryable\n        self.retry_after_ms = retry_after_ms\n        self.details: dict[str, Any] = details or {}\n\n    def __str__(self) -> str:\n        return f\"{self.message} [{self.code}]\"\n\n",
    );
    for kind in &table.kind {
        let base = match kind.name.as_str() {
            "timeout" => "LomusaiError, _TimeoutError",
            _ => "LomusaiError",
        };
        let _ = writeln!(
            out,
            "\nclass {}({base}):\n    \"\"\"{}\"\"\"\n\n    kind = \"{}\"\n",
            kind.class, kind.doc, kind.name
        );
    }
    out = out.replace(
        "from typing import Any\n",
        "from builtins import TimeoutError as _TimeoutError\nfrom typing import Any\n",
    );
    out.push_str("\nKINDS: dict[str, type[LomusaiError]] = {\n");
    for kind in &table.kind {
        let _ = writeln!(out, "    \"{}\": {},", kind.name, kind.class);
    }
    out.push_str("}\n\nCODES: dict[str, str] = {\n");
    for code in &table.code {
        let _ = writeln!(out, "    \"{}\": \"{}\",", code.name, code.kind);
    }
    out.push_str("}\n");
    Generated { path: "bindings/python/python/lomusai/errors.py", text: out }
}

fn javascript(table: &Table) -> Generated {
    let mut out = format!("// Error classes, one per kind of error.\n// {NOTE}\n'use strict';\n\n");
    out.push_str("/** An error of the engine. `code` is stable and the same in every language. */\nclass LomusaiError extends Error {\n  constructor(body, options) {\n    super(body.message, options);\n    this.name = new.target.name;\n    this.kind = body.kind ?? 'internal';\n    this.code = body.code ?? 'internal';\n    this.retryable = body.retryable ?? false;\n    this.retryAfterMs = body.retry_after_ms;\n    this.details = body.details ?? {};\n  }\n}\n");
    for kind in &table.kind {
        let _ = writeln!(out, "/** {} */\nclass {} extends LomusaiError {{}}", kind.doc, kind.class);
    }
    out.push_str("\nconst KINDS = {\n");
    for kind in &table.kind {
        let _ = writeln!(out, "  {}: {},", kind.name, kind.class);
    }
    out.push_str("};\n\nconst CODES = {\n");
    for code in &table.code {
        let _ = writeln!(out, "  {}: '{}',", code.name, code.kind);
    }
    out.push_str("};\n\nmodule.exports = { LomusaiError, KINDS, CODES");
    for kind in &table.kind {
        let _ = write!(out, ", {}", kind.class);
    }
    out.push_str(" };\n");
    Generated { path: "bindings/node/lib/errors.js", text: out }
}

fn typescript(table: &Table) -> Generated {
    let mut out = format!("// Error classes, one per kind of error.\n// {NOTE}\n\n");
    let kinds: Vec<String> = table.kind.iter().map(|kind| format!("'{}'", kind.name)).collect();
    let codes: Vec<String> = table.code.iter().map(|code| format!("  | '{}'", code.name)).collect();
    let _ = writeln!(
        out,
        "export type ErrorKind = {};\n\nexport type ErrorCode =\n{}\n  | (string & {{}});\n",
        kinds.join(" | "),
        codes.join("\n")
    );
    out.push_str("export interface ErrorBody {\n  kind?: ErrorKind;\n  code?: ErrorCode;\n  message: string;\n  retryable?: boolean;\n  retry_after_ms?: number;\n  details?: Record<string, unknown>;\n}\n\n");
    out.push_str("/** An error of the engine. `code` is stable and the same in every language. */\nexport class LomusaiError extends Error {\n  constructor(body: ErrorBody, options?: { cause?: unknown });\n  readonly kind: ErrorKind;\n  readonly code: ErrorCode;\n  readonly retryable: boolean;\n  readonly retryAfterMs?: number;\n  readonly details: Record<string, unknown>;\n}\n");
    for kind in &table.kind {
        let _ = writeln!(out, "/** {} */\nexport class {} extends LomusaiError {{}}", kind.doc, kind.class);
    }
    out.push_str("\nexport const KINDS: Record<ErrorKind, typeof LomusaiError>;\nexport const CODES: Record<string, ErrorKind>;\n");
    Generated { path: "bindings/node/lib/errors.d.ts", text: out }
}

fn docs(table: &Table) -> Generated {
    let mut out = format!(
        "# Errors\n\n<!-- {NOTE} -->\n\nEvery error has a *kind*, which says what a caller can do, and a stable *code*, the same in every language. Messages are for people and may change.\n\n| kind | C status | Python, Node class | what to do |\n|---|---|---|---|\n"
    );
    for kind in &table.kind {
        let _ = writeln!(out, "| `{}` | {} | `{}` | {} |", kind.name, kind.status, kind.class, kind.doc);
    }
    out.push_str("\n| code | kind | retryable | meaning |\n|---|---|---|---|\n");
    for code in &table.code {
        let _ = writeln!(
            out,
            "| `{}` | `{}` | {} | {} |",
            code.name,
            code.kind,
            if code.retryable { "yes" } else { "" },
            code.doc
        );
    }
    Generated { path: "docs/errors.md", text: out }
}

fn camel(name: &str) -> String {
    name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}
