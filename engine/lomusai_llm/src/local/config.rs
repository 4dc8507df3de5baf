//! What local models are told: which file, how much memory, how many threads.

use std::path::{Path, PathBuf};

use lomusai_core::{Error, Result};
use lomusai_wire::codes;
use serde::{Deserialize, Serialize};

use super::gguf::Header;

/// Settings of local models. All have defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LocalConfig {
    /// The model where a request names none: a known name, a path or an address; see [`Store`](super::Store).
    pub model: Option<String>,
    /// Tokens of one conversation with its answer. Default: what the model was taught, at most 8,192. More costs memory: all of it
    /// is taken when the model is loaded.
    pub context_tokens: Option<u32>,
    /// Runs that are served side by side, 1 to 64; more wait. Each takes the memory of one context. Default 4.
    pub parallel: Option<u32>,
    /// Threads that compute. Default: the environment's `LOMUSAI_LOCAL_THREADS`, else one per physical core.
    pub threads: Option<u32>,
    /// Reads the file into memory instead of mapping it. Default `false`: mapped pages are shared and given back under pressure.
    pub no_mmap: bool,
    /// A chat template in place of the one in the file, as Jinja text.
    pub chat_template: Option<String>,
    /// Where downloaded models are kept; see [`Store`](super::Store).
    pub models_dir: Option<PathBuf>,
    /// Never downloads: a model that is not there is an error. Default `false`.
    pub offline: bool,
}

/// Tokens per batch. More make prompts no faster, fewer make them slower.
pub(super) const BATCH: u32 = 512;

/// What a model's context takes when nothing is set, at most.
const CONTEXT_DEFAULT: u64 = 8_192;

/// Memory beside the weights and the cache: scratch space and buffers.
const OVERHEAD: u64 = 96 << 20;

/// The settings, worked out for one model.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) tokens: u32,
    pub(super) slots: u32,
    pub(super) threads: u32,
    pub(super) mmap: bool,
    /// Bytes that will be needed.
    pub(super) bytes: u64,
}

impl LocalConfig {
    /// Works the settings out for a model.
    ///
    /// # Errors
    /// `argument_invalid`, naming the setting.
    pub(super) fn plan(&self, header: &Header, file_bytes: u64) -> Result<Plan> {
        let taught = header.shape("context_length").unwrap_or(CONTEXT_DEFAULT);
        let tokens = match self.context_tokens {
            None => taught.min(CONTEXT_DEFAULT),
            Some(tokens @ 16..) if u64::from(tokens) <= taught => tokens.into(),
            Some(tokens) => {
                return Err(Error::new(
                    codes::ARGUMENT_INVALID,
                    format!(
                        "context_tokens must be between 16 and the {taught} that the model was taught, was {tokens}"
                    ),
                ));
            }
        };
        let slots = self.parallel.unwrap_or(4);
        if !(1..=64).contains(&slots) {
            return Err(Error::new(codes::ARGUMENT_INVALID, format!("parallel must be between 1 and 64, was {slots}")));
        }
        let cache = tokens.saturating_mul(slots.into()).saturating_mul(cache_bytes(header));
        let weights = if self.no_mmap { file_bytes } else { 0 };
        let mmap = !self.no_mmap;
        let bytes = weights.saturating_add(cache).saturating_add(OVERHEAD);
        Ok(Plan { tokens: u32::try_from(tokens).unwrap_or(u32::MAX), slots, threads: self.threads()?, mmap, bytes })
    }

    /// How many threads compute.
    ///
    /// # Errors
    /// `argument_invalid`.
    pub(super) fn threads(&self) -> Result<u32> {
        let wrong = |what: &str, value: String| {
            Error::new(codes::ARGUMENT_INVALID, format!("{what} must be a number between 1 and 512, was {value:?}"))
        };
        let within = |threads: &u32| (1..=512).contains(threads);
        if let Some(threads) = self.threads {
            return if within(&threads) { Ok(threads) } else { Err(wrong("threads", threads.to_string())) };
        }
        match std::env::var("LOMUSAI_LOCAL_THREADS") {
            Ok(text) => text.trim().parse().ok().filter(within).ok_or_else(|| wrong("LOMUSAI_LOCAL_THREADS", text)),
            Err(_) => Ok(cores().clamp(1, 512)),
        }
    }
}

/// Bytes that the cache takes per token: a key and a value of two bytes per number, in every layer.
fn cache_bytes(header: &Header) -> u64 {
    let shape = |key: &str| header.shape(key);
    let layers = shape("block_count").unwrap_or(1);
    let heads = shape("attention.head_count").unwrap_or(1).max(1);
    let width = shape("embedding_length").unwrap_or(1) / heads;
    let pairs = shape("attention.head_count_kv").unwrap_or(heads);
    let numbers = shape("attention.key_length").unwrap_or(width) + shape("attention.value_length").unwrap_or(width);
    layers.saturating_mul(pairs).saturating_mul(numbers).saturating_mul(2)
}

/// Physical cores that this process may use: two threads on one core slow each other down here.
fn cores() -> u32 {
    let allowed = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    let mut siblings = std::collections::BTreeSet::new();
    for number in 0.. {
        let path = format!("/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list");
        match std::fs::read_to_string(path) {
            Ok(text) => siblings.insert(text.trim().to_owned()),
            Err(_) => break,
        };
    }
    if siblings.is_empty() { allowed } else { allowed.min(siblings.len() as u32) }
}

/// Checks that the memory is there.
///
/// # Errors
/// `memory_insufficient`.
pub(super) fn check_memory(file: &Path, plan: &Plan, available: Option<u64>) -> Result<()> {
    let Some(available) = available.filter(|available| *available < plan.bytes) else { return Ok(()) };
    Err(out_of_memory(file, plan, &format!("{} are free", mebibytes(available))))
}

pub(super) fn out_of_memory(file: &Path, plan: &Plan, why: &str) -> Error {
    let (name, need) = (file.display(), mebibytes(plan.bytes));
    Error::new(
        codes::MEMORY_INSUFFICIENT,
        format!(
            "{name} needs {need} of memory for {} conversations of {} tokens, and {why}: lower context_tokens or parallel, or choose a smaller model",
            plan.slots, plan.tokens
        ),
    )
    .with("file", name.to_string())
    .with("bytes", plan.bytes)
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// Memory that can still be had, in bytes, where the system says so.
pub(super) fn available_memory() -> Option<u64> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
    });
    // A container's own bound, where it has one.
    let group = number("/sys/fs/cgroup/memory.max")
        .and_then(|most| Some(most.saturating_sub(number("/sys/fs/cgroup/memory.current")?)));
    [machine, group].into_iter().flatten().min()
}

/// Checks that the CPU has what llama.cpp was built for.
///
/// # Errors
/// `cpu_unsupported`, naming what is missing.
pub(super) fn check_cpu() -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    let features: &[(&str, bool)] = &[
        ("SSE4.2", is_x86_feature_detected!("sse4.2")),
        ("AVX", is_x86_feature_detected!("avx")),
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("FMA", is_x86_feature_detected!("fma")),
        ("F16C", is_x86_feature_detected!("f16c")),
        ("BMI2", is_x86_feature_detected!("bmi2")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let features: &[(&str, bool)] = &[];
    check_features(features)
}

fn check_features(features: &[(&str, bool)]) -> Result<()> {
    let missing: Vec<&str> = features.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        codes::CPU_UNSUPPORTED,
        format!(
            "local models need a CPU with {}, which this one has not: use a model behind HTTP, or another machine",
            missing.join(", ")
        ),
    )
    .with("missing", missing.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        // Tests of one process run side by side.
        let me = format!("lomusai-config-{}-{:?}", std::process::id(), std::thread::current().id());
        let folder = std::env::temp_dir().join(me);
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("model.gguf");
        std::fs::write(&path, super::super::gguf::sample(|_| {})).unwrap();
        let header = Header::read(&path).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        header
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let with = |change: fn(&mut LocalConfig)| {
            let mut config = LocalConfig::default();
            change(&mut config);
            config.plan(&header(), 1_000)
        };
        assert_eq!(with(|_| {}).unwrap().tokens, 64, "what the model was taught");
        for (change, named) in [
            ((|config| config.context_tokens = Some(65)) as fn(&mut LocalConfig), "context_tokens"),
            (|config| config.parallel = Some(0), "parallel"),
            (|config| config.threads = Some(0), "threads"),
        ] {
            let error = with(change).unwrap_err();
            assert!(error.is(codes::ARGUMENT_INVALID) && error.body().message.starts_with(named), "{error}");
        }
    }

    #[test]
    fn missing_memory_and_instructions_are_named() {
        let plan = LocalConfig::default().plan(&header(), 1_000).unwrap();
        // One layer, one head of 32 numbers: 128 bytes per token.
        assert_eq!(plan.bytes, OVERHEAD + 64 * 4 * 128);
        let file = Path::new("x.gguf");
        assert!(check_memory(file, &plan, None).is_ok() && check_memory(file, &plan, Some(plan.bytes)).is_ok());
        let error = check_memory(file, &plan, Some(plan.bytes - 1)).unwrap_err();
        assert!(error.is(codes::MEMORY_INSUFFICIENT) && error.body().message.contains("x.gguf"), "{error}");
        let error = check_features(&[("AVX2", true), ("FMA", false)]).unwrap_err();
        assert!(error.is(codes::CPU_UNSUPPORTED) && error.body().details["missing"] == "FMA", "{error}");
    }
}
