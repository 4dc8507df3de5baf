//! llama.cpp, wrapped so that the rest of the provider is safe Rust. Each type owns one of its objects and frees it.
//!
//! llama.cpp checks its callers with assertions that end the process. So nothing that comes from outside reaches it unchecked:
//! files are looked through by [`super::gguf`] first, and batches are built here within the bounds they were made with.

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use llama_cpp_sys_2 as sys;
use lomusai_core::sync::Mutex;
use lomusai_wire::LogLevel;

use super::log;

/// One token of a model's vocabulary.
pub(super) type Token = sys::llama_token;

/// A loaded model. May be shared between threads: what is used here only reads it.
pub(super) struct Model(NonNull<sys::llama_model>);

// SAFETY: a loaded model is not changed by the functions called here, except by making a context, which `CONTEXTS` serialises.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

/// Making a context writes to the model, so that only one may be made at a time.
static CONTEXTS: Mutex<()> = Mutex::new(());

impl Model {
    /// Loads a file. `progress` is told 0.0 to 1.0, and ends the load by answering `false`.
    ///
    /// # Errors
    /// What llama.cpp noted when it gave up.
    pub(super) fn load(path: &Path, mmap: bool, mut progress: impl FnMut(f32) -> bool) -> Result<Self, String> {
        backend();
        let text = path.to_str().ok_or("its path is not valid UTF-8")?;
        let text = CString::new(text).map_err(|_| "its path holds a zero byte")?;
        let mut progress: &mut dyn FnMut(f32) -> bool = &mut progress;
        // SAFETY: the defaults are a plain struct.
        let mut params = unsafe { sys::llama_model_default_params() };
        params.n_gpu_layers = 0;
        params.load_mode = if mmap { sys::LLAMA_LOAD_MODE_MMAP } else { sys::LLAMA_LOAD_MODE_NONE };
        params.progress_callback = Some(on_progress);
        params.progress_callback_user_data = ptr::from_mut(&mut progress).cast();
        let complaints = log::Complaints::begin();
        // SAFETY: the path is a C string, and what the callback points to outlives the call.
        let model = unsafe { sys::llama_model_load_from_file(text.as_ptr(), params) };
        NonNull::new(model).map(Self).ok_or_else(|| complaints.end())
    }

    fn vocab(&self) -> *const sys::llama_vocab {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_get_vocab(self.0.as_ptr()) }
    }

    /// How many tokens the vocabulary has.
    pub(super) fn vocabulary(&self) -> usize {
        // SAFETY: the vocabulary belongs to the model.
        unsafe { sys::llama_vocab_n_tokens(self.vocab()) as usize }
    }

    /// The length of an embedding.
    pub(super) fn embedding_length(&self) -> usize {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_n_embd_out(self.0.as_ptr()) as usize }
    }

    /// Whether its tokens are pieces of words, as BERT's are.
    pub(super) fn is_word_piece(&self) -> bool {
        // SAFETY: the vocabulary belongs to the model.
        unsafe { sys::llama_vocab_type(self.vocab()) == sys::LLAMA_VOCAB_TYPE_WPM }
    }

    /// Whether a text begins with the token for its beginning.
    pub(super) fn adds_bos(&self) -> bool {
        // SAFETY: the vocabulary belongs to the model.
        unsafe { sys::llama_vocab_get_add_bos(self.vocab()) }
    }

    /// The text of the tokens that begin and end a text; empty where there are none.
    pub(super) fn bos_eos(&self) -> (String, String) {
        let text = |token: Token| if token < 0 { String::new() } else { lossy(&self.piece(token, true)) };
        // SAFETY: the vocabulary belongs to the model.
        unsafe { (text(sys::llama_vocab_bos(self.vocab())), text(sys::llama_vocab_eos(self.vocab()))) }
    }

    /// Whether the model says with this token that it is done.
    pub(super) fn is_end(&self, token: Token) -> bool {
        // SAFETY: the vocabulary belongs to the model.
        unsafe { sys::llama_vocab_is_eog(self.vocab(), token) }
    }

    /// Some token that says the model is done.
    pub(super) fn end(&self) -> Token {
        // SAFETY: the vocabulary belongs to the model.
        unsafe {
            let eot = sys::llama_vocab_eot(self.vocab());
            if eot >= 0 { eot } else { sys::llama_vocab_eos(self.vocab()) }
        }
    }

    /// The tokens of a text. `special`: control tokens written out in it count as such. `around`: as a whole text, with what the
    /// model puts before and after one.
    pub(super) fn tokenize(&self, text: &str, around: bool, special: bool) -> Vec<Token> {
        let length = i32::try_from(text.len()).unwrap_or(i32::MAX);
        let mut tokens: Vec<Token> = vec![0; text.len() / 2 + 8];
        loop {
            // SAFETY: both buffers are as long as is said.
            let count = unsafe {
                sys::llama_tokenize(
                    self.vocab(),
                    text.as_ptr().cast(),
                    length,
                    tokens.as_mut_ptr(),
                    tokens.len() as i32,
                    around,
                    special,
                )
            };
            if count >= 0 {
                tokens.truncate(count as usize);
                return tokens;
            }
            tokens.resize(count.unsigned_abs() as usize, 0);
        }
    }

    /// The bytes of a token. `special`: a control token's name, which is otherwise empty.
    pub(super) fn piece(&self, token: Token, special: bool) -> Vec<u8> {
        let mut bytes = vec![0u8; 32];
        loop {
            // SAFETY: the buffer is as long as is said.
            let count = unsafe {
                let start = bytes.as_mut_ptr().cast::<c_char>();
                sys::llama_token_to_piece(self.vocab(), token, start, bytes.len() as i32, 0, special)
            };
            if count >= 0 {
                bytes.truncate(count as usize);
                return bytes;
            }
            bytes.resize(count.unsigned_abs() as usize, 0);
        }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: owned, and every context holds the model's `Arc`.
        unsafe { sys::llama_model_free(self.0.as_ptr()) }
    }
}

/// What a context is made for.
pub(super) struct Shape {
    /// Tokens per sequence.
    pub(super) tokens: u32,
    /// Sequences side by side.
    pub(super) sequences: u32,
    /// Most tokens per batch.
    pub(super) batch: u32,
    /// Threads that compute.
    pub(super) threads: u32,
    /// Give one vector per sequence, and no next tokens.
    pub(super) embeddings: bool,
}

/// A model at work: its cache of what it has read, and the threads that compute. Used by one thread at a time.
pub(super) struct Context {
    context: NonNull<sys::llama_context>,
    model: Arc<Model>,
    batch: sys::llama_batch,
    batch_max: usize,
    sequences: u32,
    stop: Arc<AtomicBool>,
}

// SAFETY: nothing in a context is bound to the thread that made it; `&mut self` keeps it to one at a time.
unsafe impl Send for Context {}

/// How a batch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    Done,
    /// Ended early, as it was told to.
    Stopped,
    Failed(i32),
}

impl Context {
    /// Makes a context. `stop` ends a batch that is being computed.
    ///
    /// # Errors
    /// What llama.cpp noted when it gave up: as a rule, that memory ran out.
    pub(super) fn new(model: Arc<Model>, shape: &Shape, stop: Arc<AtomicBool>) -> Result<Self, String> {
        // SAFETY: the defaults are a plain struct.
        let mut params = unsafe { sys::llama_context_default_params() };
        params.n_ctx = shape.tokens.saturating_mul(shape.sequences);
        params.n_batch = shape.batch;
        params.n_ubatch = shape.batch;
        params.n_seq_max = shape.sequences;
        params.n_threads = shape.threads as i32;
        params.n_threads_batch = shape.threads as i32;
        params.embeddings = shape.embeddings;
        params.no_perf = true;
        // Sequences share nothing: each computes over its own tokens only.
        params.kv_unified = false;
        // Without it, what slid out of a window could not be gone back to.
        params.swa_full = true;
        if !shape.embeddings {
            params.n_outputs_max = shape.sequences;
        }
        params.abort_callback = Some(on_abort);
        params.abort_callback_data = Arc::as_ptr(&stop).cast_mut().cast();
        let complaints = log::Complaints::begin();
        let made = CONTEXTS.lock();
        // SAFETY: the model outlives the context, which holds its `Arc`; `stop` too.
        let context = unsafe { sys::llama_init_from_model(model.0.as_ptr(), params) };
        drop(made);
        let context = NonNull::new(context).ok_or_else(|| complaints.end())?;
        // SAFETY: a plain allocation of this many tokens, with one sequence each.
        let batch = unsafe { sys::llama_batch_init(shape.batch as i32, 0, 1) };
        Ok(Self { context, model, batch, batch_max: shape.batch as usize, sequences: shape.sequences, stop })
    }

    pub(super) fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Adds a token of a sequence to the next batch and gives its place there. `output`: what follows it is wanted.
    ///
    /// # Panics
    /// When the batch is full, or the sequence is none of this context.
    pub(super) fn add(&mut self, token: Token, position: usize, sequence: usize, output: bool) -> usize {
        let place = self.batch.n_tokens as usize;
        assert!(place < self.batch_max && sequence < self.sequences as usize, "within the bounds it was made with");
        // SAFETY: the arrays hold `batch_max` entries, and `place` is below that.
        unsafe {
            *self.batch.token.add(place) = token;
            *self.batch.pos.add(place) = position as sys::llama_pos;
            *self.batch.n_seq_id.add(place) = 1;
            **self.batch.seq_id.add(place) = sequence as sys::llama_seq_id;
            *self.batch.logits.add(place) = i8::from(output);
        }
        self.batch.n_tokens += 1;
        place
    }

    /// How many tokens the next batch has already.
    pub(super) fn added(&self) -> usize {
        self.batch.n_tokens as usize
    }

    /// Computes the batch, and empties it.
    pub(super) fn decode(&mut self) -> Decoded {
        // SAFETY: the batch was filled by `add`.
        let result = unsafe { sys::llama_decode(self.context.as_ptr(), self.batch) };
        self.batch.n_tokens = 0;
        match result {
            0 => Decoded::Done,
            2 => Decoded::Stopped,
            _ if self.stop.load(Ordering::Acquire) => Decoded::Stopped,
            other => Decoded::Failed(other),
        }
    }

    /// How likely each token of the vocabulary is next, unnormalised, after the token at this place of the last batch.
    pub(super) fn logits(&self, place: usize) -> &[f32] {
        // SAFETY: llama.cpp gives a pointer to one number per token, or null where no output was asked for.
        unsafe {
            let start = sys::llama_get_logits_ith(self.context.as_ptr(), place as i32);
            if start.is_null() { &[] } else { std::slice::from_raw_parts(start, self.model.vocabulary()) }
        }
    }

    /// The vector of a sequence in the last batch.
    pub(super) fn embedding(&self, sequence: usize) -> Option<&[f32]> {
        // SAFETY: llama.cpp gives a pointer to one vector, or null.
        unsafe {
            let start = sys::llama_get_embeddings_seq(self.context.as_ptr(), sequence as i32);
            (!start.is_null()).then(|| std::slice::from_raw_parts(start, self.model.embedding_length()))
        }
    }

    /// Whether the model gives one vector per sequence.
    pub(super) fn pools(&self) -> bool {
        // SAFETY: the context is alive.
        let pooling = unsafe { sys::llama_pooling_type(self.context.as_ptr()) };
        pooling != sys::LLAMA_POOLING_TYPE_NONE && pooling != sys::LLAMA_POOLING_TYPE_RANK
    }

    /// Forgets a sequence from a position on. `false`: this model cannot forget a part, and nothing was forgotten.
    pub(super) fn forget(&mut self, sequence: usize, from: usize) -> bool {
        // SAFETY: the context is alive.
        unsafe {
            let memory = sys::llama_get_memory(self.context.as_ptr());
            memory.is_null() || sys::llama_memory_seq_rm(memory, sequence as i32, from as i32, -1)
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: both are owned.
        unsafe {
            sys::llama_batch_free(self.batch);
            sys::llama_free(self.context.as_ptr());
        }
    }
}

/// A token that may come next, and how likely it is.
pub(super) type Candidate = sys::llama_token_data;

/// Chooses the next token, or says which may come.
pub(super) struct Sampler(NonNull<sys::llama_sampler>);

// SAFETY: a sampler is bound to no thread; `&mut self` keeps it to one at a time.
unsafe impl Send for Sampler {}

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sampling {
    /// 0: always the likeliest.
    pub(super) temperature: f32,
    pub(super) top_p: f32,
    /// 0: all.
    pub(super) top_k: u32,
    pub(super) min_p: f32,
    pub(super) presence: f32,
    pub(super) frequency: f32,
    /// 1: none.
    pub(super) repeat: f32,
    pub(super) seed: u32,
}

/// How many tokens back a penalty looks.
const PENALTY_TOKENS: i32 = 256;

impl Sampler {
    /// One that chooses.
    pub(super) fn new(model: &Model, sampling: &Sampling) -> Self {
        let Sampling { temperature, top_p, top_k, min_p, presence, frequency, repeat, seed } = *sampling;
        // SAFETY: each sampler is made with plain numbers and given to the chain, which frees it.
        unsafe {
            let mut params = sys::llama_sampler_chain_default_params();
            params.no_perf = true;
            let chain = sys::llama_sampler_chain_init(params);
            let add = |sampler| sys::llama_sampler_chain_add(chain, sampler);
            if presence != 0.0 || frequency != 0.0 || repeat != 1.0 {
                let vocabulary = model.vocabulary() as i32;
                add(sys::llama_sampler_init_penalties(vocabulary, PENALTY_TOKENS, repeat, frequency, presence));
            }
            if temperature <= 0.0 {
                add(sys::llama_sampler_init_greedy());
            } else {
                if top_k > 0 {
                    add(sys::llama_sampler_init_top_k(top_k as i32));
                }
                if top_p < 1.0 {
                    add(sys::llama_sampler_init_top_p(top_p, 1));
                }
                if min_p > 0.0 {
                    add(sys::llama_sampler_init_min_p(min_p, 1));
                }
                add(sys::llama_sampler_init_temp(temperature));
                add(sys::llama_sampler_init_dist(seed));
            }
            Self(NonNull::new(chain).expect("llama.cpp allocates or ends the process"))
        }
    }

    /// One that allows what a grammar does. `None`: the grammar is not one.
    pub(super) fn grammar(model: &Model, grammar: &str) -> Option<Self> {
        let grammar = CString::new(grammar).ok()?;
        // SAFETY: two C strings, which are copied.
        let sampler = unsafe { sys::llama_sampler_init_grammar(model.vocab(), grammar.as_ptr(), c"root".as_ptr()) };
        NonNull::new(sampler).map(Self)
    }

    /// Chooses one of the candidates; they may be reordered and made fewer. `None`: all of them are impossible.
    pub(super) fn choose(&mut self, candidates: &mut Vec<Candidate>) -> Option<Token> {
        let mut array = sys::llama_token_data_array {
            data: candidates.as_mut_ptr(),
            size: candidates.len(),
            selected: -1,
            sorted: false,
        };
        if candidates.is_empty() {
            return None;
        }
        // SAFETY: samplers only reorder, drop and rate what is in the array.
        unsafe { sys::llama_sampler_apply(self.0.as_ptr(), &mut array) };
        let place = usize::try_from(array.selected).ok().filter(|place| *place < array.size)?;
        // SAFETY: within the array's size. A sampler may have put another buffer in place of ours.
        let chosen = unsafe { *array.data.add(place) };
        (chosen.logit > f32::NEG_INFINITY).then_some(chosen.id)
    }

    /// Makes the candidates impossible that the grammar does not allow.
    pub(super) fn mask(&mut self, candidates: &mut [Candidate]) {
        if candidates.is_empty() {
            return;
        }
        let mut array = sys::llama_token_data_array {
            data: candidates.as_mut_ptr(),
            size: candidates.len(),
            selected: -1,
            sorted: false,
        };
        // SAFETY: a grammar only lowers ratings.
        unsafe { sys::llama_sampler_apply(self.0.as_ptr(), &mut array) };
    }

    /// Whether the grammar allows this token next.
    pub(super) fn allows(&mut self, token: Token) -> bool {
        let mut one = [Candidate { id: token, logit: 0.0, p: 0.0 }];
        self.mask(&mut one);
        one[0].logit > f32::NEG_INFINITY
    }

    /// Takes note of the token that came next. A grammar must allow it: llama.cpp ends the process otherwise.
    pub(super) fn accept(&mut self, token: Token) {
        // SAFETY: the sampler is alive.
        unsafe { sys::llama_sampler_accept(self.0.as_ptr(), token) }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { sys::llama_sampler_free(self.0.as_ptr()) }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Sets llama.cpp up, once per process: it prints nothing, what it notes goes to [`log`].
fn backend() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        // SAFETY: the callback lives as long as the program.
        unsafe {
            sys::llama_log_set(Some(on_log), ptr::null_mut());
            sys::llama_backend_init();
        }
    });
}

unsafe extern "C" fn on_log(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp gives a C string that lives for the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let level = match level {
        sys::GGML_LOG_LEVEL_ERROR => LogLevel::Error,
        sys::GGML_LOG_LEVEL_WARN => LogLevel::Warn,
        _ => LogLevel::Debug,
    };
    log::native(level, &text);
}

unsafe extern "C" fn on_progress(progress: f32, data: *mut c_void) -> bool {
    // SAFETY: `load` passed a reference to its callback, which lives while it loads.
    let progress_of = unsafe { &mut *data.cast::<&mut dyn FnMut(f32) -> bool>() };
    progress_of(progress)
}

unsafe extern "C" fn on_abort(data: *mut c_void) -> bool {
    // SAFETY: `new` passed the flag inside an `Arc` that the context holds.
    unsafe { &*data.cast::<AtomicBool>() }.load(Ordering::Acquire)
}
