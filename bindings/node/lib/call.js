// Calls of the engine to JavaScript: what a callable is told, and how its result, its error or its silence goes back.
'use strict';

const { CancelledError, LomusaiError } = require('./errors');
const { encode } = require('./json');
const { cancels, keep, onCancel, sync, wait } = require('./native');

/** The native handle of a context, out of users' sight. */
const handles = new WeakMap();
const suspension = Symbol('suspended');
const bailing = Symbol('bailed');

/** What a callable knows about its call. */
class CallContext {
  #answer;
  #facts;
  #controller;
  #cancelId;

  constructor(answer, facts, input) {
    this.#answer = answer;
    this.#facts = JSON.parse(facts);
    /** What is asked, as the JSON text that came: a tool's arguments as the model wrote them. */
    this.rawInput = input;
    handles.set(this, answer);
  }

  get runId() {
    return this.#facts.run_id;
  }

  get effectId() {
    return this.#facts.effect_id;
  }

  /** The same for every attempt of this call, in every process. */
  get idempotencyKey() {
    return this.#facts.idempotency_key;
  }

  get callId() {
    return this.#facts.call_id;
  }

  get agent() {
    return this.#facts.agent;
  }

  /** Counts from 1. */
  get attempt() {
    return this.#facts.attempt;
  }

  /** When the call times out, in milliseconds since 1970. */
  get deadlineMs() {
    return this.#facts.deadline_ms;
  }

  /** What the caller of the run wants its functions to know. */
  get context() {
    return (this.#facts.context ??= {});
  }

  /** Aborted once the result is not wanted any more. */
  get signal() {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      const message = `the call ${this.idempotencyKey} was cancelled or timed out`;
      this.#cancelId = onCancel(this.#answer, () =>
        this.#controller.abort(new CancelledError({ kind: 'cancelled', code: 'run_cancelled', message })),
      );
    }
    return this.#controller.signal;
  }

  /** Tells the run's readers how far the call is. */
  progress(data) {
    sync(() => this.#answer.progress(encode(data, 'progress')));
  }

  /** Tells the run's readers something. */
  custom(name, data, { durable = false } = {}) {
    sync(() => this.#answer.custom(String(name), encode(data, `the custom event ${name}`), durable));
  }

  /** The call is over: nobody needs to be told that it was cancelled. */
  static over(context) {
    if (context.#cancelId !== undefined) cancels.delete(context.#cancelId);
  }

  static resume(context) {
    return context.#facts.resume;
  }

  static state(context) {
    return (context.#facts.state ??= {});
  }
}

/** What a tool knows about its call. */
class ToolContext extends CallContext {
  #resumeData;

  constructor(answer, facts, input) {
    super(answer, facts, input);
    this.#resumeData = CallContext.resume(this);
  }

  /** What the tool was resumed with after it had suspended. */
  get resumeData() {
    return this.#resumeData;
  }

  static setResumeData(context, data) {
    context.#resumeData = data;
  }

  /**
   * Waits for a `resume` command instead of answering: `return ctx.suspend(payload)`. The tool is then called again, with
   * `resumeData`.
   */
  suspend(payload) {
    this[suspension] = { payload };
    return undefined;
  }
}

/** What a step of a workflow knows about its call. */
class StepContext extends ToolContext {
  #sets;

  /** The workflow's name. */
  get workflow() {
    return this.agent;
  }

  /** The state of the run when the call began, with what was set since. */
  get state() {
    return { ...CallContext.state(this), ...this.#sets };
  }

  /** Sets values of the run's state, `null` removes one. Recorded together with the answer, unless that is an error. */
  setState(values) {
    this.#sets = { ...this.#sets, ...values };
  }

  /**
   * Waits for a `resume` command instead of answering: `return ctx.suspend(payload, { label })`. The step is then called again, with
   * `resumeData`.
   */
  suspend(payload, { label } = {}) {
    this[suspension] = { payload, label };
    return undefined;
  }

  /** Ends the whole run, as a success, with this result: `return ctx.bail(result)`. */
  bail(result) {
    this[bailing] = { result };
    return undefined;
  }

  static sets(context) {
    return context.#sets;
  }
}

/** A tool's result with images or files beside it. */
class ToolReply {
  constructor({ output, content }) {
    this.output = output;
    this.content = content;
  }
}

/**
 * The handle a call is answered by: now, later, from anywhere. The first answer counts; one more throws `already_answered`, one that
 * comes too late `handle_closed`. When it is collected unanswered, the call fails.
 */
class Answer extends CallContext {
  /** What a tool was resumed with. */
  get resumeData() {
    return CallContext.resume(this);
  }

  resolve(value) {
    this.#give((answer) => answer.resolve(encode(value, 'the answer')));
  }

  /** In full: a tool's `{ output, content }`, a step's `{ output }`, `{ suspend, label }` or `{ bail }`, each with `state`. */
  reply({ output, ...rest }) {
    const said = 'suspend' in rest || 'bail' in rest ? rest : { output: output ?? null, ...rest };
    this.#give((answer) => answer.reply(encode(said, 'the answer')));
  }

  suspend(payload) {
    this.#give((answer) => answer.suspend(encode(payload, 'the payload')));
  }

  reject(error) {
    this.#give((answer) => reject(answer, error));
  }

  get answered() {
    return handles.get(this).answered;
  }

  get cancelled() {
    return handles.get(this).cancelled;
  }

  #give(how) {
    sync(() => how(handles.get(this)));
    CallContext.over(this);
  }
}

/** Answers with an error, keeping the very object for whoever is told of it. `fault`: see `Fault` in the kit under the bindings. */
function reject(answer, error, fault) {
  const { message, code, words, retryAfterMs } = describe(error);
  answer.reject(fault, code, message, words, keep(error), retryAfterMs);
}

/** Words for an error. What is thrown may be anything, and its getters may throw in turn. */
function describe(error) {
  try {
    if (error instanceof Error) {
      const { message, name, stack } = error;
      return {
        message: String(message).toWellFormed(),
        code: error instanceof LomusaiError ? String(error.code) : undefined,
        words: encode({ type: String(name), stack: typeof stack === 'string' ? stack : undefined }, 'an error'),
        retryAfterMs: typeof error.retryAfterMs === 'number' ? error.retryAfterMs : undefined,
      };
    }
    const message = typeof error === 'object' && error !== null ? JSON.stringify(error) ?? String(error) : String(error);
    return { message: message.toWellFormed(), words: encode({ type: error === null ? 'null' : typeof error }, 'an error') };
  } catch {
    return { message: 'an error that cannot be described was thrown' };
  }
}

const LATE = new Set(['already_answered', 'handle_closed', 'engine_closed']);

/** Answers for a callable that returned or threw. An answer that comes too late has nobody to go to. */
function settle(context, give) {
  const answer = handles.get(context);
  try {
    sync(() => give(answer));
  } catch (error) {
    if (!LATE.has(error?.code)) fail(context, error, 'result');
  }
  CallContext.over(context);
}

function fail(context, error, fault) {
  try {
    sync(() => reject(handles.get(context), error, fault));
  } catch {
    // Too late: nobody waits.
  }
  CallContext.over(context);
}

/** Calls `code` and hands on what it gives, at once or when its promise is settled. */
function outcome(code, resolved, failed) {
  let value;
  try {
    value = code();
    if (value !== null && (typeof value === 'object' || typeof value === 'function') && typeof value.then === 'function') {
      // Wrapped, since a thenable of the user's may call back twice, or throw.
      Promise.resolve(value).then(resolved, failed);
      return;
    }
  } catch (error) {
    failed(error);
    return;
  }
  resolved(value);
}

/** A registered function as the engine calls it. */
function functionCallable(fn) {
  return (input, facts, answer) => {
    const context = new CallContext(answer, facts, input);
    outcome(
      () => fn(JSON.parse(input), context),
      (value) => settle(context, (answer) => answer.resolve(encode(value, 'the reply'))),
      (error) => fail(context, error),
    );
  };
}

/** A provider as the engine calls it. */
function providerCallable(provider) {
  return (input, facts, answer) => {
    const context = new CallContext(answer, facts, input);
    pump(provider, JSON.parse(input), context, answer).then(
      () => settle(context, (answer) => answer.finish()),
      (error) => fail(context, error),
    );
  };
}

async function pump(provider, request, context, answer) {
  const stream = await provider.stream(request, context);
  const chunks = typeof stream === 'string' ? [stream] : stream;
  const iterator = chunks?.[Symbol.asyncIterator]?.() ?? chunks?.[Symbol.iterator]?.();
  if (iterator === undefined) {
    throw new TypeError('stream() must give an async iterable of chunks: write it as `async *stream(request) { … }`');
  }
  const stop = async () => {
    try {
      await iterator.return?.();
    } catch {
      // Nobody waits for what it says.
    }
  };
  // A generator that waits for something of its own is told at its next step, even if nothing is pushed any more.
  const cancelId = onCancel(answer, stop);
  try {
    for (;;) {
      const { done, value } = await iterator.next();
      if (done) return;
      try {
        const chunk = encode(value, 'a chunk');
        if (!sync(() => answer.push(chunk))) await wait((ticket) => answer.pushLater(chunk, ticket), context);
      } catch (error) {
        stop();
        if (LATE.has(error?.code)) return;
        throw error;
      }
    }
  } finally {
    cancels.delete(cancelId);
  }
}

module.exports = {
  Answer,
  CallContext,
  StepContext,
  ToolContext,
  ToolReply,
  bailing,
  fail,
  functionCallable,
  outcome,
  providerCallable,
  settle,
  suspension,
};
