// Runs as their caller sees them: results, and streams of events.
'use strict';

const { wait } = require('./native');

/** What a run came to, or where it waits. */
class Result {
  #engine;
  #finalize;

  constructor(wire, engine, finalize) {
    this.#engine = engine;
    this.#finalize = finalize;
    this.runId = wire.run_id;
    this.status = wire.status;
    this.text = wire.text;
    this.object = wire.output?.object;
    this.finish = wire.output?.finish;
    this.steps = wire.output?.steps;
    this.usage = wire.usage;
    this.costNanoUsd = wire.cost_nano_usd ?? null;
    /** The whole conversation: the next call's `history`. */
    this.messages = wire.messages;
    /** What this run added to it. */
    this.newMessages = wire.messages.slice(wire.history);
    this.pending = wire.pending;
    this.error = wire.error;
  }

  /** Runs the tool that waits for approval, and goes on. */
  approve({ effectId, signal } = {}) {
    return this.#send({ type: 'approve', effect_id: effectId }, signal);
  }

  /** Tells the model that the tool may not run, and goes on. */
  decline({ effectId, reason, signal } = {}) {
    return this.#send({ type: 'decline', effect_id: effectId, reason }, signal);
  }

  /** Gives a suspended tool or step what it waits for, and goes on. */
  resume(data, { effectId, label, signal } = {}) {
    return this.#send({ type: 'resume', effect_id: effectId, label, data }, signal);
  }

  /** Gives the result of a client tool, and goes on. */
  toolResult(output, { effectId, isError, signal } = {}) {
    return this.#send({ type: 'tool_result', effect_id: effectId, output, is_error: isError }, signal);
  }

  #send(command, signal) {
    return this.#engine.stream(this.runId, command, { signal, finalize: this.#finalize }).result;
  }
}

/**
 * A run's events: `for await (const event of stream)`. Leaving the loop early cancels the run. `result` is what it came to, `textStream`
 * only the text. One loop reads the events; they wait for it.
 */
class RunStream {
  #engine;
  #run;
  #finalize;
  #signal;
  #detached;
  #events = [];
  #ended = false;
  #result;
  #aborted;
  #onAbort;

  constructor(engine, run, { finalize, signal, detached, runId } = {}) {
    this.#engine = engine;
    this.#run = run;
    this.#finalize = finalize;
    this.#detached = detached;
    this.runId = runId ?? run.id;
    if (typeof run.then === 'function') run.catch(() => {});
    if (signal) this.#watch(signal);
  }

  #watch(signal) {
    this.#signal = signal;
    this.#aborted = new Promise((_, reject) => {
      this.#onAbort = () => {
        this.cancel({ reason: 'the signal was aborted' });
        reject(signal.reason);
      };
    });
    // Whoever waits is told; nobody else needs to know.
    this.#aborted.catch(() => {});
    signal.addEventListener('abort', this.#onAbort, { once: true });
    if (signal.aborted) this.#onAbort();
  }

  #settled() {
    this.#signal?.removeEventListener('abort', this.#onAbort);
  }

  /** The promise, or the signal's reason where that comes first. */
  #orAborted(promise) {
    return this.#aborted ? Promise.race([this.#aborted, promise]) : promise;
  }

  #inFlight;

  /** Reads the next events. Whoever asks while they are under way gets the same ones, so that none come out of order. */
  #batch() {
    return (this.#inFlight ??= this.#read().finally(() => {
      this.#inFlight = undefined;
    }));
  }

  async #read() {
    if (this.#ended) return false;
    const run = await this.#run;
    const text = await this.#orAborted(wait((ticket) => run.next(ticket), this));
    if (text === undefined) {
      this.#ended = true;
      return false;
    }
    for (const event of JSON.parse(text)) this.#events.push(event);
    return true;
  }

  /** What the run came to. Rejects with the run's error if it failed, with the signal's reason if that was aborted. */
  get result() {
    return (this.#result ??= this.#finish());
  }

  async #finish() {
    try {
      // Events that nobody has read yet stay for whoever will.
      if (this.#reading) while (await this.#batch());
      const run = await this.#run;
      return await this.#orAborted(this.#came(run));
    } finally {
      this.#settled();
    }
  }

  async #came(run) {
    let text;
    try {
      text = await wait((ticket) => run.result(ticket), this);
    } catch (error) {
      if (error?.resultJson) {
        const value = new Result(JSON.parse(error.resultJson), this.#engine, this.#finalize);
        Object.defineProperty(error, 'result', { value, configurable: true });
      }
      throw error;
    }
    const result = new Result(JSON.parse(text), this.#engine, this.#finalize);
    return this.#finalize ? this.#finalize(result) : result;
  }

  /** Whether somebody wants the events: else they are never made. */
  #reading = true;

  /** Only the result is wanted. */
  static resultOf(engine, run, options) {
    const stream = new RunStream(engine, run, options);
    stream.#reading = false;
    return stream.result;
  }

  /** Waits until the start of a detached run is recorded, lets go of it, and gives its id. */
  static async begun(engine, run) {
    const stream = new RunStream(engine, run, { detached: true });
    // Where it did not begin, the result rejects with why.
    if (await stream.#batch()) run.close();
    else await stream.result;
    return stream.runId;
  }

  /** Asks for the run to be cancelled. Results that come within the grace are still recorded. */
  cancel({ graceMs = 0, reason } = {}) {
    const tell = (run) => {
      try {
        run.cancel(graceMs, reason);
      } catch {
        // It has ended.
      }
    };
    if (typeof this.#run.then === 'function') this.#run.then(tell, () => {});
    else tell(this.#run);
  }

  async #next() {
    for (;;) {
      if (this.#events.length > 0) return { done: false, value: this.#events.shift() };
      if (!(await this.#batch())) break;
    }
    // A run that failed is told at the end of its events.
    await this.result;
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator]() {
    return {
      next: () => this.#next(),
      return: async (value) => {
        if (!this.#ended && !this.#detached) this.cancel({ reason: "the run's reader went away" });
        this.#settled();
        return { done: true, value };
      },
      [Symbol.asyncIterator]() {
        return this;
      },
    };
  }

  /** The text of the answer, piece by piece. */
  get textStream() {
    return textOf(this);
  }
}

async function* textOf(stream) {
  const kinds = new Map();
  for await (const event of stream) {
    const part = `${event.message_id}/${event.index}`;
    if (event.type === 'part_started') kinds.set(part, event.part_type);
    else if (event.type === 'part_delta' && event.text !== undefined && kinds.get(part) === 'text') yield event.text;
  }
}

/** A run's events beside its primary reader. Never slows the run; may miss some, and is told so by a `lagged` event. */
async function* observe(engine, runId, after) {
  const observer = await wait((ticket) => engine.observe(ticket, String(runId), after), engine);
  for (;;) {
    const text = await wait((ticket) => observer.next(ticket), engine);
    if (text === undefined) return;
    yield* JSON.parse(text);
  }
}

module.exports = { Result, RunStream, observe };
