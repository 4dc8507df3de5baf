//! The kit under every binding: an engine whose commands and events are JSON text, and handles for the host's answers.
//!
//! A binding implements [`Handler`] with its language's callables and maps [`Error`]s; whatever two bindings would repeat is here.

mod adapters;
mod answer;
mod engine;
mod names;
mod ops;
mod pool;
mod process;
mod run;

pub use answer::{Answer, CallInfo, Fault, Pushed, Raised};
pub use engine::{HostEngine, LogFn, Placement};
pub use names::name_functions;
pub use ops::{OPERATIONS, draft_workflow};
pub use pool::while_waiting;
pub use process::Process;
pub use run::{HostObserver, HostResult, HostRun, NextJson};

use std::fmt::Display;

use lomusai_core::{Error, Result};
use lomusai_wire::codes;
use serde::de::DeserializeOwned;

/// The allocator of a library that a host loads. A run's events are made on one thread and forgotten on another, for which the system's
/// makes them wait for each other: with it two cores did less than one. On Linux, where it was measured, and in builds without
/// assertions: a soak counts what the system's is asked for.
#[macro_export]
macro_rules! allocator {
    () => {
        #[cfg(all(target_os = "linux", not(debug_assertions)))]
        #[global_allocator]
        static ALLOCATOR: $crate::MiMalloc = $crate::MiMalloc;
    };
}

#[cfg(target_os = "linux")]
#[doc(hidden)]
pub use mimalloc::MiMalloc;

/// A function of the host, called with a question and a handle to answer it by.
pub trait Handler: Send + Sync {
    /// Takes a call. The answer may be given now, later, and on any thread; dropping it unanswered is an error the engine knows how to tell.
    ///
    /// Called on a thread of the engine's host pool, or, where registered [`Placement::Inline`], on a thread that drives runs and must not be blocked.
    fn call(&self, call: CallInfo, answer: Answer);
}

impl<F: Fn(CallInfo, Answer) + Send + Sync> Handler for F {
    fn call(&self, call: CallInfo, answer: Answer) {
        self(call, answer);
    }
}

/// Reads JSON of the host.
///
/// # Errors
/// `json_invalid` for what is not JSON, `argument_invalid` for JSON of another form, naming `what` and the place.
pub fn read<T: DeserializeOwned>(what: impl Display, json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|e| {
        let code = match e.classify() {
            serde_json::error::Category::Data => codes::ARGUMENT_INVALID,
            _ => codes::JSON_INVALID,
        };
        Error::new(code, format!("{what} cannot be read: {e}"))
    })
}

/// As [`read`], where it must be an object: the fields of a struct would be taken from a list, too, by their places.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_object<T: DeserializeOwned>(what: impl Display, json: &str) -> Result<T> {
    if json.trim_start().starts_with('[') {
        read::<serde::de::IgnoredAny>(&what, json)?;
        return Err(Error::new(codes::ARGUMENT_INVALID, format!("{what} cannot be read: it is a list, not an object")));
    }
    read(what, json)
}

pub(crate) fn write(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("what the engine says is JSON")
}
