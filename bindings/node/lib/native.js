// The engine's side of this thread: promises that wait for it, callables that it calls, values that it refers to by number.
'use strict';

const { AsyncLocalStorage } = require('node:async_hooks');
const timers = require('node:timers');
const { KINDS, LomusaiError } = require('./errors');

const native = require('./loader').load();

/** Promises that the engine settles, by ticket. */
const waiting = new Map();
/** Values that the engine refers to: errors that were thrown, contexts that callables run in. It says when it has forgotten one. */
const kept = new Map();
/** Whom to tell that a call's answer is not wanted any more. */
const cancels = new Map();
/** Engines by number. Weak: the engine that nobody holds is collected, its callables with it. */
const engines = new Map();
const collected = new FinalizationRegistry((id) => engines.delete(id));

// The port does not keep the process alive, so that an engine that has nothing to do does not. What is awaited must.
const alive = timers.setInterval(() => {}, 2 ** 31 - 1);
alive.unref();

const port = new native.Port(drain);
let lastId = 0;

function nextId() {
  lastId += 1;
  return lastId;
}

/** A promise for what `start(ticket)` begins. `owner` is kept from being collected until then. */
function wait(start, owner) {
  return new Promise((resolve, reject) => {
    const ticket = nextId();
    waiting.set(ticket, { resolve, reject, owner });
    if (waiting.size === 1) alive.ref();
    try {
      start(ticket);
    } catch (error) {
      finish(ticket);
      reject(caught(error));
    }
  });
}

function finish(ticket) {
  const entry = waiting.get(ticket);
  if (waiting.delete(ticket) && waiting.size === 0) alive.unref();
  return entry;
}

/** Keeps a value for the engine to refer to. */
function keep(value) {
  const id = nextId();
  kept.set(id, value);
  return id;
}

/** What the engine's calls for a run are run in, so that an `AsyncLocalStorage` reaches them. */
function keepContext() {
  return keep(AsyncLocalStorage.snapshot());
}

function onCancel(answer, listener) {
  const id = nextId();
  cancels.set(id, listener);
  answer.onCancel(id);
  return id;
}

function enter(engine) {
  const id = nextId();
  engines.set(id, new WeakRef(engine));
  collected.register(engine, id);
  if (engines.size === 1 && id) watchExit();
  return id;
}

let watched = false;
/** The engines' threads must not be at work while the process is taken down. */
function watchExit() {
  if (watched) return;
  watched = true;
  process.on('exit', () => port.shut(500));
}

/** Takes up what the engine has said. Nothing may be thrown from here: there is nobody to catch it. */
function drain() {
  const list = port.drain();
  for (let at = 0; at < list.length; at += 7) {
    switch (list[at]) {
      case 0:
        called(list[at + 1], list[at + 2], list[at + 3], list[at + 4], list[at + 5], list[at + 6]);
        break;
      case 1:
        done(list[at + 1], list[at + 2], list[at + 3], list[at + 4]);
        break;
      case 2: {
        const listener = cancels.get(list[at + 1]);
        cancels.delete(list[at + 1]);
        guarded(listener);
        break;
      }
      case 3:
        kept.delete(list[at + 1]);
        break;
      default:
        guarded(() =>
          engines.get(list[at + 1])?.deref()?.logged(JSON.parse(list[at + 2]), list[at + 3], list[at + 4]),
        );
    }
  }
}

function called(engine, handler, facts, slot, answer, input) {
  const callable = engines.get(engine)?.deref()?.callable(handler);
  // Its engine is gone; the answer's end tells whoever still waits.
  if (callable === undefined) return;
  const inContext = kept.get(slot);
  guarded(() => (inContext ? inContext(callable, input, facts, answer) : callable(input, facts, answer)));
}

function done(ticket, body, host, payload) {
  const entry = finish(ticket);
  if (entry === undefined) return;
  if (body === undefined) return entry.resolve(payload);
  const error = errorOf(body, host);
  // A run that failed has a result beside its error.
  if (payload !== undefined) Object.defineProperty(error, 'resultJson', { value: payload });
  entry.reject(error);
}

/** Runs code of the user's where an error has no other way: as an uncaught exception, after the rest of the messages. */
function guarded(code) {
  try {
    code?.();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

function errorOf(body, host) {
  const parsed = JSON.parse(body);
  const Class = KINDS[parsed.kind] ?? LomusaiError;
  const error = new Class(parsed, kept.has(host) ? { cause: kept.get(host) } : undefined);
  // Where it was made says nothing: that is here.
  Error.captureStackTrace(error, errorOf);
  return error;
}

/** The error that a call into the engine threw, as one of our classes. */
function caught(error) {
  const message = error?.message;
  if (typeof message !== 'string' || !message.startsWith('lomusai:')) return error;
  const made = errorOf(message.slice('lomusai:'.length), 0);
  Error.captureStackTrace(made, caught);
  return made;
}

/** Calls into the engine. */
function sync(call) {
  try {
    return call();
  } catch (error) {
    throw caught(error);
  }
}

module.exports = { native, port, wait, sync, caught, keep, keepContext, onCancel, cancels, enter };
