"""Makes `texts.json` and `vectors.i16`: what all-MiniLM-L6-v2 says of 256 texts, without llama.cpp.

The model is computed here in plain numpy from its authors' weights; only the tokenizer is a library's (Hugging Face `tokenizers`).
It shares nothing with what is tested but the weights. Run with the model's folder, in a Python with numpy, safetensors and tokenizers:

    python reference.py FOLDER_OF_THE_MODEL

`vectors.i16` holds one vector of 384 numbers per text, each number times 32,767 as a little-endian i16.
"""

import json
import math
import random
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

HERE = Path(__file__).parent
TOKENS_MAX = 256


def texts():
    """Short and long ones, in several scripts, with what tokenizers stumble over."""
    odd = [
        "a", "?", "42", "   spaces   everywhere   ", "UPPER lower MiXeD", "don't can't won't", "naïve café résumé",
        "Straße, Größe, Übermut", "日本語のテキスト", "Ελληνικά γράμματα", "Кириллица", "emoji 🦀 and 👩‍💻", "tabs\tand\nnew\nlines",
        "https://example.org/a/b?c=d&e=f#g", "fn main() { println!(\"hi\"); }", "SELECT * FROM t WHERE a <> 'b';", "{\"key\": [1, 2.5, null]}",
        "<b>bold</b> &amp; more", "C++ and C# and F#", "x² + y³ = z⁴", "€100 or £85", "100% sure", "e-mail: someone@example.org", "…", "—",
        "word " * 400, "supercalifragilisticexpialidocious " * 60, "Donaudampfschifffahrtsgesellschaftskapitän", "a" * 150, "[CLS] is text here [SEP]",
    ]
    words = (
        "river stone bridge engine agent memory journal table paper green quick slow bright doctor market sugar winter garden "
        "letter planet music camera coffee window forest ocean signal number answer question reason village painter captain "
        "history science weather machine language pattern silence thunder kitchen mountain station traffic library"
    ).split()
    frames = [
        "The {} near the {} was {} by the {}.", "How does a {} find its {}?", "{}, {} and {}", "I would rather have a {} than a {}.",
        "Never put the {} on the {}: the {} will not forgive it.", "Report {}: the {} of the {} rose by 12.5 % in 2023.",
    ]
    draw = random.Random(20)
    while len(odd) < 256:
        sentences = [draw.choice(frames) for _ in range(draw.choice([1, 1, 1, 2, 3, 8, 20]))]
        odd.append(" ".join(frame.format(*[draw.choice(words) for _ in range(frame.count("{}"))]) for frame in sentences))
    return odd


def embed(weights, ids):
    def dense(x, name):
        return x @ weights[name + ".weight"].T + weights[name + ".bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12) * weights[name + ".weight"] + weights[name + ".bias"]

    erf = np.vectorize(math.erf)
    length, heads = len(ids), 12
    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.position_embeddings.weight"][:length]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(6):
        at = f"encoder.layer.{layer}."
        q, k, v = (
            dense(x, at + "attention.self." + name).reshape(length, heads, -1).transpose(1, 0, 2) for name in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(length, -1)
        x = norm(x + dense(mixed, at + "attention.output.dense"), at + "attention.output.LayerNorm")
        inner = dense(x, at + "intermediate.dense")
        inner = 0.5 * inner * (1 + erf(inner / math.sqrt(2)))
        x = norm(x + dense(inner, at + "output.dense"), at + "output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def main(folder):
    weights = {name: value.astype(np.float64) for name, value in load_file(folder / "model.safetensors").items()}
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS_MAX)
    tokenizer.no_padding()
    all_texts = texts()
    vectors = np.stack([embed(weights, tokenizer.encode(text).ids) for text in all_texts])
    (HERE / "texts.json").write_text(json.dumps(all_texts, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    (HERE / "vectors.i16").write_bytes(np.round(vectors * 32767).astype("<i2").tobytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
