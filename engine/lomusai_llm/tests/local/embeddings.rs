//! MiniLM against a computation of its own: `../data/minilm/reference.py`.

use lomusai_core::llm::EmbeddingProvider;
use lomusai_llm::local::LocalEmbedder;
use lomusai_wire::codes;

use crate::{RUNTIME, config};

const DIMENSIONS: usize = 384;

fn embedder() -> LocalEmbedder {
    let mut config = config();
    config.model = Some("minilm-l6-v2".into());
    RUNTIME.block_on(LocalEmbedder::load(config, |_| {})).expect("the model can be had")
}

#[test]
fn vectors_are_those_of_an_independent_computation() {
    let texts: Vec<String> = serde_json::from_str(include_str!("../data/minilm/texts.json")).unwrap();
    let reference: Vec<f64> = include_bytes!("../data/minilm/vectors.i16")
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f64::from(i16::from_le_bytes(*bytes)))
        .collect();
    assert_eq!((texts.len(), reference.len()), (256, 256 * DIMENSIONS));
    let embedder = embedder();
    assert_eq!(embedder.dimensions(), DIMENSIONS);
    let words: Vec<&str> = texts.iter().map(String::as_str).collect();
    let vectors = RUNTIME.block_on(embedder.embed(&words)).unwrap();
    assert_eq!(vectors.len(), texts.len());
    for ((text, vector), reference) in texts.iter().zip(&vectors).zip(reference.chunks(DIMENSIONS)) {
        let length = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|number| number * number).sum::<f64>().sqrt();
        let own = length(&mut vector.iter().map(|number| f64::from(*number)));
        assert!((own - 1.0).abs() < 1e-5, "the vector of {text:?} has the length {own}");
        let product: f64 = vector.iter().zip(reference).map(|(one, other)| f64::from(*one) * other).sum();
        let cosine = product / own / length(&mut reference.iter().copied());
        assert!(cosine >= 0.999, "{cosine} for {text:?}");
    }
}

#[test]
fn a_text_has_one_vector_whatever_stands_beside_it() {
    let embedder = embedder();
    let alone = RUNTIME.block_on(embedder.embed(&["a small red fox"])).unwrap();
    let long = "the quick brown fox ".repeat(100);
    let beside = RUNTIME.block_on(embedder.embed(&[&long, "", "a small red fox"])).unwrap();
    assert_eq!(beside.len(), 3);
    let cosine: f32 = alone[0].iter().zip(&beside[2]).map(|(one, other)| one * other).sum();
    assert!(cosine > 0.9999, "{cosine}");
    assert!(RUNTIME.block_on(embedder.embed(&[])).unwrap().is_empty());
}

#[test]
fn a_chat_model_is_no_embedder() {
    let mut config = config();
    config.model = Some("smollm2-135m".into());
    let error = RUNTIME.block_on(LocalEmbedder::load(config, |_| {})).map(drop).unwrap_err();
    assert!(error.is(codes::MODEL_UNSUPPORTED), "{error}");
}
