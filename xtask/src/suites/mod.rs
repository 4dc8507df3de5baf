//! The suites of `cargo xtask test`, in the order they run. One file per language; what needs least time comes first.

pub(crate) mod c;
mod cross;
pub(crate) mod examples;
mod local;
pub(crate) mod node;
pub(crate) mod python;
mod rust;

use crate::bench::instructions;
use crate::demo;
use crate::test::Suite;

pub(crate) const SUITES: &[Suite] = &[
    Suite { name: "format", language: "rust", run: rust::format },
    Suite { name: "codegen", language: "all", run: rust::codegen },
    Suite { name: "clippy", language: "rust", run: rust::clippy },
    Suite { name: "docs", language: "rust", run: rust::docs },
    Suite { name: "rust", language: "rust", run: rust::tests },
    Suite { name: "instructions", language: "rust", run: instructions::suite },
    Suite { name: "simulation", language: "rust", run: rust::simulation },
    Suite { name: "crash", language: "rust", run: rust::crash },
    Suite { name: "examples", language: "rust", run: examples::rust },
    Suite { name: "c", language: "c", run: c::run },
    Suite { name: "python", language: "python", run: python::run },
    Suite { name: "node", language: "node", run: node::run },
    Suite { name: "cross", language: "all", run: cross::run },
    Suite { name: "demo", language: "all", run: demo::suite },
];

/// Suites that run only when they are named: they build llama.cpp and download models.
pub(crate) const NAMED: &[Suite] = &[
    Suite { name: "local", language: "all", run: local::run },
    Suite { name: "demo-local", language: "all", run: demo::local_suite },
];
