//! `tables/errors.toml` → constants and classes in every language, and the table in the docs.

use std::fmt::Write;

use serde::Deserialize;

use super::{Generated, camel};

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
    for (place, code) in table.code.iter().enumerate() {
        if table.retired.contains(&code.name) {
            return Err(format!("errors.toml: `{}` is retired and cannot be used again", code.name));
        }
        if table.code[..place].iter().any(|other| other.name == code.name) {
            return Err(format!("errors.toml: `{}` is there twice", code.name));
        }
        if !table.kind.iter().any(|kind| kind.name == code.kind) {
            return Err(format!("errors.toml: `{}` has the unknown kind `{}`", code.name, code.kind));
        }
    }
    for (place, kind) in table.kind.iter().enumerate() {
        if kind.status == 0 || table.kind[..place].iter().any(|other| other.status == kind.status) {
            return Err(format!("errors.toml: the status of `{}` must be its own, and 0 means success", kind.name));
        }
    }
    Ok(vec![rust(&table), c(&table), python(&table), javascript(&table), typescript(&table), docs(&table)])
}

/// One piece of text per item, joined.
fn each<T>(items: &[T], piece: impl Fn(&T) -> String) -> String {
    items.iter().map(piece).collect()
}

fn rust(table: &Table) -> Generated {
    // Formatted by rustfmt afterwards.
    let variants = each(&table.kind, |kind| {
        let other = if kind.name == "internal" { "#[serde(other)]\n" } else { "" };
        format!("/// {}\n{other}{},\n", kind.doc, camel(&kind.name))
    });
    let names = each(&table.kind, |kind| format!("Self::{} => \"{}\",\n", camel(&kind.name), kind.name));
    let statuses = each(&table.kind, |kind| format!("Self::{} => {},\n", camel(&kind.name), kind.status));
    let constants = each(&table.code, |code| {
        format!(
            "/// {}\npub const {}: Code = Code {{ name: \"{}\", kind: Kind::{}, retryable: {} }};\n\n",
            code.doc,
            code.name.to_uppercase(),
            code.name,
            camel(&code.kind),
            code.retryable
        )
    });
    let all = each(&table.code, |code| format!("{}, ", code.name.to_uppercase()));
    let text = format!(
        r#"//! Kinds and codes of errors.
//!
//! {NOTE}

use schemars::JsonSchema;
use serde::{{Deserialize, Serialize}};

use super::Code;

/// What a caller can do about an error. A new kind exists only where a caller would act differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {{
{variants}}}

impl Kind {{
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {{
        match self {{
{names}}}
    }}

    /// The number that the C ABI and the bindings use.
    pub fn status(self) -> u32 {{
        match self {{
{statuses}}}
    }}
}}

{constants}
/// Every code.
pub const ALL: &[Code] = &[{all}];
"#
    );
    Generated { path: "engine/lomusai_wire/src/error/codes.rs", text }
}

/// The C statuses, as Rust for cbindgen to turn into the header.
fn c(table: &Table) -> Generated {
    let mut text = format!("//! Statuses and codes as C sees them.\n//!\n//! {NOTE}\n\n");
    text += &each(&table.kind, |kind| {
        format!("/// {}\npub const LOMUSAI_E_{}: u32 = {};\n", kind.doc, kind.name.to_uppercase(), kind.status)
    });
    Generated { path: "ffi/src/status.rs", text }
}

fn python(table: &Table) -> Generated {
    let literals = each(&table.kind, |kind| format!("    \"{}\",\n", kind.name));
    let classes = each(&table.kind, |kind| {
        // So that `except TimeoutError` of the language catches it too.
        let bases = if kind.name == "timeout" { "LomusaiError, builtins.TimeoutError" } else { "LomusaiError" };
        format!(
            "\n\nclass {}({bases}):\n    \"\"\"{}\"\"\"\n\n    kind: ErrorKind = \"{}\"\n",
            kind.class, kind.doc, kind.name
        )
    });
    let kinds = each(&table.kind, |kind| format!("    \"{}\": {},\n", kind.name, kind.class));
    let codes = each(&table.code, |code| format!("    \"{}\": \"{}\",\n", code.name, code.kind));
    let mut names: Vec<&str> = table.kind.iter().map(|kind| kind.class.as_str()).collect();
    names.extend(["CODES", "ErrorKind", "KINDS", "LomusaiError"]);
    names.sort_unstable();
    let all = each(&names, |name| format!("    \"{name}\",\n"));
    let text = format!(
        r#""""Exceptions, one class per kind of error.

{NOTE}
"""

from __future__ import annotations

import builtins
from typing import Any, Literal, TypeAlias

ErrorKind: TypeAlias = Literal[
{literals}]
"""What a caller can do about an error."""


class LomusaiError(Exception):
    """An error of the engine. `code` is stable and the same in every language."""

    kind: ErrorKind = "internal"

    def __init__(
        self,
        message: str,
        *,
        code: str = "internal",
        retryable: bool = False,
        retry_after_ms: int | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms
        self.details: dict[str, Any] = details or {{}}

    def __str__(self) -> str:
        return f"{{self.message}} [{{self.code}}]"
{classes}

KINDS: dict[str, type[LomusaiError]] = {{
{kinds}}}
"""The class of every kind."""

CODES: dict[str, ErrorKind] = {{
{codes}}}
"""The kind of every code."""

__all__ = [
{all}]
"#
    );
    Generated { path: "bindings/python/python/lomusai/errors.py", text }
}

fn javascript(table: &Table) -> Generated {
    let classes =
        each(&table.kind, |kind| format!("\n/** {} */\nclass {} extends LomusaiError {{}}\n", kind.doc, kind.class));
    let kinds = each(&table.kind, |kind| format!("  {}: {},\n", kind.name, kind.class));
    let codes = each(&table.code, |code| format!("  {}: '{}',\n", code.name, code.kind));
    let exports = each(&table.kind, |kind| format!("  {},\n", kind.class));
    let text = format!(
        r"// Error classes, one per kind of error.
// {NOTE}
'use strict';

/** An error of the engine. `code` is stable and the same in every language. */
class LomusaiError extends Error {{
  constructor(body, options) {{
    super(body.message, options);
    this.name = new.target.name;
    this.kind = body.kind ?? 'internal';
    this.code = body.code ?? 'internal';
    this.retryable = body.retryable ?? false;
    this.retryAfterMs = body.retry_after_ms;
    this.details = body.details ?? {{}};
  }}
}}
{classes}
const KINDS = {{
{kinds}}};

const CODES = {{
{codes}}};

module.exports = {{
  LomusaiError,
  KINDS,
  CODES,
{exports}}};
"
    );
    Generated { path: "bindings/node/lib/errors.js", text }
}

fn typescript(table: &Table) -> Generated {
    let kinds = each(&table.kind, |kind| format!("\n  | '{}'", kind.name));
    let codes = each(&table.code, |code| format!("\n  | '{}'", code.name));
    let classes = each(&table.kind, |kind| {
        format!("/** {} */\nexport class {} extends LomusaiError {{}}\n", kind.doc, kind.class)
    });
    let text = format!(
        r"// Error classes, one per kind of error.
// {NOTE}

import type {{ ErrorBody }} from './events';

export type {{ ErrorBody }};

/** What a caller can do about an error. */
export type ErrorKind ={kinds};

/** A stable code. Later versions may have more. */
export type ErrorCode ={codes}
  | (string & {{}});

/** An error of the engine. `code` is stable and the same in every language. */
export class LomusaiError extends Error {{
  constructor(body: Partial<ErrorBody> & {{ message: string }}, options?: {{ cause?: unknown }});
  readonly kind: ErrorKind;
  readonly code: ErrorCode;
  readonly retryable: boolean;
  readonly retryAfterMs?: number;
  readonly details: Record<string, unknown>;
}}

{classes}
export const KINDS: Record<ErrorKind, typeof LomusaiError>;
export const CODES: Record<string, ErrorKind>;
"
    );
    Generated { path: "bindings/node/lib/errors.d.ts", text }
}

fn docs(table: &Table) -> Generated {
    let mut out = format!(
        "# Errors\n\n<!-- {NOTE} -->\n\n\
         Every error has a *kind*, which says what a caller can do, and a stable *code*, the same in every language. \
         Messages are for people and may change.\n\n\
         | kind | C status | Python, Node class | what to do |\n|---|---|---|---|\n"
    );
    for kind in &table.kind {
        let _ = writeln!(out, "| `{}` | {} | `{}` | {} |", kind.name, kind.status, kind.class, kind.doc);
    }
    out.push_str("\n| code | kind | retryable | meaning |\n|---|---|---|---|\n");
    for code in &table.code {
        let retryable = if code.retryable { "yes" } else { "" };
        let _ = writeln!(out, "| `{}` | `{}` | {retryable} | {} |", code.name, code.kind, code.doc);
    }
    Generated { path: "docs/errors.md", text: out }
}
