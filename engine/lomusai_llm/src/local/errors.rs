//! What is wrong with a model's file, in the words of the engine.

use std::path::Path;

use lomusai_core::{Error, Result};
use lomusai_wire::codes;

use super::gguf::{Flaw, Header};

/// Reads and checks a model's header.
///
/// # Errors
/// `model_file_unreadable`, `model_file_invalid`, `model_unsupported`, each naming the file.
pub(super) fn header_of(file: &Path) -> Result<Header> {
    let read = || {
        let header = Header::read(file)?;
        header.check_model()?;
        Ok(header)
    };
    read().map_err(|flaw| of_flaw(file, flaw))
}

fn of_flaw(file: &Path, flaw: Flaw) -> Error {
    let name = file.display();
    let (code, message) = match flaw {
        Flaw::Unreadable(why) => (
            codes::MODEL_FILE_UNREADABLE,
            format!("the model {name} cannot be read ({why}): check the path and its permissions"),
        ),
        Flaw::Foreign(why) => (
            codes::MODEL_FILE_INVALID,
            format!(
                "{name} is no GGUF file ({why}): get the model in that format, or convert it with llama.cpp's tools"
            ),
        ),
        Flaw::Damaged(why) => {
            (codes::MODEL_FILE_INVALID, format!("the model {name} is damaged: {why}. Download it again"))
        }
        Flaw::Unsupported(why) => {
            (codes::MODEL_UNSUPPORTED, format!("the model {name} cannot be used: {why}. Choose another model"))
        }
    };
    Error::new(code, message).with("file", name.to_string())
}

/// The error of a file that passed our checks and that llama.cpp gave up on.
pub(super) fn of_load(file: &Path, said: &str) -> Error {
    // Its words for what is not in its list of architectures or tokenizers.
    let foreign =
        ["unknown model architecture", "unknown pre-tokenizer", "unknown tokenizer", "unsupported model architecture"];
    let flaw = if foreign.iter().any(|words| said.contains(words)) {
        Flaw::Unsupported(said.to_owned())
    } else {
        Flaw::Damaged(said.to_owned())
    };
    of_flaw(file, flaw)
}

/// The error of a model that cannot do what it is asked.
pub(super) fn wrong_kind(file: &Path, why: &str) -> Error {
    of_flaw(file, Flaw::Unsupported(why.to_owned()))
}
