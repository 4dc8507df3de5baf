//! What llama.cpp notes, which it would otherwise print: given to whoever listens, and kept for the error where it gives up.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::Arc;

use lomusai_core::sync::RwLock;
use lomusai_wire::LogLevel;

/// Takes notes: level, target (`local`), message.
pub type Listener = Arc<dyn Fn(LogLevel, &str, &str) + Send + Sync>;

static LISTENER: RwLock<Option<Listener>> = RwLock::new(None);

thread_local! {
    static COMPLAINTS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Sets who is told what local models and llama.cpp note, for the whole process: llama.cpp knows only one listener. Called on
/// whichever thread has something to say; must not block. `None`: nobody. Nothing is ever printed.
pub fn set_listener(listener: Option<Listener>) {
    *LISTENER.write() = listener;
}

/// Says something.
pub(super) fn note(level: LogLevel, message: &str) {
    let listener = LISTENER.read().clone();
    if let Some(listener) = listener {
        listener(level, "local", message);
    }
}

/// What llama.cpp says: pieces of lines.
pub(super) fn native(level: LogLevel, text: &str) {
    let line = LINE.with_borrow_mut(|line| {
        line.push_str(text);
        // Dots of a progress bar never end a line.
        if line.ends_with('\n') || line.len() > 4_000 { Some(std::mem::take(line)) } else { None }
    });
    let Some(line) = line.as_deref().map(str::trim).filter(|line| !line.is_empty()) else { return };
    if matches!(level, LogLevel::Error | LogLevel::Warn) {
        COMPLAINTS.with_borrow_mut(|complaints| {
            if let Some(complaints) = complaints
                && complaints.len() < 20
            {
                complaints.push(line.to_owned());
            }
        });
    }
    note(level, line);
}

/// Collects what llama.cpp complains of on this thread.
pub(super) struct Complaints(PhantomData<*const ()>);

impl Complaints {
    pub(super) fn begin() -> Self {
        COMPLAINTS.set(Some(Vec::new()));
        Self(PhantomData)
    }

    /// What it said, shortly.
    pub(super) fn end(self) -> String {
        let lines = COMPLAINTS.take().unwrap_or_default();
        if lines.is_empty() {
            return "llama.cpp gives no reason".to_owned();
        }
        // The function's name before the colon is of no use to a reader.
        let said: Vec<&str> =
            lines.iter().map(|line| line.split_once(": ").map_or(line.as_str(), |(_, said)| said)).collect();
        said.join("; ").chars().take(600).collect()
    }
}

impl Drop for Complaints {
    fn drop(&mut self) {
        COMPLAINTS.set(None);
    }
}
