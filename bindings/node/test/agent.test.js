// What agents, tools and providers do, and what their errors say.
'use strict';

const assert = require('node:assert/strict');
const { AsyncLocalStorage } = require('node:async_hooks');
const { test } = require('node:test');
const { setTimeout: sleep } = require('node:timers/promises');
const { z } = require('zod');
const lomusai = require('../index.js');

const { Agent, Engine, LlmProvider, LomusaiError, compatible, reply, scriptedModel, tool } = lomusai;

const calls = (name, args = {}) => ({ calls: [{ name, arguments: args }] });
const says = (text) => ({ says: text });
const results = (result) => result.messages.flatMap((m) => m.parts).filter((part) => part.type === 'tool_result');
const rejection = async (promise) => {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  return assert.fail('it should have failed');
};

/** Runs an agent with one tool that the model calls once. */
async function callOnce(made, args = {}, options = {}) {
  const agent = new Agent({ name: 'a', model: scriptedModel([calls(made.name, args), says('done')]), tools: [made] });
  return agent.generate('Go', options);
}

class Model extends LlmProvider {
  constructor(stream) {
    super();
    this.stream = stream;
  }
}

// --- Agents --------------------------------------------------------------------------------------------------------------------

test('generate gives text, messages, usage and status', async () => {
  const agent = new Agent({ name: 'a', model: scriptedModel([{ says: 'Hello.', usage: { input: 3, output: 2 } }]) });
  const result = await agent.generate('Hi');
  assert.equal(result.text, 'Hello.');
  assert.equal(result.status, 'completed');
  assert.equal(result.finish, 'stop');
  assert.deepEqual(result.usage, { input: 3, output: 2 });
  assert.deepEqual(result.newMessages.map((m) => m.role), ['user', 'assistant']);
  assert.match(result.runId, /^run_/);
  const next = await agent.generate('Again', { history: result.messages });
  assert.equal(next.messages.length, 4);
  assert.equal(next.newMessages.length, 2);
});

test('instructions may be a function of the context', async () => {
  let system;
  const model = new Model(async function* ({ messages }) {
    system = messages[0].parts[0].text;
    yield 'ok';
  });
  const agent = new Agent({ name: 'a', model, instructions: async (_, { context }) => `You help ${context.user}.` });
  await agent.generate('Hi', { context: { user: 'Ada' } });
  assert.equal(system, 'You help Ada.');
});

test('settings, limits and options have their JavaScript names', async () => {
  let request;
  const model = new Model(async function* (asked) {
    request = asked;
    yield 'ok';
  });
  const agent = new Agent({ name: 'a', model, settings: { temperature: 0.5, maxOutputTokens: 10 }, limits: { modelMs: 1000 }, maxSteps: 2 });
  await agent.generate('Hi', { settings: { topP: 0.5 }, toolChoice: 'none' });
  assert.deepEqual(request.settings, { temperature: 0.5, top_p: 0.5, max_output_tokens: 10 });
  assert.equal(request.tool_choice, 'none');
  assert.match((await rejection(agent.generate('Hi', { nonsense: 1 }))).message, /nonsense/);
});

test('a sub-agent is offered as a tool', async () => {
  const helper = new Agent({ name: 'helper', description: 'Helps.', model: scriptedModel([says('42')]) });
  const model = scriptedModel([calls('agent-helper', { prompt: 'What?' }), says('It says 42.')]);
  const result = await new Agent({ name: 'boss', model, agents: [helper] }).generate('Ask');
  assert.equal(result.text, 'It says 42.');
});

test('processors, hooks and stop conditions are functions', async () => {
  const seen = [];
  const echo = tool({ name: 'echo', execute: (input) => input });
  const agent = new Agent({
    name: 'a',
    model: scriptedModel([calls('echo', { a: 1 }), says('shout'), says('never')]),
    tools: [echo],
    processors: { stream: ({ text }) => ({ text: text.toUpperCase() }) },
    hooks: {
      beforeTool: ({ arguments: args }) => ({ arguments: { ...(typeof args === 'string' ? JSON.parse(args) : args), b: 2 } }),
      afterStep: ({ step }) => void seen.push(step),
    },
    stop: [({ step }) => step === 2],
  });
  const result = await agent.generate('Go');
  assert.equal(result.text, 'SHOUT');
  assert.deepEqual(results(result)[0].output, { a: 1, b: 2 });
  assert.deepEqual(seen, [1, 2]);
});

test('a structured answer is an object, as its schema makes it', async () => {
  const model = () => scriptedModel([says('{"city":"Ghent","founded":"1200-01-01"}')]);
  const plain = { type: 'object', properties: { city: { type: 'string' }, founded: { type: 'string' } }, required: ['city'] };
  const first = await new Agent({ name: 'a', model: model(), output: plain }).generate('Go');
  assert.deepEqual(first.object, { city: 'Ghent', founded: '1200-01-01' });
  const schema = z.object({ city: z.string().transform((city) => city.length), founded: z.string() });
  const second = await new Agent({ name: 'a', model: model() }).generate('Go', { output: schema });
  assert.deepEqual(second.object, { city: 5, founded: '1200-01-01' });
});

test('threads keep the conversation', async () => {
  const engine = new Engine();
  const agent = new Agent({ engine, name: 'a', model: scriptedModel([says('ok')]) });
  await agent.generate('One', { thread: 't', resource: 'ada' });
  await agent.generate('Two', { thread: 't' });
  assert.deepEqual((await engine.messages('t')).map((m) => m.parts[0].text), ['One', 'ok', 'Two', 'ok']);
  assert.equal((await engine.threads({ resource: 'ada' })).length, 1);
  assert.equal(await engine.deleteThread('t'), true);
  await engine.close();
});

// --- Tools ---------------------------------------------------------------------------------------------------------------------

test('a tool may be sync or async and is told about its call', async () => {
  let context;
  const made = tool({ name: 't', timeoutMs: 5000, execute: async (input, ctx) => ((context = ctx), { got: input }) });
  const result = await callOnce(made, { a: 1 }, { context: { user: 'Ada' }, runId: 'run-1' });
  assert.deepEqual(results(result)[0].output, { got: { a: 1 } });
  const { runId, effectId, idempotencyKey, agent, attempt, rawInput } = context;
  assert.deepEqual([runId, effectId, idempotencyKey, agent, attempt, rawInput], ['run-1', '1.0', 'run-1/1.0', 'a', 1, '{"a":1}']);
  assert.deepEqual(context.context, { user: 'Ada' });
  assert.ok(context.deadlineMs > Date.now());
});

test('a zod schema validates, transforms and fills in defaults', async () => {
  const got = [];
  const made = tool({
    name: 't',
    inputSchema: z.object({ city: z.string().transform((text) => text.trim()), unit: z.enum(['c', 'f']).default('c') }),
    execute: (input) => void got.push(input),
  });
  const schema = made.spec.input_schema;
  assert.deepEqual([schema.type, schema.required, schema.$schema], ['object', ['city'], undefined]);
  await callOnce(made, { city: ' Ghent ' });
  assert.deepEqual(got, [{ city: 'Ghent', unit: 'c' }]);
});

test('what only the schema itself can check is told to the model', async () => {
  const even = z.object({ n: z.number().refine((n) => n % 2 === 0, 'must be even') });
  const result = await callOnce(tool({ name: 't', inputSchema: even, execute: () => assert.fail() }), { n: 3 });
  assert.equal(results(result)[0].status, 'error');
  assert.match(JSON.stringify(results(result)[0].output), /n: must be even/);
});

test('a schema that cannot say itself as JSON Schema is refused with the way out', () => {
  const inputSchema = { '~standard': { version: 1, vendor: 'mine', validate: (value) => ({ value }) } };
  assert.throws(() => tool({ name: 't', inputSchema, execute: () => 1 }), { code: 'schema_invalid', message: /mine/ });
});

test("a tool's error is told to the model, whatever was thrown", async () => {
  const thrown = [new RangeError('too far'), 'a text', { an: 'object' }, null, undefined, Symbol('s'), 7n];
  for (const value of thrown) {
    for (const execute of [() => { throw value; }, async () => { throw value; }]) {
      const [part] = results(await callOnce(tool({ name: 't', execute })));
      assert.equal(part.status, 'error');
      if (value instanceof Error) assert.match(JSON.stringify(part.output), /too far/);
    }
  }
});

test('a tool may answer with content beside the value', async () => {
  const image = { type: 'image', source: { data: 'aGk=' }, media_type: 'image/png' };
  const [part] = results(await callOnce(tool({ name: 't', execute: () => reply({ ok: true }, [image]) })));
  assert.deepEqual([part.output, part.content], [{ ok: true }, [image]]);
});

test('a tool waits for approval, and a person says yes or no', async () => {
  let ran = 0;
  const pay = tool({ name: 'pay', requireApproval: true, execute: () => (ran += 1) });
  const agent = new Agent({ name: 'a', model: scriptedModel([calls('pay'), says('done')]), tools: [pay] });
  const waiting = await agent.generate('Go');
  assert.deepEqual([waiting.status, waiting.pending[0].tool, ran], ['suspended', 'pay', 0]);
  const approved = await waiting.approve();
  assert.deepEqual([approved.status, approved.text, ran], ['completed', 'done', 1]);
  const declined = await (await agent.generate('Go')).decline({ reason: 'too dear' });
  assert.deepEqual([results(declined)[0].status, results(declined)[0].output, ran], ['denied', 'too dear', 1]);
  assert.equal((await rejection(approved.approve())).code, 'run_finished');
});

test('whether a tool needs approval may depend on its arguments', async () => {
  const pay = tool({ name: 'pay', requireApproval: ({ amount }) => amount > 10, execute: () => 'paid' });
  assert.equal((await callOnce(pay, { amount: 5 })).status, 'completed');
  assert.equal((await callOnce(pay, { amount: 50 })).status, 'suspended');
});

test('a tool suspends and goes on with what it is resumed with', async () => {
  const ask = tool({
    name: 'ask',
    suspendSchema: z.object({ question: z.string() }),
    resumeSchema: z.object({ answer: z.string().transform((text) => text.toUpperCase()) }),
    execute: (_, ctx) => (ctx.resumeData ? ctx.resumeData.answer : ctx.suspend({ question: 'Really?' })),
  });
  const waiting = await callOnce(ask);
  assert.deepEqual([waiting.status, waiting.pending[0].payload], ['suspended', { question: 'Really?' }]);
  assert.equal((await rejection(waiting.resume({ nonsense: 1 }))).code, 'resume_invalid');
  const result = await waiting.resume({ answer: 'yes' });
  assert.equal(results(result)[0].output, 'YES');
});

test('a client tool is carried out by the caller', async () => {
  const waiting = await callOnce(tool({ name: 'where', inputSchema: { type: 'object' } }));
  assert.equal(waiting.pending[0].reason, 'client');
  assert.equal(results(await waiting.toolResult({ lat: 51 }))[0].output.lat, 51);
});

test('the first answer of a handle counts, from wherever it comes', async () => {
  let handle;
  const made = tool({
    name: 't',
    onCall: (_, answer) => {
      handle = answer;
      setTimeout(() => answer.resolve({ late: true }), 5);
    },
  });
  assert.deepEqual(results(await callOnce(made))[0].output, { late: true });
  assert.equal(handle.answered, true);
  assert.throws(() => handle.resolve(2), { code: 'already_answered', name: 'ConflictError' });
  assert.throws(() => handle.reject(new Error('x')), { code: 'already_answered' });
});

test('what an AsyncLocalStorage holds reaches the tools of its run', async () => {
  const storage = new AsyncLocalStorage();
  const seen = [];
  const made = tool({ name: 't', execute: () => void seen.push(storage.getStore()) });
  await Promise.all([1, 2].map((n) => storage.run(n, () => callOnce(made))));
  assert.deepEqual(seen.sort(), [1, 2]);
});

// --- Providers and errors ------------------------------------------------------------------------------------------------------

test('a provider yields texts and chunks, and a fast one waits for a slow run', async () => {
  let yielded = 0;
  const model = new Model(async function* () {
    for (; yielded < 5000; yielded += 1) yield 'x';
    yield { type: 'usage', usage: { input: 1, output: 2 } };
  });
  const agent = new Agent({ name: 'a', model });
  const stream = agent.stream('Go');
  const events = stream[Symbol.asyncIterator]();
  await events.next();
  await sleep(100);
  assert.ok(yielded < 1500, `it ran ahead by ${yielded}`);
  const { text, usage } = await stream.result;
  assert.deepEqual([text.length, usage.output], [5000, 2]);
});

test("a provider's error ends the run, and is its very cause", async () => {
  class OutOfTune extends TypeError {}
  const boom = new OutOfTune('boom');
  const ways = [
    async function* () { throw boom; },
    async function* () { yield 'some'; throw boom; },
    () => { throw boom; },
    async () => { throw boom; },
  ];
  for (const way of ways) {
    const error = await rejection(new Agent({ name: 'a', model: new Model(way) }).generate('Go'));
    assert.ok(error instanceof lomusai.ProviderError && error instanceof LomusaiError);
    assert.deepEqual([error.code, error.message], ['provider_host_failed', 'boom']);
    assert.equal(error.cause, boom);
    assert.equal(error.result.status, 'failed');
  }
});

test('the error of a function that a spec names is the cause as well', async () => {
  const boom = new Error('no instructions today');
  const agent = new Agent({ name: 'a', model: scriptedModel([says('x')]), instructions: () => { throw boom; } });
  const error = await rejection(agent.generate('Go'));
  assert.deepEqual([error.code, error.cause === boom, error instanceof lomusai.HostError], ['function_failed', true, true]);
  const stream = agent.stream('Go');
  const fromLoop = await rejection((async () => { for await (const event of stream) void event; })());
  assert.equal(fromLoop.cause, boom);
});

test('a provider may say by name what went wrong, so that the engine tries again', async () => {
  let asked = 0;
  const model = new Model(async function* () {
    asked += 1;
    if (asked === 1) throw new LomusaiError({ kind: 'rate_limited', code: 'provider_rate_limited', message: 'slow down', retry_after_ms: 1 });
    yield 'ok';
  });
  const result = await new Agent({ name: 'a', model }).generate('Go');
  assert.deepEqual([result.text, asked], ['ok', 2]);
});

test('what is wrong with a chunk is told with the chunk', async () => {
  const model = new Model(async function* () { yield { type: 'nonsense' }; });
  const error = await rejection(new Agent({ name: 'a', model }).generate('Go'));
  assert.equal(error.code, 'provider_host_failed');
  assert.match(error.message, /chunk/);
  const none = await rejection(new Agent({ name: 'a', model: new Model(() => 7) }).generate('Go'));
  assert.match(none.message, /async iterable/);
});

test('an endpoint that is not there is named', async () => {
  const model = compatible({ baseUrl: 'http://127.0.0.1:9/v1', apiKey: 'secret', proxy: 'none' });
  const error = await rejection(new Agent({ name: 'a', model, settings: { maxRetries: 0 } }).generate('Go'));
  assert.equal(error.code, 'provider_unreachable');
  assert.match(error.message, /127\.0\.0\.1/);
  assert.doesNotMatch(require('node:util').inspect(model), /secret/);
});

test('an embedder answers vectors', async () => {
  const engine = new Engine().registerEmbedder('e', 2, (texts) => texts.map((text) => [text.length, 1]));
  assert.deepEqual(await engine.embed('e', ['a', 'bcd']), [[1, 1], [3, 1]]);
  await engine.close();
});

// --- Streams and cancelling ----------------------------------------------------------------------------------------------------

const hanging = (told) =>
  tool({
    name: 'hang',
    execute: (_, { signal }) =>
      new Promise((_, reject) => {
        signal.addEventListener('abort', () => {
          told.push(signal.reason);
          reject(signal.reason);
        });
      }),
  });

test('an aborted signal rejects with its reason and tells the tool', async () => {
  const told = [];
  const agent = new Agent({ name: 'a', model: scriptedModel([calls('hang')]), tools: [hanging(told)] });
  const reason = new Error('enough');
  for (const run of [(signal) => agent.generate('Go', { signal }), (signal) => agent.stream('Go', { signal }).result]) {
    const controller = new AbortController();
    setTimeout(() => controller.abort(reason), 20);
    assert.equal(await rejection(run(controller.signal)), reason);
  }
  while (told.length < 2) await sleep(5);
  assert.equal(told[0].code, 'run_cancelled');
  assert.equal(await rejection(agent.generate('Go', { signal: AbortSignal.abort(reason) })), reason);
  const infos = await agent.engine.runs();
  assert.ok(infos.every((info) => info.status === 'cancelled'));
});

test('leaving the loop cancels the run', async () => {
  const told = [];
  const agent = new Agent({ name: 'a', model: scriptedModel([calls('hang')]), tools: [hanging(told)] });
  const stream = agent.stream('Go');
  for await (const event of stream) if (event.type === 'effect_started' && event.kind === 'tool') break;
  assert.equal((await stream.result).status, 'cancelled');
  while (told.length < 1) await sleep(5);
});

test('a provider is told as well: its generator is closed', async () => {
  let closed = false;
  const model = new Model(async function* () {
    try {
      for (;;) {
        yield 'x';
        await sleep(1);
      }
    } finally {
      closed = true;
    }
  });
  const agent = new Agent({ name: 'a', model });
  for await (const event of agent.stream('Go')) if (event.type === 'part_delta') break;
  while (!closed) await sleep(5);
});

test('a stream gives every event, its text, and its result, in any order of asking', async () => {
  const agent = new Agent({ name: 'a', model: scriptedModel([{ reasons: 'hm', says: 'one two three' }]) });
  const stream = agent.stream('Go');
  const result = stream.result;
  const types = [];
  for await (const event of stream) types.push(event.type);
  assert.equal(types[0], 'run_started');
  assert.equal(types.at(-1), 'run_finished');
  assert.equal((await result).text, 'one two three');
  const texts = [];
  for await (const text of agent.stream('Go').textStream) texts.push(text);
  assert.deepEqual(texts, ['one ', 'two ', 'three']);
});

test('progress and custom events reach the reader; observers read beside it', async () => {
  const made = tool({
    name: 't',
    execute: (_, ctx) => {
      ctx.progress({ done: 1 });
      ctx.custom('note', { a: 1 }, { durable: true });
      return 1;
    },
  });
  const agent = new Agent({ name: 'a', model: scriptedModel([calls('t'), says('x')]), tools: [made] });
  const events = [];
  const stream = agent.stream('Go');
  for await (const event of stream) events.push(event);
  assert.deepEqual(events.find((e) => e.type === 'effect_progress').data, { done: 1 });
  assert.equal(events.find((e) => e.type === 'custom').name, 'note');
  const again = [];
  for await (const event of agent.engine.observe(stream.runId)) again.push(event.type);
  assert.deepEqual(again, events.filter((e) => !e.sub).map((e) => e.type));
});

test('a run that was cancelled by the engine is no error', async () => {
  const agent = new Agent({ name: 'a', model: scriptedModel([calls('hang')]), tools: [hanging([])] });
  const promise = agent.generate('Go', { runId: 'r' });
  await sleep(20);
  await agent.engine.cancel('r', { reason: 'enough' });
  assert.equal((await promise).status, 'cancelled');
});

// --- Engines -------------------------------------------------------------------------------------------------------------------

test('an engine lists, exports and deletes runs', async () => {
  const engine = new Engine();
  const agent = new Agent({ engine, name: 'a', model: scriptedModel([says('x')]) });
  const { runId } = await agent.generate('Go');
  assert.equal((await engine.runs({ agent: 'a', status: 'completed' }))[0].run_id, runId);
  const journal = await engine.export(runId);
  assert.equal(await engine.digestOf(journal), await engine.digest(runId));
  assert.equal(await engine.deleteRun(runId), true);
  assert.equal((await rejection(engine.export(runId))).code, 'run_unknown');
  await engine.close();
});

test('a closed engine says so, and closing twice is fine', async () => {
  const engine = new Engine();
  const agent = new Agent({ engine, name: 'a', model: scriptedModel([says('x')]) });
  await engine.close();
  await engine.close();
  assert.equal(engine.closed, true);
  assert.equal((await rejection(agent.generate('Go'))).code, 'engine_closed');
  assert.equal((await rejection(engine.runs())).code, 'engine_closed');
  assert.throws(() => agent.stream('Go'), { name: 'ClosedError' });
});

test('closing in the middle of a run cancels it', async () => {
  const told = [];
  const engine = new Engine();
  const agent = new Agent({ engine, name: 'a', model: scriptedModel([calls('hang')]), tools: [hanging(told)] });
  const promise = agent.generate('Go');
  await sleep(20);
  await engine.close();
  const end = await promise.then((result) => result.status, (error) => error.code);
  assert.match(end, /^(cancelled|engine_closed)$/);
  assert.equal(told.length, 1);
});

test('agents share tools; another thing of the same name is refused, and leaves nothing behind', async () => {
  const engine = new Engine();
  const model = Object.assign(scriptedModel([says('x')]), { name: 'm' });
  const shared = tool({ name: 't', execute: () => 1 });
  new Agent({ engine, name: 'a', model, tools: [shared] });
  new Agent({ engine, name: 'b', model: 'm', tools: [shared] });
  assert.throws(() => new Agent({ engine, name: 'c', model: 'm', tools: [tool({ name: 't' })] }), { code: 'name_taken' });
  assert.throws(() => new Agent({ engine, name: 'c', model: 'm', instructions: () => 'x', maxSteps: 0 }), { code: 'spec_invalid' });
  const agent = new Agent({ engine, name: 'c', model: 'm', instructions: () => 'x' });
  assert.equal((await agent.generate('Go')).text, 'x');
  await engine.close();
});

test('an engine is disposed of by `await using`', { skip: !Symbol.asyncDispose }, async () => {
  const engine = new Engine();
  await engine[Symbol.asyncDispose]();
  assert.equal(engine.closed, true);
});

test('CommonJS and ESM give the same classes', async () => {
  const esm = await import('../index.mjs');
  for (const name of Object.keys(lomusai)) assert.equal(esm[name], lomusai[name], name);
});
