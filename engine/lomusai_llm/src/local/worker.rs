//! One loaded model at work: a thread of its own that serves several runs side by side.
//!
//! Each run has a slot, a sequence in the model's cache. A slot keeps what it has read when its run ends, so that the next turn of the
//! same thread begins where the last one stopped. Every round of the loop computes one batch: the next token of each run that is
//! writing, and as much of the prompts that are still being read as fits beside them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use lomusai_core::sync::{Condvar, Mutex};
use lomusai_core::{Error, Result};
use lomusai_wire::{FinishReason, LogLevel, ModelChunk, Usage, codes};
use tokio::sync::mpsc::UnboundedSender;

use super::grammar::{CALL_ENDS, NAME_BEGINS};
use super::log;
use super::native::{Candidate, Context, Decoded, Model, Sampler, Token};
use super::request::Task;
use super::response::{Decoder, Step};

/// Most tokens of prompts per batch while other runs are writing: they wait no longer than this takes.
const READ_BESIDE: usize = 64;

/// How many of the likeliest tokens are tried when the grammar refuses the chosen one, before all are.
const TRIED: usize = 256;

/// What a run gives the worker.
pub(super) struct Job {
    pub(super) task: Task,
    pub(super) chunks: UnboundedSender<Result<ModelChunk>>,
    pub(super) cancelled: Arc<AtomicBool>,
}

/// A handle of the worker. Dropping it ends the thread: runs that are at work end with an error.
pub(super) struct Worker {
    mail: Arc<Mail>,
    thread: Option<JoinHandle<()>>,
}

struct Mail {
    waiting: Mutex<VecDeque<Job>>,
    arrived: Condvar,
    closed: AtomicBool,
    /// Ends the batch that is being computed.
    stop: Arc<AtomicBool>,
}

impl Worker {
    /// Starts the thread. `slots` and `tokens` (per slot) are those the context was made with, and `stop` its flag.
    ///
    /// # Errors
    /// `internal`, where the system gives no thread.
    pub(super) fn start(
        context: Context,
        slots: usize,
        tokens: usize,
        batch: usize,
        stop: Arc<AtomicBool>,
        file: String,
    ) -> Result<Self> {
        let mail = Arc::new(Mail {
            waiting: Mutex::new(VecDeque::new()),
            arrived: Condvar::new(),
            closed: AtomicBool::new(false),
            stop,
        });
        let slots = (0..slots).map(|_| Slot::default()).collect();
        let server =
            Server { context, slots, tokens, batch, mail: mail.clone(), candidates: Vec::new(), turn: 0, file };
        let thread = std::thread::Builder::new()
            .name("lomusai-local".into())
            .spawn(move || server.serve())
            .map_err(|error| Error::new(codes::INTERNAL, format!("no thread for the local model: {error}")))?;
        Ok(Self { mail, thread: Some(thread) })
    }

    /// Gives a job to the worker.
    pub(super) fn send(&self, job: Job) {
        self.mail.waiting.lock().push_back(job);
        self.mail.arrived.notify_one();
    }

    /// Tells the worker that a job's `cancelled` was set.
    pub(super) fn cancel(&self) -> impl Fn() + Send + Sync + use<> {
        let mail = self.mail.clone();
        move || {
            mail.stop.store(true, Ordering::Release);
            // Under the lock: the worker looks and then waits while it holds it.
            let _waiting = mail.waiting.lock();
            mail.arrived.notify_one();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.mail.closed.store(true, Ordering::Release);
        self.cancel()();
        if let Some(thread) = self.thread.take() {
            // It may hold the last handle itself, where a stream was dropped there.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// A sequence of the model's cache.
#[derive(Default)]
struct Slot {
    /// What the cache holds of it.
    tokens: Vec<Token>,
    run: Option<Run>,
    /// When it was last used, in rounds.
    used: u64,
}

struct Run {
    job: Job,
    /// Tokens that the cache does not hold yet, in order.
    ahead: VecDeque<Token>,
    /// How many of them are in the batch at work.
    taken: usize,
    /// Where the batch at work says what may follow.
    place: Option<usize>,
    sampler: Sampler,
    grammar: Option<Sampler>,
    decoder: Decoder,
    usage: Usage,
    written: u32,
}

struct Server {
    context: Context,
    slots: Vec<Slot>,
    tokens: usize,
    batch: usize,
    mail: Arc<Mail>,
    candidates: Vec<Candidate>,
    turn: u64,
    file: String,
}

impl Server {
    fn serve(mut self) {
        while self.admit() {
            self.turn += 1;
            // Cleared before the jobs are looked at: who cancels sets the job's flag first.
            self.mail.stop.store(false, Ordering::Release);
            for slot in &mut self.slots {
                if slot.run.as_ref().is_some_and(|run| run.job.is_over()) {
                    slot.run = None;
                }
            }
            if self.mail.closed.load(Ordering::Acquire) {
                return;
            }
            self.fill();
            if self.context.added() == 0 {
                continue;
            }
            match self.context.decode() {
                Decoded::Done => self.advance(),
                Decoded::Stopped => self.undo(None),
                Decoded::Failed(code) => self.undo(Some(code)),
            }
        }
    }

    /// Gives waiting jobs free slots; waits where there is nothing to do. `false`: the worker is to end.
    fn admit(&mut self) -> bool {
        let mail = self.mail.clone();
        let mut waiting = mail.waiting.lock();
        loop {
            if mail.closed.load(Ordering::Acquire) {
                return false;
            }
            waiting.retain(|job| !job.is_over());
            let idle = self.slots.iter().any(|slot| slot.run.is_none());
            if let Some(job) = if idle { waiting.pop_front() } else { None } {
                drop(waiting);
                self.begin(job);
                waiting = mail.waiting.lock();
            } else if self.slots.iter().any(|slot| slot.run.is_some()) {
                return true;
            } else {
                mail.arrived.wait(&mut waiting);
            }
        }
    }

    fn begin(&mut self, job: Job) {
        match self.run_of(job) {
            Ok((run, slot)) => self.slots[slot].run = Some(run),
            Err((job, error)) => job.fail(error),
        }
    }

    /// Finds a job its slot, and what of its prompt that slot has read already.
    fn run_of(&mut self, mut job: Job) -> std::result::Result<(Run, usize), (Job, Error)> {
        let model = self.context.model().clone();
        let prompt = prompt_tokens(&model, &job.task.prompt);
        // One place is for the first token of the answer.
        if prompt.len() >= self.tokens {
            let error = Error::new(
                codes::CONTEXT_TOO_LONG,
                format!(
                    "the conversation has {} tokens, and {} takes {} with its answer: shorten it, or raise context_tokens as far as the model allows",
                    prompt.len(),
                    self.file,
                    self.tokens
                ),
            );
            let error =
                error.with("tokens", prompt.len()).with("context_tokens", self.tokens).with("file", self.file.as_str());
            return Err((job, error));
        }
        let grammar = match job.task.first.take().map(|text| Sampler::grammar(&model, &text)) {
            None => None,
            Some(Some(grammar)) => Some(grammar),
            Some(None) => {
                let why = "a schema of this request is too large for a grammar of llama.cpp: bound or simplify it";
                return Err((job, Error::new(codes::SCHEMA_UNSUPPORTED, why)));
            }
        };
        let (slot, kept) = self.choose_slot(&prompt);
        let slot_at = &mut self.slots[slot];
        // The last token is read again: what follows it is wanted, and the cache does not keep that.
        let mut kept = kept.min(prompt.len() - 1);
        if kept < slot_at.tokens.len() && !self.context.forget(slot, kept) {
            // Some models cannot forget a part.
            self.context.forget(slot, 0);
            kept = 0;
        }
        slot_at.tokens.truncate(kept);
        slot_at.used = self.turn;
        let mut usage = Usage::new((prompt.len() - kept) as u64, 0);
        usage.cache_read = kept as u64;
        let mut ready = Vec::new();
        let decoder = Decoder::new(
            job.task.start.clone(),
            std::mem::take(&mut job.task.stops),
            job.task.calls.is_some(),
            &mut ready,
        );
        let sampler = Sampler::new(&model, &job.task.sampling);
        ready.into_iter().for_each(|chunk| job.say(chunk));
        let ahead = prompt[kept..].iter().copied().collect();
        Ok((Run { job, ahead, taken: 0, place: None, sampler, grammar, decoder, usage, written: 0 }, slot))
    }

    /// The idle slot that has read most of a prompt, unless most of what it has read would be lost with that: then the one that was
    /// idle for longest. Some slot is idle.
    fn choose_slot(&self, prompt: &[Token]) -> (usize, usize) {
        let idle = || {
            self.slots.iter().enumerate().filter(|(_, slot)| slot.run.is_none()).map(|(number, slot)| {
                let common = slot.tokens.iter().zip(prompt).take_while(|(one, other)| one == other).count();
                (number, slot, common)
            })
        };
        let best = idle()
            .filter(|(_, slot, common)| *common * 2 >= slot.tokens.len().max(1))
            .max_by_key(|(_, _, common)| *common);
        let (number, _, common) =
            best.or_else(|| idle().min_by_key(|(_, slot, _)| slot.used)).expect("called when a slot is idle");
        (number, common)
    }

    /// Fills the next batch.
    fn fill(&mut self) {
        let reading = |slot: &Slot| slot.run.as_ref().is_some_and(|run| run.ahead.len() > 1);
        let readers = self.slots.iter().filter(|slot| reading(slot)).count();
        let writers = self.slots.iter().filter(|slot| slot.run.is_some() && !reading(slot)).count();
        let room = self.batch - writers;
        let room = if writers > 0 { room.min(READ_BESIDE) } else { room };
        // Prompts share the room; each reads something in every round.
        let share = (room / readers.max(1)).max(1);
        for (number, slot) in self.slots.iter_mut().enumerate() {
            let Some(run) = &mut slot.run else { continue };
            run.taken = run.ahead.len().min(if run.ahead.len() > 1 { share } else { 1 });
            run.place = None;
            for (step, token) in run.ahead.iter().take(run.taken).enumerate() {
                let last = step + 1 == run.ahead.len();
                let place = self.context.add(*token, slot.tokens.len() + step, number, last);
                if last {
                    run.place = Some(place);
                }
            }
        }
    }

    /// Takes a batch back that was not computed to its end. With a code it never will be: its runs end.
    fn undo(&mut self, failure: Option<i32>) {
        for (number, slot) in self.slots.iter_mut().enumerate() {
            let Some(run) = &mut slot.run else { continue };
            if run.taken == 0 {
                continue;
            }
            run.taken = 0;
            if !self.context.forget(number, slot.tokens.len()) {
                self.context.forget(number, 0);
                // Read again from the start.
                for token in slot.tokens.drain(..).rev() {
                    run.ahead.push_front(token);
                }
            }
            if let Some(code) = failure {
                let file = &self.file;
                let error = Error::new(
                    codes::PROVIDER_FAILED,
                    format!("llama.cpp could not compute with {file} (code {code})"),
                );
                log::note(LogLevel::Error, &error.body().message);
                if let Some(run) = slot.run.take() {
                    run.job.fail(error.with("file", file.as_str()));
                }
            }
        }
    }

    /// A batch was computed: each run whose prompt is read gets its next token.
    fn advance(&mut self) {
        for number in 0..self.slots.len() {
            let slot = &mut self.slots[number];
            let Some(run) = &mut slot.run else { continue };
            slot.used = self.turn;
            slot.tokens.extend(run.ahead.drain(..run.taken));
            run.taken = 0;
            let Some(place) = run.place.take() else { continue };
            let room = self.tokens - slot.tokens.len();
            let over = match run.next(&self.context, place, &mut self.candidates) {
                Ok(None) if run.ahead.len() > room => {
                    run.end(FinishReason::Length);
                    true
                }
                Ok(None) => false,
                Ok(Some(reason)) => {
                    run.end(reason);
                    true
                }
                Err(error) => {
                    let _ = run.job.chunks.send(Err(error));
                    true
                }
            };
            if over {
                slot.run = None;
            }
        }
    }
}

impl Run {
    /// Chooses the next token and says what it means. Gives the reason when it is the last.
    fn next(
        &mut self,
        context: &Context,
        place: usize,
        candidates: &mut Vec<Candidate>,
    ) -> Result<Option<FinishReason>> {
        let model = context.model();
        if self.job.task.tokens_max.is_some_and(|most| self.written >= most) {
            return Ok(Some(FinishReason::Length));
        }
        let token = self.choose(context.logits(place), candidates)?;
        if model.is_end(token) {
            return Ok(Some(FinishReason::Stop));
        }
        self.written += 1;
        self.usage.output += 1;
        self.sampler.accept(token);
        if let Some(grammar) = &mut self.grammar {
            grammar.accept(token);
        }
        let mut ready = Vec::new();
        // In free text control tokens have no text; in JSON the grammar allows none.
        let piece = model.piece(token, false);
        let step = self.decoder.push(&piece, &mut ready);
        ready.into_iter().for_each(|chunk| self.job.say(chunk));
        match step {
            Step::Go => self.ahead.push_back(token),
            Step::Complete => return Ok(Some(FinishReason::Stop)),
            Step::CallBegan(kept) => {
                if kept == piece {
                    self.ahead.push_back(token);
                    self.ahead.extend(model.tokenize(NAME_BEGINS, false, false));
                } else {
                    // The token says more than the beginning of a call: in its place comes what it should have said.
                    let text = format!("{}{NAME_BEGINS}", String::from_utf8_lossy(&kept));
                    self.ahead.extend(model.tokenize(&text, false, true));
                }
                self.decoder.call_begun();
                self.grammar = self.call_grammar(model);
            }
            Step::CallEnded => {
                if !self.job.task.many {
                    return Ok(Some(FinishReason::ToolCalls));
                }
                // Where the token ended the arguments only, the bracket of the call is still to come.
                self.ahead.push_back(token);
                let closed = self.grammar.as_mut().is_some_and(|grammar| grammar.allows(model.end()));
                let rest = if closed { CALL_ENDS.to_owned() } else { format!("}}{CALL_ENDS}") };
                self.ahead.extend(model.tokenize(&rest, false, true));
                self.decoder.call_closed();
                self.grammar = None;
            }
        }
        Ok(None)
    }

    fn call_grammar(&self, model: &Model) -> Option<Sampler> {
        self.job.task.calls.as_deref().and_then(|text| Sampler::grammar(model, text))
    }

    /// The token that the sampler chooses, and the grammar allows. The grammar is asked of the chosen one only; the vocabulary is
    /// gone through only when that is refused.
    fn choose(&mut self, logits: &[f32], candidates: &mut Vec<Candidate>) -> Result<Token> {
        let refill = |candidates: &mut Vec<Candidate>| {
            candidates.clear();
            candidates.extend(logits.iter().enumerate().map(|(id, logit)| Candidate {
                id: id as Token,
                logit: *logit,
                p: 0.0,
            }));
        };
        let none = || Error::new(codes::PROVIDER_RESPONSE_INVALID, "the local model gave no token that can come next");
        refill(candidates);
        let token = self.sampler.choose(candidates).ok_or_else(none)?;
        let Some(grammar) = &mut self.grammar else { return Ok(token) };
        if grammar.allows(token) {
            return Ok(token);
        }
        refill(candidates);
        if candidates.len() > TRIED {
            candidates.select_nth_unstable_by(TRIED, |one, other| other.logit.total_cmp(&one.logit));
            candidates.truncate(TRIED);
        }
        grammar.mask(candidates);
        if candidates.iter().all(|candidate| candidate.logit == f32::NEG_INFINITY) {
            refill(candidates);
            grammar.mask(candidates);
        }
        candidates.retain(|candidate| candidate.logit > f32::NEG_INFINITY);
        self.sampler.choose(candidates).ok_or_else(none)
    }

    /// Says the rest, what was used, and why it ended.
    fn end(&mut self, reason: FinishReason) {
        let mut ready = Vec::new();
        self.decoder.finish(&mut ready);
        ready.push(ModelChunk::Usage { usage: self.usage });
        let calls = self.decoder.calls() > 0 && reason == FinishReason::Stop;
        ready.push(ModelChunk::Finish { reason: Some(if calls { FinishReason::ToolCalls } else { reason }) });
        ready.into_iter().for_each(|chunk| self.job.say(chunk));
    }
}

impl Job {
    fn is_over(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) || self.chunks.is_closed()
    }

    fn say(&self, chunk: ModelChunk) {
        // Nobody reads any more: noticed before the next batch.
        let _ = self.chunks.send(Ok(chunk));
    }

    fn fail(self, error: Error) {
        let _ = self.chunks.send(Err(error));
    }
}

/// The tokens of a prompt that a template laid out. The template may write the first token out itself; it is not doubled.
fn prompt_tokens(model: &Model, prompt: &str) -> Vec<Token> {
    let (bos, _) = model.bos_eos();
    let around = model.adds_bos() && (bos.is_empty() || !prompt.starts_with(&bos));
    let mut tokens = model.tokenize(prompt, around, true);
    if tokens.is_empty() {
        tokens = model.tokenize("\n", around, false);
    }
    tokens
}
