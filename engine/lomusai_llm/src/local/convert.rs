//! A BERT in its authors' form (safetensors, a vocabulary, a configuration) into one GGUF file.

use std::io::{self, Write};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::gguf::{Tensor, Writer};

/// The parts of `config.json` that matter.
#[derive(Deserialize)]
struct Config {
    hidden_size: u32,
    intermediate_size: u32,
    num_attention_heads: u32,
    num_hidden_layers: u32,
    max_position_embeddings: u32,
    layer_norm_eps: f32,
    type_vocab_size: u32,
}

#[derive(Deserialize)]
struct Stored {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [usize; 2],
}

/// Writes the file. `tokens_max` is where the authors cut texts off.
///
/// # Errors
/// What is wrong with the input, in words; or that the output cannot be written.
pub(super) fn bert(
    config: &[u8],
    vocabulary: &str,
    weights: &[u8],
    tokens_max: u32,
    into: impl Write,
) -> io::Result<()> {
    let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let config: Config = serde_json::from_slice(config)?;
    let length: [u8; 8] =
        weights.get(..8).and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| wrong("the weights are empty"))?;
    let start = usize::try_from(u64::from_le_bytes(length)).ok().and_then(|length| length.checked_add(8));
    let header = start.and_then(|start| weights.get(8..start)).ok_or_else(|| wrong("the weights are cut off"))?;
    let stored: Map<String, Value> = serde_json::from_slice(header)?;
    let data = &weights[8 + header.len()..];

    let mut writer = Writer::new("bert");
    writer.text("general.name", "all-MiniLM-L6-v2");
    writer.text("general.license", "apache-2.0");
    writer.u32("general.file_type", 0);
    writer.u32("bert.block_count", config.num_hidden_layers);
    writer.u32("bert.context_length", config.max_position_embeddings);
    writer.u32("bert.embedding_length", config.hidden_size);
    writer.u32("bert.feed_forward_length", config.intermediate_size);
    writer.u32("bert.attention.head_count", config.num_attention_heads);
    writer.f32("bert.attention.layer_norm_epsilon", config.layer_norm_eps);
    writer.bool("bert.attention.causal", false);
    // The mean of the tokens' vectors.
    writer.u32("bert.pooling_type", 1);
    writer.u32("lomusai.tokens_max", tokens_max);

    // Pieces that begin a word are marked, where the authors mark those that go on in one.
    let words: Vec<&str> = vocabulary.lines().collect();
    let special = |word: &str| word.starts_with('[') && word.ends_with(']') && word.len() > 2;
    let pieces: Vec<String> = words
        .iter()
        .map(|word| match word.strip_prefix("##") {
            Some(rest) => rest.to_owned(),
            None if special(word) => (*word).to_owned(),
            None => format!("\u{2581}{word}"),
        })
        .collect();
    writer.text("tokenizer.ggml.model", "bert");
    writer.u32("tokenizer.ggml.token_type_count", config.type_vocab_size);
    writer.texts("tokenizer.ggml.tokens", pieces.iter().map(String::as_str));
    let kinds: Vec<i32> = words.iter().map(|word| if special(word) { 3 } else { 1 }).collect();
    writer.i32s("tokenizer.ggml.token_type", &kinds);
    for (key, word) in
        [("cls", "[CLS]"), ("seperator", "[SEP]"), ("unknown", "[UNK]"), ("padding", "[PAD]"), ("mask", "[MASK]")]
    {
        let id = words
            .iter()
            .position(|known| *known == word)
            .ok_or_else(|| wrong(&format!("the vocabulary has no {word}")))?;
        writer.u32(&format!("tokenizer.ggml.{key}_token_id"), id as u32);
    }

    let mut values: Vec<&[u8]> = Vec::new();
    for (name, stored) in stored {
        let Some(name) = renamed(&name) else { continue };
        let stored = Stored::deserialize(stored)?;
        let [from, to] = stored.data_offsets;
        let bytes = data.get(from..to).ok_or_else(|| wrong(&format!("{name} is cut off")))?;
        if stored.dtype != "F32" || stored.shape.iter().product::<u64>() * 4 != bytes.len() as u64 {
            return Err(wrong(&format!("{name} is not of the type F32")));
        }
        let shape = stored.shape.into_iter().rev().collect();
        writer.tensor(Tensor { name, shape, kind: 0, bytes: bytes.len() as u64 });
        values.push(bytes);
    }
    writer.write(into, |number, into| into.write_all(values[number]))
}

/// What llama.cpp calls a tensor. Those it has no use for have no name.
fn renamed(name: &str) -> Option<String> {
    let plain = [
        ("embeddings.word_embeddings.weight", "token_embd.weight"),
        ("embeddings.position_embeddings.weight", "position_embd.weight"),
        ("embeddings.token_type_embeddings.weight", "token_types.weight"),
        ("embeddings.LayerNorm.weight", "token_embd_norm.weight"),
        ("embeddings.LayerNorm.bias", "token_embd_norm.bias"),
    ];
    if let Some((_, new)) = plain.iter().find(|(old, _)| *old == name) {
        return Some((*new).to_owned());
    }
    let (layer, rest) = name.strip_prefix("encoder.layer.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let part = match part {
        "attention.self.query" => "attn_q",
        "attention.self.key" => "attn_k",
        "attention.self.value" => "attn_v",
        "attention.output.dense" => "attn_output",
        "attention.output.LayerNorm" => "attn_output_norm",
        "intermediate.dense" => "ffn_up",
        "output.dense" => "ffn_down",
        "output.LayerNorm" => "layer_output_norm",
        _ => return None,
    };
    Some(format!("blk.{layer}.{part}.{kind}"))
}
