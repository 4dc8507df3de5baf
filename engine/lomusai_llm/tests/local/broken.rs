//! Files that are not what they should be: each has its code, and names the file.

use std::path::Path;

use lomusai_core::Error;
use lomusai_llm::local::LocalModels;
use lomusai_wire::codes;

use crate::{RUNTIME, config, file, folder};

fn load(path: &Path) -> Error {
    let models = LocalModels::new(config());
    let error = RUNTIME.block_on(models.load(path.to_str().unwrap(), |_| {})).expect_err("it cannot be loaded");
    assert!(error.body().message.contains(&path.display().to_string()), "names the file: {error}");
    error
}

/// The real model, with something done to its bytes.
fn changed(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> std::path::PathBuf {
    let mut bytes = std::fs::read(file("smollm2-135m")).unwrap();
    change(&mut bytes);
    let path = folder(name).join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Puts a text of the same length in the place of another.
fn replace(bytes: &mut [u8], old: &str, new: &str) {
    assert_eq!(old.len(), new.len());
    let place = bytes.windows(old.len()).position(|window| window == old.as_bytes()).expect("it is there");
    bytes[place..place + old.len()].copy_from_slice(new.as_bytes());
}

fn gone(path: &Path) {
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn a_file_that_is_cut_off() {
    let path = changed("cut", |bytes| bytes.truncate(bytes.len() - 1_000_000));
    let error = load(&path);
    assert!(error.is(codes::MODEL_FILE_INVALID) && error.body().message.contains("ends too early"), "{error}");
    gone(&path);
}

#[test]
fn a_file_that_is_no_gguf() {
    let path = changed("foreign", |bytes| bytes[..4].copy_from_slice(b"PK\x03\x04"));
    assert!(load(&path).is(codes::MODEL_FILE_INVALID));
    std::fs::write(&path, "").unwrap();
    assert!(load(&path).is(codes::MODEL_FILE_INVALID));
    gone(&path);
}

#[test]
fn a_header_that_is_damaged() {
    // The number of tensors.
    let path = changed("header", |bytes| bytes[8..16].fill(0xff));
    assert!(load(&path).is(codes::MODEL_FILE_INVALID));
    gone(&path);
}

#[test]
fn a_tensor_that_has_another_name() {
    // It passes the checks of the header; llama.cpp misses it.
    let path = changed("tensor", |bytes| replace(bytes, "blk.7.attn_q.weight", "blk.7.attn_x.weight"));
    let error = load(&path);
    assert!(error.is(codes::MODEL_FILE_INVALID) && error.body().message.contains("blk.7.attn_q.weight"), "{error}");
    gone(&path);
}

#[test]
fn an_architecture_that_nobody_knows() {
    let path = changed("architecture", |bytes| {
        // The value, and the prefix of every field of its own.
        while let Some(place) = bytes.windows(6).position(|window| window == b"llama." || window == b"llama\x00") {
            bytes[place..place + 5].copy_from_slice(b"lloma");
        }
        replace(bytes, "\u{5}\0\0\0\0\0\0\0llama", "\u{5}\0\0\0\0\0\0\0lloma");
    });
    let error = load(&path);
    assert!(error.is(codes::MODEL_UNSUPPORTED) && error.body().message.contains("lloma"), "{error}");
    gone(&path);
}

#[test]
fn a_model_without_a_chat_template() {
    let path = changed("template", |bytes| replace(bytes, "tokenizer.chat_template", "tokenizer.chat_templat_"));
    let error = load(&path);
    assert!(error.is(codes::MODEL_TEMPLATE_INVALID) && error.body().message.contains("chat_template"), "{error}");
    // One from the settings takes its place.
    let mut config = config();
    config.chat_template = Some("{% for m in messages %}{{ m.content }}{% endfor %}".into());
    config.context_tokens = Some(256);
    RUNTIME.block_on(LocalModels::new(config).load(path.to_str().unwrap(), |_| {})).expect("it has a template now");
    gone(&path);
}

#[test]
fn a_model_that_only_embeds() {
    let path = file("minilm-l6-v2");
    assert!(load(&path).is(codes::MODEL_UNSUPPORTED));
}

#[test]
fn a_context_larger_than_the_memory() {
    // A file that claims to have been taught a context no machine holds; its checks end before llama.cpp sees it.
    let path = changed("memory", |bytes| {
        let key = b"llama.context_length";
        let place = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 4;
        bytes[place..place + 4].copy_from_slice(&(1u32 << 30).to_le_bytes());
    });
    let mut config = config();
    (config.context_tokens, config.parallel) = (Some(1 << 30), Some(64));
    let error = RUNTIME.block_on(LocalModels::new(config).load(path.to_str().unwrap(), |_| {})).unwrap_err();
    assert!(error.is(codes::MEMORY_INSUFFICIENT) && error.body().message.contains("context_tokens"), "{error}");
    gone(&path);
}

#[test]
fn a_model_that_is_not_there() {
    let models = LocalModels::new(config());
    let error = RUNTIME.block_on(models.load("smollm3", |_| {})).unwrap_err();
    assert!(error.is(codes::MODEL_UNKNOWN) && error.body().message.contains("smollm2-135m"), "{error}");
    let error = RUNTIME.block_on(models.load("", |_| {})).unwrap_err();
    assert!(error.is(codes::MODEL_UNKNOWN), "{error}");
    let mut config = config();
    (config.offline, config.models_dir) = (true, Some(folder("offline")));
    let error = RUNTIME.block_on(LocalModels::new(config).load("smollm2-135m", |_| {})).unwrap_err();
    assert!(error.is(codes::MODEL_UNKNOWN) && error.body().message.contains("offline"), "{error}");
}
