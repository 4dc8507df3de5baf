// How processes and workers end, and how runs outlive them.
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { test } = require('node:test');
const { Worker } = require('node:worker_threads');
const { Agent, Engine, scriptedModel, tool } = require('../index.js');
const { PACKAGE, begin, run } = require('./support/process.js');
const canonical = require('./support/canonical.js');

const HANGS = `
  const { Agent, tool, scriptedModel } = lomusai;
  const hang = tool({ name: 'hang', execute: () => new Promise(() => {}) });
  const agent = new Agent({ name: 'a', model: scriptedModel([{ calls: [{ name: 'hang' }] }]), tools: [hang] });
`;

test('an idle engine does not keep the process alive', async () => {
  const { code, err } = await run(`
    const { Engine, tool, scriptedModel } = lomusai;
    const engine = new Engine();
    engine.registerProvider('model', scriptedModel([{ says: 'hi' }]));
    engine.register(tool({ name: 't', execute: () => 1 }));
    engine.registerSpec({ name: 'a', model: 'model' });
    console.log((await engine.generate({ agent: 'a', input: 'x' })).text);
  `, { timeoutMs: 10_000 });
  assert.equal(code, 0, err);
});

test('what is awaited keeps the process alive', async () => {
  const { code, out } = await run(`
    const { Agent, tool, scriptedModel } = lomusai;
    // Nothing in JavaScript is pending here but the engine's own retry.
    const agent = new Agent({ name: 'a', model: scriptedModel([
      { attempts: [{ error: { code: 'provider_failed', retry_after_ms: 300 } }, { says: 'late' }] }]) });
    console.log((await agent.generate('x')).text);
  `);
  assert.deepEqual([code, out], [0, 'late\n']);
});

test('a process may exit in the middle of a run', async () => {
  const { code, signal, err } = await run(`${HANGS}
    agent.generate('x');
    setTimeout(() => process.exit(7), 50);
  `);
  assert.deepEqual([code, signal, err], [7, null, '']);
});

test('an uncaught exception in the middle of a run ends the process as always', async () => {
  const { code, signal, err } = await run(`${HANGS}
    agent.generate('x');
    setTimeout(() => { throw new Error('unrelated'); }, 50);
  `);
  assert.deepEqual([code, signal], [1, null]);
  assert.match(err, /unrelated/);
});

test('a process whose only promise never settles ends as any other', async () => {
  // The tool waits for nothing that could ever happen; the run's own limit does.
  const { code, out } = await run(`
    const { Agent, tool, scriptedModel } = lomusai;
    const hang = tool({ name: 'hang', timeoutMs: 100, execute: () => new Promise(() => {}) });
    const agent = new Agent({ name: 'a', model: scriptedModel([{ calls: [{ name: 'hang' }] }, { says: 'went on' }]), tools: [hang] });
    console.log((await agent.generate('x')).text);
  `);
  assert.deepEqual([code, out], [0, 'went on\n']);
});

test('200 processes in a row end without an abort, idle and in mid-run', { timeout: 240_000 }, async () => {
  const ways = [
    `${HANGS} agent.generate('x'); setTimeout(() => process.exit(0), 5);`,
    `${HANGS} const s = agent.stream('x'); s[Symbol.asyncIterator]().next().then(() => process.exit(0));`,
    `const { Agent, scriptedModel } = lomusai;
     const agent = new Agent({ name: 'a', model: scriptedModel([{ says: 'hi' }]) });
     await Promise.all(Array.from({ length: 20 }, () => agent.generate('x')));`,
    `const { Engine } = lomusai; const e = new Engine(); await e.runs(); await e.close();`,
  ];
  let next = 0;
  const loop = async () => {
    while (next < 200) {
      const way = ways[next++ % ways.length];
      const { code, signal, err } = await run(way);
      assert.deepEqual([code, signal, err], [0, null, ''], way);
    }
  };
  await Promise.all([loop(), loop()]);
});

// --- Workers -----------------------------------------------------------------------------------------------------------------

const WORKER = `
  const { parentPort, workerData } = require('node:worker_threads');
  const { Agent, tool, scriptedModel } = require(${JSON.stringify(PACKAGE)});
  const add = tool({ name: 'add', execute: ({ a, b }) => a + b });
  const hang = tool({ name: 'hang', execute: () => { parentPort.postMessage('hanging'); return new Promise(() => setInterval(() => {}, 1000)); } });
  (async () => {
    const script = workerData.hang ? [{ calls: [{ name: 'hang' }] }]
      : [{ calls: [{ name: 'add', arguments: { a: 1, b: 2 } }] }, { says: 'three' }];
    const agent = new Agent({ name: 'a', model: scriptedModel(script), tools: [add, hang] });
    let done = 0;
    for (let i = 0; i < workerData.runs; i++) if ((await agent.generate('x')).text === 'three') done++;
    parentPort.postMessage(done);
  })();
`;

function work(workerData) {
  const worker = new Worker(WORKER, { eval: true, workerData });
  const message = new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  const exit = new Promise((resolve) => worker.once('exit', resolve));
  return { worker, message, exit };
}

test('a closed engine holds no files and no threads, collected or not', { skip: !fs.existsSync('/proc/self/fd') }, async () => {
  const { code, err } = await run(`
    const fs = require('node:fs');
    const { Agent, Engine, scriptedModel, tool } = lomusai;
    const held = () => ['fd', 'task'].map((folder) => fs.readdirSync('/proc/self/' + folder).length);
    const kept = [];
    const once = async (closesEarly) => {
      const engine = new Engine();
      const closes = tool({ name: 'closes', execute: () => { if (closesEarly) engine.close(); return 1; } });
      const agent = new Agent({ engine, name: 'a', model: scriptedModel([{ calls: [{ name: 'closes' }] }, { says: 'hi' }]), tools: [closes] });
      await agent.generate('x').catch(() => {});
      await engine.close();
      kept.push(engine);
    };
    await once(false);
    const before = held();
    for (let i = 0; i < 40; i += 1) await once(i % 2 === 0);
    const patience = Date.now() + 5_000;
    // Threads that closed themselves end a little later.
    while (held().some((now, i) => now > before[i] + 1) && Date.now() < patience) await new Promise((r) => setTimeout(r, 20));
    const after = held();
    if (after.some((now, i) => now > before[i] + 1)) throw new Error(before + ' became ' + after + ' for ' + kept.length);
  `);
  assert.equal(code, 0, err);
});

test('four workers run at once and end by themselves', async () => {
  const workers = Array.from({ length: 4 }, () => work({ runs: 300 }));
  for (const { message, exit } of workers) {
    assert.equal(await message, 300);
    assert.equal(await exit, 0);
  }
});

test('a worker may be terminated in the middle of a run', async () => {
  for (let round = 0; round < 10; round += 1) {
    const workers = Array.from({ length: 3 }, () => work({ runs: 1, hang: true }));
    for (const { worker, message } of workers) {
      assert.equal(await message, 'hanging');
      await worker.terminate();
    }
  }
  // This thread's engines are untouched.
  const agent = new Agent({ name: 'a', model: scriptedModel([{ says: 'fine' }]) });
  assert.equal((await agent.generate('x')).text, 'fine');
});

test('a worker may be terminated while thousands of messages are under way', async () => {
  for (let round = 0; round < 5; round += 1) {
    const { worker } = work({ runs: 1e9 });
    await new Promise((resolve) => setTimeout(resolve, 150));
    await worker.terminate();
  }
});

// --- Runs that outlive their process -----------------------------------------------------------------------------------------

const PAYS = `
  const { Agent, Engine, tool, scriptedModel } = lomusai;
  const engine = new Engine({ path: process.argv[1], leaseMs: 1000 });
  const pay = tool({
    name: 'pay', requireApproval: true,
    inputSchema: { type: 'object', properties: { amount: { type: 'number' } } },
    execute: ({ amount }) => ({ paid: amount }),
  });
  const agent = new Agent({ engine, name: 'clerk', tools: [pay],
    model: Object.assign(scriptedModel([{ calls: [{ name: 'pay', arguments: { amount: 5 } }] }, { says: 'Paid.' }]), { name: 'model' }) });
`;

test('a run that waits for approval outlives a killed process, and reads as if nothing had happened', async () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'lomusai-'));
  try {
    const file = path.join(folder, 'runs.db');
    const first = begin(`${PAYS}
      const result = await agent.generate('Pay 5');
      console.log('waits', result.runId, result.status);
      setInterval(() => {}, 1000);
    `, { args: [file] });
    const runId = (await first.said('suspended')).split(' ')[1];
    first.child.kill('SIGKILL');
    assert.equal((await first.ended).signal, 'SIGKILL');

    const second = await run(`${PAYS}
      await engine.start();
      const [{ run_id, pending }] = await engine.pending();
      const result = await engine.approve(run_id, { effectId: pending[0].effect_id });
      console.log(JSON.stringify({ run_id, text: result.text, journal: await engine.export(run_id), digest: await engine.digest(run_id) }));
      await engine.close();
    `, { args: [file] });
    assert.equal(second.code, 0, second.err);
    const resumed = JSON.parse(second.out);
    assert.equal(resumed.run_id, runId);
    assert.equal(resumed.text, 'Paid.');

    const whole = await run(`${PAYS}
      const result = await (await agent.generate('Pay 5')).approve();
      console.log(await engine.digest(result.runId));
    `, { args: [path.join(folder, 'whole.db')] });
    assert.equal(resumed.digest, whole.out.trim());
    assert.equal(canonical.digest(resumed.journal), resumed.digest);
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
});

test('a run in the middle of its work goes on in the next process', async () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'lomusai-'));
  try {
    const file = path.join(folder, 'runs.db');
    const parts = (execute) => `
      const { Agent, Engine, tool, scriptedModel } = lomusai;
      const engine = new Engine({ path: process.argv[1], leaseMs: 300 });
      const work = tool({ name: 'work', execute: ${execute} });
      const agent = new Agent({ engine, name: 'a', tools: [work], model: scriptedModel([{ calls: [{ name: 'work' }] }, { says: 'Done.' }]) });
    `;
    const first = begin(`${parts("() => { console.log('working'); return new Promise(() => setInterval(() => {}, 1000)); }")}
      await agent.generate('x', { runId: 'the-run' });
    `, { args: [file] });
    await first.said('working');
    first.child.kill('SIGKILL');
    await first.ended;
    await new Promise((resolve) => setTimeout(resolve, 600));
    const second = await run(`${parts("(input, ctx) => ctx.attempt")}
      const report = await engine.start();
      const result = await engine.result('the-run');
      console.log(JSON.stringify([report.recovered, result.status, result.text]));
      await engine.close();
    `, { args: [file] });
    assert.equal(second.out.trim(), '[["the-run"],"completed","Done."]', second.err);
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
});

// --- Many at once --------------------------------------------------------------------------------------------------------------

test('32 loops of 300 runs on one engine', { timeout: 120_000 }, async () => {
  const engine = new Engine();
  const add = tool({ name: 'add', execute: async ({ a, b }) => a + b });
  class Counting {
    async *stream({ messages }) {
      const last = messages.at(-1);
      if (last.role === 'tool') yield `It is ${last.parts[0].output}.`;
      else yield { type: 'tool_call', name: 'add', arguments: { a: Number(last.parts[0].text), b: 1 } };
    }
  }
  const agent = new Agent({ engine, name: 'a', model: new Counting(), tools: [add] });
  const loop = async (number) => {
    for (let i = 0; i < 300; i += 1) {
      const n = number * 300 + i;
      const result = await agent.generate(String(n));
      assert.equal(result.text, `It is ${n + 1}.`);
    }
  };
  await Promise.all(Array.from({ length: 32 }, (_, number) => loop(number)));
  await engine.close();
});

test('what runs held is let go of when they are collected, also in a process that does nothing more', async () => {
  // In a process of its own: the test runner's hooks keep contexts alive.
  const result = await run(`
    const { AsyncLocalStorage } = require('node:async_hooks');
    const engine = new lomusai.Engine({ keepFinished: 1 });
    const agent = new lomusai.Agent({ engine, name: 'a', model: lomusai.scriptedModel([{ says: 'ok' }]) });
    const [storage, marks] = [new AsyncLocalStorage(), []];
    for (let i = 0; i < 500; i += 1) {
      // Held by nothing but the context that the run's callables are called in.
      const mark = { i };
      marks.push(new WeakRef(mark));
      await storage.run(mark, () => agent.generate('go'));
    }
    const left = () => marks.filter((mark) => mark.deref()).length;
    for (let i = 0; i < 500 && left() > 100; i += 1) {
      // In a turn of its own: what a WeakRef has shown stays for the rest of the turn.
      await new Promise((resolve) => setTimeout(resolve, 10));
      global.gc();
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    console.log(left() <= 100 ? 'fine' : left());
    await engine.close();
  `, { flags: ['--expose-gc'] });
  assert.deepEqual([result.code, result.out], [0, 'fine\n'], result.err);
});
