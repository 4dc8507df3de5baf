//! Errors on their way to JavaScript and back. A JavaScript error stays in JavaScript; the engine carries a [`Token`] that stands for it.

use std::sync::Arc;

use lomusai_core::{Error, Result};
use napi::Status;

use crate::port::Shared;

/// Stands for a JavaScript value that is kept in a table on its own side. When the last of the engine's references is gone, the
/// table is told.
pub(crate) struct Token {
    port: Arc<Shared>,
    id: f64,
}

impl Token {
    pub(crate) fn new(port: &Arc<Shared>, id: f64) -> Arc<Self> {
        Arc::new(Self { port: port.clone(), id })
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.port.forget(self.id);
    }
}

/// The number of the JavaScript error behind this one; 0 where there is none in this thread's table.
pub(crate) fn host_id(port: &Arc<Shared>, error: &Error) -> f64 {
    let token = error.host().and_then(|host| host.downcast_ref::<Token>());
    token.filter(|token| Arc::ptr_eq(&token.port, port)).map_or(0.0, |token| token.id)
}

/// As [`host_id`], for any slot of the host.
pub(crate) fn slot_id(port: &Arc<Shared>, slot: Option<&lomusai_core::component::HostSlot>) -> f64 {
    let token = slot.and_then(|slot| slot.downcast_ref::<Token>());
    token.filter(|token| Arc::ptr_eq(&token.port, port)).map_or(0.0, |token| token.id)
}

pub(crate) fn body(error: &Error) -> String {
    serde_json::to_string(error.body()).expect("an error's body is JSON")
}

/// An error to throw. `lib/native.js` knows it by its first characters and throws one of the classes in its place.
pub(crate) fn thrown(error: &Error) -> napi::Error {
    napi::Error::new(Status::GenericFailure, format!("lomusai:{}", body(error)))
}

pub(crate) fn throwing<T>(result: Result<T>) -> napi::Result<T> {
    result.map_err(|error| thrown(&error))
}
