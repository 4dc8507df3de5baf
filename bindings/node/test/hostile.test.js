// Hosts that break every promise: an error or nothing, never a crash, a hang or a leak.
//
// LOMUSAI_HOSTILE_RUNS sets the runs per case: 5,000 in the test, 100,000 in a soak. LOMUSAI_MALLOC_COUNT is the file in which
// tests/c/count_malloc.c says how much the engine (and Node itself) has allocated beside JavaScript's heap.
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const { setTimeout: sleep } = require('node:timers/promises');
const { Agent, Engine, LlmProvider, scriptedModel, step, tool, workflow } = require('../index.js');

const RUNS = Number(process.env.LOMUSAI_HOSTILE_RUNS ?? 5000);
const SOAK = RUNS >= 50_000;
const { test } = SOAK ? require('./support/plain') : require('node:test');
const AT_ONCE = 32;
/** A case that takes so long hangs. */
const TIMEOUT = SOAK ? 7_200_000 : 600_000;
/** Grown in the second half of a case. A short one still sees the compiler and the heap settle. */
const GROWTH_MAX = SOAK ? 1 << 20 : 8 << 20;

const script = scriptedModel([{ calls: [{ name: 'bad', arguments: { a: 1 } }] }, { says: 'went on' }]);

/** Plays `one(number)` so often, some at a time, and looks at the heap in the middle and at the end. */
async function often(one, runs = RUNS) {
  const begun = Date.now();
  let number = 0;
  const half = async (upto) => {
    const loop = async () => {
      while (number < upto) {
        const mine = number++;
        await one(mine);
        if (SOAK && (mine + 1) % Math.ceil(runs / 10) === 0) console.log(`#   ${mine + 1} of ${runs} after ${(Date.now() - begun) / 1000 | 0} s`);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, loop));
    return used();
  };
  const first = await half(runs / 2);
  const second = await half(runs);
  if (!global.gc) return;
  const [heap, native] = [second.heap - first.heap, second.native - first.native];
  if (SOAK) console.log(`# ${runs} runs, the second half grew by ${heap >> 10} KiB of heap and ${native >> 10} KiB beside it`);
  assert.ok(heap <= GROWTH_MAX, `the heap grew by ${heap} bytes`);
  assert.ok(native <= GROWTH_MAX, `memory beside the heap grew by ${native} bytes`);
}

/**
 * What JavaScript's heap holds, and what is allocated beside it. The size of the process would not do: V8 takes and returns its heap in
 * steps of megabytes. Finalizers run a little later, and what they let go of can only then be collected: so until nothing has changed for
 * ten times. Once will not do, for on a busy machine the collector may be resting, and the compiler at work with megabytes of its own.
 */
async function used() {
  let now = { heap: 0, native: 0 };
  if (!global.gc) return now;
  for (let i = 0, same = 0; i < 200 && same < 10; i += 1) {
    await sleep(10);
    global.gc();
    const before = now;
    now = { heap: process.memoryUsage().heapUsed, native: allocated() };
    const stays = (what) => Math.abs(now[what] - before[what]) < 4096;
    same = stays('heap') && stays('native') ? same + 1 : 0;
  }
  return now;
}

/** What is allocated beside the heap, as tests/c/count_malloc.c counts it. */
function allocated() {
  const count = process.env.LOMUSAI_MALLOC_COUNT;
  if (!count) return 0;
  const [, native, pid] = new BigInt64Array(new Uint8Array(fs.readFileSync(count)).buffer);
  assert.equal(Number(pid), process.pid, 'somebody else is counted');
  return Number(native);
}

/** An agent whose model calls a bad tool once, and goes on after whatever came of it. */
function agentWith(options, agent = {}) {
  const engine = new Engine({ keepFinished: 10 });
  const bad = tool({ name: 'bad', ...options });
  return new Agent({ engine, name: 'a', model: script, tools: [bad], ...agent });
}

const outputOf = (result) => result.messages.flatMap((m) => m.parts).find((part) => part.type === 'tool_result');

/** A tool that fails is told to the model, and the run goes on. */
function toldToTheModel(name, options, expected = /./) {
  test(name, { timeout: TIMEOUT }, async () => {
    const agent = agentWith(options);
    await often(async () => {
      const result = await agent.generate('Go');
      assert.equal(result.text, 'went on');
      const part = outputOf(result);
      assert.equal(part.status, 'error');
      assert.match(JSON.stringify(part.output), expected);
    });
    await agent.engine.close();
  });
}

function answersAs(name, options, expected) {
  test(name, { timeout: TIMEOUT }, async () => {
    const agent = agentWith(options);
    await often(async () => assert.deepEqual(outputOf(await agent.generate('Go')).output, expected));
    await agent.engine.close();
  });
}

// --- Throwing ------------------------------------------------------------------------------------------------------------------

toldToTheModel('a tool that throws', { execute: () => { throw new Error('no'); } }, /no/);
toldToTheModel('a tool that rejects', { execute: async () => { throw new Error('no'); } }, /no/);
toldToTheModel('a tool that throws what is no error', { execute: () => { throw Object.create(null); } });
toldToTheModel('a tool that throws an error whose getters throw', {
  execute: () => {
    throw Object.defineProperty(new Error(), 'message', { get() { throw new Error('from the getter'); } });
  },
});
toldToTheModel('a tool that throws a proxy that throws', {
  execute: () => {
    throw new Proxy({}, { get() { throw new Error('from the proxy'); }, getPrototypeOf() { throw new Error('again'); } });
  },
});

test('a provider that throws, with the very error as cause', { timeout: TIMEOUT }, async () => {
  class Bad extends LlmProvider {
    async *stream(request) {
      yield 'some';
      throw this.errors.get(request.messages[0].parts[0].text);
    }
    errors = new Map();
  }
  const model = new Bad();
  const agent = new Agent({ engine: new Engine({ keepFinished: 10 }), name: 'a', model });
  await often(async (number) => {
    const boom = new Error(`boom ${number}`);
    model.errors.set(String(number), boom);
    await assert.rejects(agent.generate(String(number)), (error) => error.cause === boom);
    model.errors.delete(String(number));
  });
  await agent.engine.close();
});

// --- What is no JSON -----------------------------------------------------------------------------------------------------------

const circular = {};
circular.self = circular;
const deep = () => {
  let value = 0;
  for (let i = 0; i < 500; i += 1) value = [value];
  return value;
};

toldToTheModel('a tool that answers with a circular object', { execute: () => circular }, /circular/i);
toldToTheModel('a tool that answers with a function', { execute: () => () => 1 }, /function/);
toldToTheModel('a tool that answers with a symbol', { execute: async () => Symbol('s') }, /symbol/);
toldToTheModel('a tool that answers with what refuses to be JSON', {
  execute: () => ({ toJSON() { throw new Error('not me'); } }),
}, /not me/);
toldToTheModel('a tool that answers with 500 lists in each other', { execute: deep }, /recursion|nest|depth|deep/i);
toldToTheModel('a tool with a thenable that throws', { execute: () => ({ then() { throw new Error('then'); } }) }, /then/);
answersAs('a tool that answers undefined', { execute: () => undefined }, null);
answersAs('a tool with a thenable that calls back twice', { execute: () => ({ then(ok, no) { ok(1); ok(2); no(3); } }) }, 1);
answersAs('a tool that answers with large integers', { execute: () => [9007199254740993n, 5n] }, ['9007199254740993', 5]);
answersAs('a tool that answers with NaN', { execute: () => [NaN, Infinity, -0] }, [null, null, 0]);
answersAs('a tool that answers with NUL and other control characters', { execute: () => 'a\0b\u0001' }, 'a\0b\u0001');
answersAs('a tool that answers with halves of surrogate pairs', {
  execute: () => ({ '\ud800': 'a\udc00b', pair: '😀', text: '\\ud800 \\\ud800' }),
}, { '\ufffd': 'a\ufffdb', pair: '😀', text: '\\ud800 \\\ufffd' });

test('requests with what is no JSON are refused', { timeout: TIMEOUT }, async () => {
  const agent = agentWith({ execute: () => 1 });
  await often(async (number) => {
    const context = [circular, { f: 1n, big: 2n ** 70n }, { s: 'a\ud800\0' }][number % 3];
    const end = await agent.generate('a\0\ud800b', { context }).then((result) => result.status, (error) => error.code);
    assert.equal(end, number % 3 === 0 ? 'json_invalid' : 'completed');
  });
  await agent.engine.close();
});

// --- Answering wrongly ---------------------------------------------------------------------------------------------------------

answersAs('a tool that answers twice', {
  onCall: (_, answer) => {
    answer.resolve('first');
    assert.throws(() => answer.resolve('second'), { code: 'already_answered' });
    assert.throws(() => answer.reject(new Error('third')), { code: 'already_answered' });
    assert.throws(() => answer.suspend({}), { code: 'already_answered' });
  },
}, 'first');
answersAs('a tool that answers and throws', {
  onCall: (_, answer) => {
    answer.resolve('first');
    throw new Error('too late');
  },
}, 'first');

test('a tool that never answers is cut off by its time', { timeout: TIMEOUT }, async () => {
  const agent = agentWith({ timeoutMs: 1, execute: () => new Promise(() => {}) });
  await often(async () => assert.equal(outputOf(await agent.generate('Go')).status, 'error'));
  await agent.engine.close();
});

test('a tool that never answers but listens is told of it', { timeout: TIMEOUT }, async () => {
  let told = 0;
  const agent = agentWith({
    timeoutMs: 1,
    execute: (_, { signal }) => new Promise(() => signal.addEventListener('abort', () => (told += 1))),
  });
  await often(async () => assert.equal(outputOf(await agent.generate('Go')).status, 'error'));
  assert.equal(told, RUNS);
  await agent.engine.close();
});

test('a tool that answers after it was cancelled', { timeout: TIMEOUT }, async () => {
  let [called, late] = [0, 0];
  const refused = new Set();
  const agent = agentWith({
    onCall: (_, answer) => {
      called += 1;
      answer.signal.addEventListener('abort', () => {
        late += 1;
        try {
          // Between being told and nobody waiting any more it is taken, and dropped.
          answer.resolve('late');
        } catch (error) {
          refused.add(error.code);
        }
      });
    },
  });
  await often(async () => {
    const stream = agent.stream('Go');
    for await (const event of stream) if (event.type === 'effect_started' && event.kind === 'tool') stream.cancel();
    const result = await stream.result;
    assert.equal(result.status, 'cancelled');
    assert.ok(!JSON.stringify(result.messages).includes('late'));
  });
  // A run may be cancelled before its tool is called.
  assert.ok(called > 0);
  while (late < called) await sleep(5);
  assert.deepEqual([...refused], ['handle_closed']);
  await agent.engine.close();
});

test('a tool that lets go of its answer fails once it is collected', { skip: !global.gc, timeout: TIMEOUT }, async () => {
  const agent = agentWith({ onCall: () => {} });
  const collecting = setInterval(() => global.gc(), 10);
  await often(async () => assert.match(JSON.stringify(outputOf(await agent.generate('Go')).output), /without an answer/));
  clearInterval(collecting);
  await agent.engine.close();
});

test('answers after the engine was closed', { timeout: TIMEOUT }, async () => {
  // Ten runs on an engine of their own each time.
  await often(async () => {
    const handles = [];
    const agent = agentWith({ onCall: (_, answer) => void handles.push(answer) });
    const runs = Array.from({ length: 10 }, () => agent.generate('Go').catch(() => {}));
    while (handles.length < 10) await sleep(1);
    await agent.engine.close();
    for (const handle of handles) assert.throws(() => handle.resolve(1), { code: 'handle_closed' });
    await Promise.all(runs);
  }, RUNS / 10);
});

test('a provider whose chunks are no chunks', { timeout: TIMEOUT }, async () => {
  const chunks = [circular, () => 1, 7, null, { type: 'nonsense' }, { type: 'text', text: 5 }, [], 1n, undefined];
  class Bad extends LlmProvider {
    async *stream({ messages }) {
      yield chunks[Number(messages[0].parts[0].text) % chunks.length];
    }
  }
  const agent = new Agent({ engine: new Engine({ keepFinished: 10 }), name: 'a', model: new Bad() });
  await often((number) => assert.rejects(agent.generate(String(number)), { code: 'provider_host_failed' }));
  await agent.engine.close();
});

test('a provider whose iterator throws or hangs when it is told to stop', { timeout: TIMEOUT }, async () => {
  const ends = [() => { throw new Error('no'); }, () => Promise.reject(new Error('no')), () => new Promise(() => {}), () => 5];
  class Endless extends LlmProvider {
    stream({ messages }) {
      const end = ends[Number(messages[0].parts[0].text) % ends.length];
      return { [Symbol.asyncIterator]: () => ({ next: async () => ({ done: false, value: 'x' }), return: end }) };
    }
  }
  const agent = new Agent({ engine: new Engine({ keepFinished: 10 }), name: 'a', model: new Endless() });
  await often(async (number) => {
    const stream = agent.stream(String(number));
    for await (const event of stream) if (event.type === 'part_delta') break;
    assert.equal((await stream.result).status, 'cancelled');
  });
  await agent.engine.close();
});

test('functions whose replies do not fit', { timeout: TIMEOUT }, async () => {
  const replies = [() => 7, () => circular, () => { throw new Error('no'); }, () => Symbol('s')];
  const agents = replies.map((instructions) => {
    const engine = new Engine({ keepFinished: 10 });
    return new Agent({ engine, name: 'a', model: script, instructions });
  });
  await often((number) => assert.rejects(agents[number % 4].generate('Go'), (error) => /^function_/.test(error.code)));
  for (const agent of agents) await agent.engine.close();
});

// --- Much, and deep ------------------------------------------------------------------------------------------------------------

// 64 MB are written, copied and read in seconds, which is too long for thousands of runs. The true limits are met a few times, and
// lower ones, which are the same code, as often as in the other cases.
const [LOW, MB] = [16 << 10, 1 << 20];

test('answers of 64 MB and more', { timeout: TIMEOUT }, async () => {
  const around = (limit, agent = {}) => {
    // With its quotes just what is allowed, and one more.
    const bad = agentWith({ execute: (_, { context }) => 'x'.repeat(limit - context.short) }, agent);
    return async (number) => {
      const fits = number % 2 === 0;
      const part = outputOf(await bad.generate('Go', { context: { short: fits ? 2 : 1 } }));
      if (fits) assert.equal(part.output.length, limit - 2);
      else assert.match(part.output, new RegExp(`limits.result_bytes = ${limit}`));
    };
  };
  await often(around(LOW, { limits: { resultBytes: LOW } }));
  const huge = around(64 * MB);
  for (let number = 0; number < 4; number += 1) await huge(number);
});

test('models that answer without end', { timeout: TIMEOUT }, async () => {
  class Endless extends LlmProvider {
    constructor(piece) {
      super();
      this.piece = piece;
    }
    async *stream() {
      for (;;) yield this.piece;
    }
  }
  const refused = { code: 'message_too_large' };
  const engine = new Engine({ keepFinished: 10 });
  const low = new Agent({ engine, name: 'low', model: new Endless('x'.repeat(LOW / 4)), limits: { messageBytes: LOW } });
  await often(() => assert.rejects(low.generate('Go'), refused));
  const high = new Agent({ engine, name: 'high', model: new Endless('x'.repeat(MB)) });
  for (let i = 0; i < 2; i += 1) {
    await assert.rejects(high.generate('Go'), refused);
    await assert.rejects(high.generate('x'.repeat(64 * MB)), refused);
  }
  await engine.close();
});

test('re-entering the engine 1,000 deep', { timeout: TIMEOUT }, async () => {
  // Each time a thousand runs, one within the other.
  const engine = new Engine();
  const bad = tool({
    name: 'bad',
    execute: async (_, { context }) => {
      if (context.depth === 1000) return 1000;
      const inner = await agent.generate('Deeper', { context: { depth: context.depth + 1 } });
      return outputOf(inner).output;
    },
  });
  const agent = new Agent({ engine, name: 'a', model: script, tools: [bad] });
  for (let round = 0; round < RUNS / 1000; round += 1) {
    assert.equal(outputOf(await agent.generate('Go', { context: { depth: 1 } })).output, 1000);
  }
  await engine.close();
});

test('closing the engine from a tool, and deleting what runs', { timeout: TIMEOUT }, async () => {
  await often(async () => {
    const agent = agentWith({
      execute: async (_, { runId }) => {
        await agent.engine.deleteRun(runId).catch(() => {});
        agent.engine.close();
        return 1;
      },
    });
    await agent.generate('Go').then((result) => result.status, (error) => error.code);
    await agent.engine.close();
  });
});

test('engines that nobody closes are collected', { skip: !global.gc, timeout: TIMEOUT }, async () => {
  for (let i = 0; i < RUNS; i += 1) {
    const agent = new Agent({ name: 'a', model: script, tools: [tool({ name: 'bad', execute: () => 1 })] });
    assert.equal((await agent.generate('Go')).text, 'went on');
    if (i % 20 === 0) {
      await sleep(5);
      global.gc();
    }
  }
  for (let i = 0; i < 20 && threads() > 100; i += 1) {
    global.gc();
    await sleep(50);
  }
  assert.ok(threads() <= 100, `${threads()} threads are left`);
});

function threads() {
  try {
    return require('node:fs').readdirSync('/proc/self/task').length;
  } catch {
    return 0;
  }
}

// --- Steps of workflows --------------------------------------------------------------------------------------------------------

/** A workflow of one bad step, run so often: each run fails with such a code, or is as `ends` says. */
function stepEnds(name, options, ends, spec = {}, runs = RUNS) {
  test(name, { timeout: TIMEOUT }, async () => {
    const engine = new Engine({ keepFinished: 10 });
    const flow = workflow('flow', { engine, ...spec }).then(step({ name: 'bad', ...options }));
    await often(async () => {
      if (ends instanceof RegExp) await assert.rejects(flow.run('go'), (error) => ends.test(error.code));
      else ends(await flow.run('go'));
    }, runs);
    await engine.close();
  });
}

stepEnds('a step that throws', { execute: () => { throw new Error('no'); } }, /^step_failed$/);
stepEnds('a step that rejects with what is no error', { execute: async () => { throw Object.create(null); } }, /^step_failed$/);
stepEnds('a step that throws a proxy that throws', {
  execute: () => {
    throw new Proxy({}, { get() { throw new Error('from the proxy'); }, getPrototypeOf() { throw new Error('again'); } });
  },
}, /^step_failed$/);
stepEnds('a step whose answer is no JSON', { execute: () => circular }, /^step_result_invalid$/);
stepEnds('a step that answers a function', { execute: () => () => {} }, /^step_result_invalid$/);
// Its promise may be collected before its time is over.
stepEnds('a step that never answers', { timeoutMs: 1, execute: () => new Promise(() => {}) }, /^step_(timeout|unanswered)$/, {}, Math.min(RUNS, 1000));
stepEnds('a step that answers twice', {
  onCall: (_, answer) => {
    answer.resolve('first');
    for (const again of [() => answer.resolve('second'), () => answer.reply({ bail: 3 }), () => answer.reject(new Error('third'))]) {
      assert.throws(again, (error) => ['already_answered', 'handle_closed'].includes(error.code));
    }
  },
}, (result) => assert.equal(result.object, 'first'));
stepEnds('a step that replies what is no reply', {
  onCall: (_, answer) => {
    assert.throws(() => answer.reply({ bail: 1, colour: 'red' }), (error) => error.code === 'argument_invalid');
    answer.reply({ bail: 'enough' });
  },
}, (result) => assert.deepEqual([result.status, result.object], ['bailed', 'enough']));
stepEnds('a step that answers 100 MB', { execute: () => 'x'.repeat(100_000_000) }, /^result_too_large$/, {}, 2);

test('a step that answers after it was cancelled', { timeout: TIMEOUT }, async () => {
  const engine = new Engine({ keepFinished: 2 * AT_ONCE });
  const calls = new Map();
  engine.register(step({ name: 'bad', onCall: (runId, answer) => calls.get(runId)(answer) }));
  const flow = workflow('flow', { engine }).then('bad');
  await often(async (number) => {
    const control = new AbortController();
    const called = new Promise((resolve) => calls.set(number, resolve));
    const run = flow.run(number, { signal: control.signal, runId: `r${number}` });
    const answer = await called;
    calls.delete(number);
    control.abort(new Error('enough'));
    await assert.rejects(run, /enough/);
    assert.equal((await engine.result(`r${number}`)).status, 'cancelled');
    assert.throws(() => answer.resolve(1), (error) => error.code === 'handle_closed');
  }, Math.min(RUNS, 2000));
  await engine.close();
});
