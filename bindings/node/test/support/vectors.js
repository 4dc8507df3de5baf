// Plays a conformance vector: registers what it names, sends its commands, compares what came of it.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');
const { Engine, FatalError, reply, scriptedModel, step, tool } = require('../../index.js');
const canonical = require('./canonical.js');

const FIELDS = new Set([
  'name', 'why', 'agent', 'agents', 'models', 'tools', 'functions', 'request', 'commands', 'cancel_at', 'expect', 'turns',
  'workflow', 'workflows', 'steps', 'refused_spec', 'calls',
]);

/** The folder that `LOMUSAI_VECTORS` names, whose vectors may be of any kind; else all of ours. */
function folders() {
  const ours = path.join(__dirname, '../../../../tests/conformance');
  const kinds = ['agent', 'workflow', 'operations'];
  return process.env.LOMUSAI_VECTORS ? [process.env.LOMUSAI_VECTORS] : kinds.map((kind) => path.join(ours, kind));
}

/** What a call may say. */
const CALL = new Set(['call', 'params', 'expect', 'begins', 'error', 'bind', 'replace_workflow']);

function readAll() {
  return folders().flatMap((folder) => {
    const files = fs.readdirSync(folder).filter((file) => file.endsWith('.json')).sort();
    if (files.length === 0) throw new Error(`${folder} has no vectors`);
    return files.map((file) => {
      const vector = JSON.parse(fs.readFileSync(path.join(folder, file), 'utf8'));
      const unknown = Object.keys(vector).filter((field) => !FIELDS.has(field));
      return { ...vector, file, unknown };
    });
  });
}

// --- Behaviours --------------------------------------------------------------------------------------------------------------

function pointed(value, pointer) {
  for (const token of pointer.split('/').slice(1)) {
    const key = token.replaceAll('~1', '/').replaceAll('~0', '~');
    if (value === null || typeof value !== 'object' || !Object.hasOwn(value, key)) return null;
    value = value[key];
  }
  return value;
}

/** What a behaviour answers, or a promise of it. */
function behave(does, input, context) {
  for (const data of does.progress ?? []) context.progress(data);
  for (const { name, data } of does.custom ?? []) context.custom(name, data, { durable: true });
  if (does.sets) context.setState(does.sets);
  const value = answer(does, input, context);
  return does.content ? reply(value, does.content) : value;
}

function answer(does, input, context) {
  if ('returns' in does) return does.returns;
  if ('echo' in does) return pointed(input, does.echo);
  if (does.adds) return (input?.a ?? 0) + (input?.b ?? 0);
  if (does.upper) return { text: input.text.replace(/[a-z]/g, (letter) => letter.toUpperCase()) };
  if ('integer' in does) return BigInt(does.integer);
  if ('fails' in does) throw new Error(does.fails);
  if ('attempts' in does) return behave(does.attempts[Math.min(context.attempt, does.attempts.length) - 1], input, context);
  if ('fatal' in does) throw new FatalError(does.fatal);
  if ('bails' in does) return context.bail(does.bails);
  if ('state' in does) return context.state[does.state] ?? null;
  if ('context' in does) return context.context[does.context] ?? null;
  if (does.attempt) return context.attempt;
  if (does.resume) return context.resumeData ?? null;
  if (does.hangs) {
    return new Promise((_, reject) => {
      context.signal.addEventListener('abort', () => reject(context.signal.reason));
    });
  }
  if ('by' in does) {
    const found = pointed(input, does.by);
    const key = typeof found === 'string' ? found : JSON.stringify(found);
    return behave(Object.hasOwn(does.is, key) ? does.is[key] : (does.else ?? { returns: null }), input, context);
  }
  if ('suspends' in does) {
    const { resumeData } = context;
    const goesOn = resumeData !== undefined && difference(does.until, resumeData, '') === undefined;
    return goesOn ? behave(does.then ?? { resume: true }, input, context) : context.suspend(does.suspends, { label: does.label });
  }
  throw new Error(`unknown behaviour: ${JSON.stringify(does)}`);
}

// --- Matching ----------------------------------------------------------------------------------------------------------------

/** Where `found` does not match, in words. */
function difference(expected, found, place) {
  if (expected === undefined) return undefined;
  const said = () => `${place || '/'}: expected ${JSON.stringify(expected)}, found ${JSON.stringify(found)}`;
  if (expected === null) return found === null || found === undefined ? undefined : said();
  if (typeof expected !== 'object') return Object.is(expected, found) || expected === found ? undefined : said();
  if (found === null || typeof found !== 'object' || Array.isArray(expected) !== Array.isArray(found)) return said();
  if (Array.isArray(expected) && expected.length !== found.length) {
    return `${place}: expected ${expected.length} items, found ${found.length}: ${JSON.stringify(found)}`;
  }
  for (const key of Object.keys(expected)) {
    const inside = difference(expected[key], found[key], `${place}/${key}`);
    if (inside) return inside;
  }
  return undefined;
}

function eventsDifference(expected, found) {
  const shown = (event) => `${event.type} ${event.effect_id ?? ''}`.trim();
  for (let i = 0; i < Math.max(expected.length, found.length); i += 1) {
    const [want, got] = [expected[i], found[i]];
    if (want === undefined) return `event ${i}: expected no more, found ${shown(got)}`;
    if (got === undefined) return `event ${i}: expected ${JSON.stringify(want)}, found no more`;
    if (typeof want === 'string') {
      const [type, effect] = want.split(' ');
      if (got.type !== type || (effect !== undefined && got.effect_id !== effect)) {
        return `event ${i}: expected ${want}, found ${shown(got)}\nall: ${found.map(shown).join(', ')}`;
      }
    } else {
      const inside = difference(want, got, `event ${i}`);
      if (inside) return inside;
    }
  }
  return undefined;
}

// --- Playing -----------------------------------------------------------------------------------------------------------------

function open(vector) {
  const engine = new Engine();
  for (const [name, script] of Object.entries(vector.models ?? {})) engine.registerProvider(name, scriptedModel(script));
  for (const { spec, does } of vector.tools ?? []) {
    const made = tool({ name: spec.name, execute: (input, context) => behave(does ?? { returns: null }, input, context) });
    made.spec = spec;
    engine.register(made);
  }
  for (const [name, does] of Object.entries(vector.functions ?? {})) {
    engine.registerFunction(name, (input, context) => behave(does, input, context));
  }
  for (const [name, does] of Object.entries(vector.steps ?? {})) {
    engine.register(step({ name, execute: (input, context) => behave(does, input, context) }));
  }
  return engine;
}

/** Plays all turns; gives the differences found, in words. */
async function play(vector) {
  const problems = vector.unknown.map((field) => `unknown field ${field}`);
  const engine = open(vector);
  try {
    const named = (agent) => ({ name: 'agent', model: 'model', ...agent });
    const flow = (workflow) => ({ name: 'workflow', ...workflow });
    const turns = [vector, ...(vector.turns ?? [])];
    try {
      for (const agent of vector.agents ?? []) engine.registerSpec(named(agent));
      for (const workflow of vector.workflows ?? []) engine.registerWorkflow(flow(workflow));
      if (vector.workflow) engine.registerWorkflow(flow(vector.workflow));
      else engine.registerSpec(named(vector.agent));
    } catch (error) {
      if (error.code !== (vector.refused_spec ?? turns[0].expect?.refused)) throw error;
      return problems;
    }
    if (vector.refused_spec) return [`expected the spec to be refused with ${vector.refused_spec}`];
    const runs = vector.workflow ? { workflow: flow(vector.workflow).name } : { agent: named(vector.agent).name };
    let history;
    const bound = {};
    for (const [number, turn] of turns.entries()) {
      const request = { ...runs, ...turn.request };
      if (number > 0 && request.thread === undefined && request.history === undefined) request.history = history;
      const { found, result } = await playTurn(engine, request, turn);
      history = result?.messages ?? history;
      bound.run = result?.runId;
      problems.push(...found.map((text) => `turn ${number}: ${text}`));
    }
    for (const [number, item] of (vector.calls ?? []).entries()) {
      const found = await ask(engine, item, bound);
      if (found) problems.push(`call ${number}, ${item.call}: ${found}`);
    }
  } finally {
    await engine.close();
  }
  return problems;
}

/** With what was bound in the place of its name. */
function withBound(value, bound) {
  if (typeof value === 'string' && value.startsWith('$')) return bound[value.slice(1)] ?? value;
  if (Array.isArray(value)) return value.map((item) => withBound(item, bound));
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, withBound(item, bound)]));
}

/** Asks the engine something by name, and gives names to parts of the answer. */
async function ask(engine, item, bound) {
  const unknown = Object.keys(item).filter((field) => !CALL.has(field));
  if (unknown.length > 0) return `unknown fields ${unknown}`;
  if (item.replace_workflow) {
    engine.unregister('workflow', item.replace_workflow.name);
    engine.registerWorkflow(item.replace_workflow);
    return undefined;
  }
  let answer;
  try {
    answer = await engine.call(item.call, withBound(item.params ?? {}, bound));
  } catch (error) {
    // What is no error of the engine has no code, and neither does a call that is to be answered.
    return item.error !== undefined && error.code === item.error ? undefined : `expected ${item.error ?? 'an answer'}, got ${error.code}: ${error.message}`;
  }
  if (item.error) return `expected ${item.error}, was answered`;
  for (const [name, pointer] of Object.entries(item.bind ?? {})) bound[name] = pointed(answer, pointer);
  if (item.begins && !String(answer).startsWith(item.begins)) return `does not begin with ${item.begins}: ${answer}`;
  return 'expect' in item ? difference(withBound(item.expect, bound), answer, 'answer') : undefined;
}

async function playTurn(engine, request, turn) {
  const found = [];
  const { expect } = turn;
  if (expect.refused) {
    try {
      await engine.run(request).result;
      found.push(`expected to be refused with ${expect.refused}, ran`);
    } catch (error) {
      if (error.code !== expect.refused) found.push(`expected to be refused with ${expect.refused}, got ${error.code}: ${error.message}`);
    }
    return { found };
  }
  const suspensions = [];
  const seen = { durable: 0 };
  let stream = engine.run(request);
  const { runId } = stream;
  let result = await read(stream, turn, seen);
  const commands = [...(turn.commands ?? [])];
  while (result.status === 'suspended') {
    suspensions.push(result.pending);
    const list = commands.shift();
    if (list === undefined) break;
    let next;
    for (const item of list) {
      const { send, refused, to } = item.send ? item : { send: item };
      const id = to ? `${runId}/${to}` : runId;
      if (refused) {
        const code = await engine.send(id, send).then(() => 'accepted', (error) => error.code);
        if (code !== refused) found.push(`${JSON.stringify(send)}: expected ${refused}, got ${code}`);
      } else if (to) {
        next = await through(engine, runId, () => engine.send(id, send));
      } else {
        stream = engine.stream(id, send);
        next = await read(stream, turn, seen);
      }
    }
    if (next === undefined) break;
    result = next;
  }
  await compare(engine, runId, result, expect, found);
  if (expect.pending) {
    const inside = difference(expect.pending, suspensions, 'pending');
    if (inside) found.push(inside);
  }
  for (const [to, child] of Object.entries(expect.children ?? {})) {
    const id = `${runId}/${to}`;
    const inside = [];
    await compare(engine, id, await engine.result(id), child, inside);
    found.push(...inside.map((text) => `child ${to}: ${text}`));
  }
  return { found, result };
}

async function read(stream, turn, seen) {
  try {
    for await (const event of stream) {
      if (event.sub) continue;
      seen.durable += 1;
      if (seen.durable === turn.cancel_at) stream.cancel();
    }
    return await stream.result;
  } catch (error) {
    if (error.result === undefined) throw error;
    return error.result;
  }
}

/** A command to a child wakes its parents in their own time. */
async function through(engine, runId, send) {
  const before = (await engine.runInfo(runId)).seq;
  await send();
  for (;;) {
    const info = await engine.runInfo(runId);
    if (info.seq > before && info.status !== 'running') return engine.result(runId);
    await sleep(2);
  }
}

async function compare(engine, runId, result, expect, found) {
  const journal = await engine.export(runId);
  const end = journal.findLast((event) => event.type === 'run_finished') ?? {};
  const check = (expected, value, place) => {
    const inside = difference(expected, value, place);
    if (inside) found.push(inside);
  };
  check(expect.status, result.status, 'status');
  check(expect.output, end.output, 'output');
  if (expect.error !== undefined || expect.status !== undefined) check(expect.error ?? null, end.error, 'error');
  check(expect.messages, result.messages, 'messages');
  if (expect.events) {
    const inside = eventsDifference(expect.events, canonical.events(journal));
    if (inside) found.push(inside);
  }
  const own = canonical.digest(journal);
  check(expect.digest, own, 'digest');
  check(own, await engine.digest(runId), 'digest of the engine');
}

module.exports = { folders, play, readAll };
