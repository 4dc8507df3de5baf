// Models by name, over a real HTTP server on this machine: streams, usage, costs, budgets, errors, cassettes.
'use strict';

const assert = require('node:assert/strict');
const { execFile } = require('node:child_process');
const { mkdtempSync, readFileSync, rmSync } = require('node:fs');
const { createServer } = require('node:http');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
const { after, before, beforeEach, test } = require('node:test');
const lomusai = require('../index.js');

const { Agent, Engine, tool } = lomusai;

const KEY = 'sk-canary-0123456789abcdefghijklmnop';
const PRICED = [
  { provider: 'compatible', model: 'small', price: { input: 2_000_000, cache_read: 1_000_000, output: 10_000_000 } },
];

/** Calls the first tool, once; then says something, in two pieces. */
function* pieces(body) {
  const called = body.messages.some((message) => message.role === 'tool');
  if (body.tools?.length && !called) {
    const fn = { name: body.tools[0].function.name, arguments: '{"a": 19, "b": 23}' };
    yield { choices: [{ index: 0, delta: { tool_calls: [{ index: 0, id: 'call_1', function: fn }] } }] };
    yield { choices: [{ index: 0, delta: {}, finish_reason: 'tool_calls' }] };
  } else {
    yield { choices: [{ index: 0, delta: { content: 'Hello ' } }] };
    yield { choices: [{ index: 0, delta: { content: 'there.' }, finish_reason: 'stop' }] };
  }
  yield { choices: [], usage: { prompt_tokens: 300, completion_tokens: 20, prompt_tokens_details: { cached_tokens: 100 } } };
}

let status = () => 200;
let asked = [];
const server = createServer((request, response) => {
  let text = '';
  request.on('data', (piece) => (text += piece));
  request.on('end', () => {
    const body = JSON.parse(text);
    asked.push({ body, key: request.headers.authorization });
    const code = status(body);
    response.writeHead(code, { 'content-type': code === 200 ? 'text/event-stream' : 'application/json' });
    if (code !== 200) return response.end(JSON.stringify({ error: { message: `status ${code}` } }));
    for (const piece of pieces(body)) response.write(`data: ${JSON.stringify(piece)}\n\n`);
    return response.end('data: [DONE]\n\n');
  });
});

before(async () => {
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  process.env.COMPATIBLE_BASE_URL = `http://127.0.0.1:${server.address().port}/v1`;
  process.env.COMPATIBLE_API_KEY = KEY;
  delete process.env.OPENAI_API_KEY;
  delete process.env.ANTHROPIC_API_KEY;
});
after(() => {
  server.closeAllConnections();
  server.close();
});
beforeEach(() => {
  status = () => 200;
  asked = [];
});

async function opened(options, work) {
  const engine = new Engine(options);
  try {
    return await work(engine);
  } finally {
    await engine.close();
  }
}
const small = (engine, options = {}) =>
  new Agent({ name: 'small', model: 'compatible/small', settings: { maxRetries: 0 }, engine, ...options });
const adds = (called = []) =>
  tool({ name: 'add', description: 'Adds', inputSchema: { type: 'object' }, execute: ({ a, b }) => (called.push([a, b]), a + b) });

test('a model is chosen by a string, and its usage and cost are read', () =>
  opened({ models: PRICED }, async (engine) => {
    const stream = small(engine).stream('Hi');
    let text = '';
    for await (const piece of stream.textStream) text += piece;
    assert.equal(text, 'Hello there.');
    const result = await stream.result;
    assert.deepEqual(result.usage, { input: 200, cache_read: 100, output: 20 });
    assert.equal(result.costNanoUsd, 700_000);
    assert.equal(asked[0].body.model, 'small');
    assert.equal(asked[0].key, `Bearer ${KEY}`);
  }));

test('the cost of a model without a price is null and not zero', () =>
  opened({}, async (engine) => assert.equal((await small(engine).generate('Hi')).costNanoUsd, null)));

for (const [code, type, name] of [
  [400, 'ProviderError', 'provider_rejected'],
  [401, 'DeniedError', 'credentials_rejected'],
  [429, 'RateLimitedError', 'provider_rate_limited'],
  [500, 'UnavailableError', 'provider_failed'],
]) {
  test(`a ${code} is a ${type}`, () =>
    opened({}, async (engine) => {
      status = () => code;
      await assert.rejects(small(engine).generate('Hi'), (error) => {
        assert.ok(error instanceof lomusai[type], error);
        assert.equal(error.code, name);
        assert.ok(!error.message.includes(KEY));
        return true;
      });
    }));
}

test('a missing key and an unknown provider are named', () =>
  opened({}, async (engine) => {
    const of = (name, model) => new Agent({ name, model, engine }).generate('Hi');
    await assert.rejects(of('a', 'openai/gpt-4o'), { code: 'credentials_missing', message: /OPENAI_API_KEY/ });
    await assert.rejects(of('b', 'nobody/model'), { code: 'provider_unknown', message: /nobody/ });
  }));

test('a fallback answers where the model failed', () =>
  opened({}, async (engine) => {
    status = (body) => (body.model === 'small' ? 500 : 200);
    const agent = small(engine, { fallbacks: [{ model: 'compatible/off', disabled: true }, { model: 'compatible/large', maxRetries: 1 }] });
    assert.equal((await agent.generate('Hi')).text, 'Hello there.');
    assert.deepEqual(asked.map(({ body }) => body.model), ['small', 'large']);
  }));

test('a budget ends a run, and a larger one goes on', () =>
  opened({}, async (engine) => {
    const agent = small(engine, { tools: [adds()] });
    const stopped = await agent.generate('Add.', { budget: { tokens: 320 } });
    assert.equal(stopped.status, 'exhausted');
    assert.equal(stopped.error.code, 'budget_exhausted');
    assert.deepEqual(stopped.messages.map((m) => m.role), ['user', 'assistant', 'tool']);
    assert.equal((await agent.generate([], { history: stopped.messages })).text, 'Hello there.');
    await assert.rejects(agent.generate('Add.', { budget: { costNanoUsd: 1 } }), { code: 'price_unknown' });
  }));

test('runs share a budget', () =>
  opened({ budgets: { team: { calls: 2 } } }, async (engine) => {
    const agent = small(engine);
    const outcomes = [];
    for (let run = 0; run < 3; run++) outcomes.push((await agent.generate('Hi', { sharedBudgets: ['team'] })).status);
    assert.deepEqual(outcomes, ['completed', 'completed', 'exhausted']);
    assert.equal((await engine.budgets())[0].spent.calls, 2);
  }));

test('a cassette is recorded, and given back without a server', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'lomusai-'));
  try {
    const path = join(folder, 'c.jsonl');
    const called = [];
    const seen = [];
    for (const mode of ['record', 'replay']) {
      await opened({ cassette: { mode, path } }, async (engine) => {
        const result = await small(engine, { tools: [adds(called)] }).generate(`My key is ${KEY}.`);
        seen.push([result.text, result.usage, await engine.digest(result.runId)]);
        status = () => 500;
        if (mode === 'record') return;
        const other = new Agent({ name: 'other', model: 'compatible/small', engine });
        await assert.rejects(other.generate('Something else'), { code: 'cassette_miss' });
      });
    }
    assert.deepEqual(seen[0], seen[1]);
    assert.deepEqual(called, [[19, 23]]);
    assert.equal(asked.length, 2);
    assert.ok(!readFileSync(path, 'utf8').includes(KEY));
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('the environment asks for a cassette of models and tools', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'lomusai-'));
  const program = `
    const { Agent, Engine, tool } = require(${JSON.stringify(require.resolve('../index.js'))});
    let calls = 0;
    const add = tool({ name: 'add', description: 'Adds', inputSchema: { type: 'object' }, execute: ({ a, b }) => (calls++, a + b) });
    const engine = new Engine();
    const agent = new Agent({ name: 'adder', model: 'compatible/small', tools: [add], engine });
    agent.generate(process.argv[1]).then((result) => (console.log(result.text, calls), engine.close()), (error) => {
      console.error(error.code);
      process.exit(1);
    });`;
  const asks = (mode, question) =>
    new Promise((resolve) => {
      const env = { ...process.env, LOMUSAI_CASSETTE: mode, LOMUSAI_CASSETTE_PATH: join(folder, 'c.jsonl') };
      const args = ['--eval', program, question];
      execFile(process.execPath, args, { env }, (error, out, err) => resolve(error ? err : out.trim()));
    });
  try {
    assert.equal(await asks('record', 'One'), 'Hello there. 1');
    assert.equal(await asks('replay', 'One'), 'Hello there. 0');
    assert.equal(await asks('auto', 'One'), 'Hello there. 0');
    assert.equal(asked.length, 2);
    assert.match(await asks('replay', 'Two'), /cassette_miss/);
    // The model is asked; what the tool said of these numbers is known.
    assert.equal(await asks('auto', 'Two'), 'Hello there. 0');
    assert.equal(asked.length, 4);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('models are listed', () =>
  opened({ models: PRICED }, async (engine) => {
    const models = await engine.models();
    const find = (provider, model) => models.find((info) => info.provider === provider && info.model === model);
    assert.equal(find('compatible', 'small').configured, true);
    const sonnet = find('anthropic', 'claude-sonnet-4-5');
    assert.match(sonnet.missing, /ANTHROPIC_API_KEY/);
    assert.equal(sonnet.price.output, 15_000_000);
  }));
