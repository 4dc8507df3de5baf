// Workflows from Node: steps, the builder, and what a run's life looks like from here.
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const os = require('node:os');
const path_ = require('node:path');
const { test } = require('node:test');
const { z } = require('zod');
const {
  Agent, ConflictError, Engine, FatalError, HostError, InvalidError, NotFoundError, expr, path, scriptedModel, step, tool, workflow,
} = require('../index.js');

// --- The table of builders -----------------------------------------------------------------------------------------------------

const BUILDERS = JSON.parse(fs.readFileSync(path_.join(__dirname, '../../../tests/conformance/builders.json'), 'utf8'));
const camel = (object) =>
  Object.fromEntries(Object.entries(object).map(([key, value]) => [key.replace(/_(.)/g, (_, c) => c.toUpperCase()), value]));

/** A mapping of the wire in this language's words. */
function said(mapping) {
  const [[kind, value]] = Object.entries(mapping);
  if (kind === 'from') return path(value);
  if (kind === 'expr') return expr(value);
  if (kind === 'object') return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, said(item)]));
  return kind === 'list' ? value.map(said) : value;
}

const condition = (of) => of.expr ?? (() => true);
const time = (of) => (typeof of === 'number' ? of : said(of));

function part(of) {
  let made = step(of.step);
  if (of.id) made = made.named(of.id);
  if (of.after) made = made.after(...of.after);
  if (of.when) made = made.when(condition(of.when));
  if (of.takes) made = made.takes(said(of.takes));
  if (of.needs) made = made.needs(of.needs);
  if (of.retry) made = made.retried(camel(of.retry));
  return made;
}

function call(flow, { id, concurrency, max, timeout_ms: timeoutMs, condition: holds, ...one }) {
  const [[kind, given]] = Object.entries(one);
  switch (kind) {
    case 'then': return flow.then(part(given));
    case 'parallel': return flow.parallel(given.map(part));
    case 'add': return flow.add(given.map(part));
    case 'branch': return flow.branch(given.map(([when, arm]) => [condition(when), part(arm)]));
    case 'foreach': return flow.foreach(part(given), { concurrency, id });
    case 'dowhile': return flow.dowhile(part(given), condition(holds), { max, id });
    case 'dountil': return flow.dountil(part(given), condition(holds), { max, id });
    case 'map': return flow.map(said(given), { id });
    case 'bail': return flow.bail(said(given), { id });
    case 'sleep': return flow.sleep(time(given), { id });
    case 'sleep_until': return flow.sleepUntil(time(given), { id });
    case 'wait_for': return flow.waitFor(given, { timeoutMs, id });
    case 'suspend': return flow.suspend({ label: given.label, payload: given.payload && said(given.payload), id });
    case 'output': return flow.output(said(given));
    default: throw new Error(`unknown call ${kind}`);
  }
}

for (const one of BUILDERS) {
  test(`the builder: ${one.name}`, () => {
    const { retry, limits, ...options } = camel(one.options ?? {});
    const flow = one.calls.reduce(call, workflow(one.workflow, { ...options, retry: retry && camel(retry), limits: limits && camel(limits) }));
    assert.deepEqual(flow.spec, one.spec);
    assert.equal(JSON.stringify(flow.spec.input_schema), JSON.stringify(one.spec.input_schema));
  });
}

test('the program of the guide runs and makes the spec that C writes', async () => {
  const guide = fs.readFileSync(path_.join(__dirname, '../../../docs/guide/workflows.md'), 'utf8');
  const block = (language) => guide.split(`\`\`\`${language}\n`)[1].split('```')[0];
  const checkOrder = step({ name: 'check_order', execute: (order) => ({ ...order, amount: 150 }) });
  const askTheBoss = step({ name: 'ask_the_boss', execute: ({ amount }) => amount === 150 });
  const said = [];
  const names = { path, step, workflow, checkOrder, askTheBoss, console: { log: (line) => said.push(line) } };
  const program = block('js').replace(/^import .*$/m, '');
  const run = new Function(...Object.keys(names), `return (async () => { ${program}; return [refund.spec]; })();`);
  const [made] = await run(...Object.values(names));
  assert.deepEqual(said, ['paid 150']);
  const spec = [...block('c').matchAll(/^ +"(.*)";?$/gm)].map(([, text]) => text.replaceAll('\\"', '"')).join('');
  assert.deepEqual(made, JSON.parse(spec));
});

// --- Steps ---------------------------------------------------------------------------------------------------------------------

/** A test with an engine of its own. */
function on(name, body) {
  test(name, { timeout: 30_000 }, async () => {
    const engine = new Engine();
    try {
      await body(engine);
    } finally {
      await engine.close();
    }
  });
}

const coded = (type, code) => (error) => error instanceof type && error.code === code;

on('steps are checked by their schemas and given what those make of a value', async (engine) => {
  const check = step({
    name: 'check',
    inputSchema: z.object({ id: z.string(), amount: z.number().int().default(5) }),
    outputSchema: z.object({ amount: z.number() }),
    execute: ({ amount }) => ({ amount: amount + 20 }),
  });
  const flow = workflow('typed', { engine }).then(check).map(({ amount }) => amount * 2);
  assert.equal((await flow.run({ id: '7' })).object, 50);
  await assert.rejects(flow.run({ id: 7 }), coded(InvalidError, 'input_invalid'));
  await assert.rejects(
    workflow('refined', { engine }).then(step({ name: 'r', inputSchema: z.number().refine((n) => n > 3), execute: (n) => n })).run(1),
    coded(InvalidError, 'input_invalid'),
  );
});

on('a chain with everything', async (engine) => {
  const double = step({ name: 'double', execute: (n) => n * 2 });
  const grow = step({ name: 'grow', execute: (list) => [...list, list.length] });
  const flow = workflow('all', { engine })
    .then(() => [1, 2, 3])
    .foreach(double, { concurrency: 2 })
    .dowhile(grow, ({ output }) => output.length < 5)
    .map({ list: path('steps.grow'), n: expr('steps.grow|length'), fixed: { a: [1] } })
    .parallel([step({ name: 'first', execute: ({ list }) => list[0] }), step({ name: 'count', execute: ({ n }) => n })])
    .branch([['steps.map_1.n == 5', step({ name: 'yes', execute: () => 'yes' })], [() => false, step({ name: 'no', execute: () => 'no' })]])
    .then((ran) => Object.keys(ran));
  assert.deepEqual((await flow.run()).object, ['yes']);
});

on('a failure has its cause and can be taken up', async (engine) => {
  let fails = true;
  const cause = new RangeError('not yet');
  const shaky = step({
    name: 'shaky',
    execute: async () => {
      if (fails) throw cause;
      return 'done';
    },
  });
  const flow = workflow('shaky', { engine }).then(shaky);
  await assert.rejects(flow.run(null, { runId: 'r' }), (error) => coded(HostError, 'step_failed')(error) && error.cause === cause);
  fails = false;
  assert.equal((await flow.retry('r')).object, 'done');
  await assert.rejects(flow.retry('r'), coded(ConflictError, 'run_finished'));
});

on('a fatal error is not tried again', async (engine) => {
  const attempts = [];
  const fatal = step({
    name: 'fatal',
    retry: 5,
    execute: (_, ctx) => {
      attempts.push(ctx.attempt);
      throw new FatalError('wrong number');
    },
  });
  await assert.rejects(workflow('fatal', { engine }).then(fatal).run(), coded(InvalidError, 'step_fatal'));
  assert.deepEqual(attempts, [1]);
});

on('a step suspends, is resumed by its label and keeps state', async (engine) => {
  const ask = step({
    name: 'ask',
    resumeSchema: z.boolean(),
    suspendSchema: z.object({ sum: z.number() }),
    execute: (_, ctx) => {
      assert.match(ctx.idempotencyKey, /^r\/ask$/);
      if (ctx.resumeData !== undefined) return [ctx.resumeData, ctx.state.asked, ctx.workflow];
      ctx.setState({ asked: true });
      return ctx.suspend({ sum: 3 }, { label: 'boss' });
    },
  });
  const flow = workflow('ask', { engine }).then(ask);
  const waits = await flow.run({}, { runId: 'r' });
  assert.deepEqual([waits.status, waits.pending[0].label, waits.pending[0].payload], ['suspended', 'boss', { sum: 3 }]);
  await assert.rejects(flow.resume('r', 'maybe', { label: 'boss' }), coded(InvalidError, 'resume_invalid'));
  await assert.rejects(flow.resume('r', true, { label: 'clerk' }), coded(NotFoundError, 'effect_unknown'));
  assert.deepEqual((await waits.resume(true, { label: 'boss' })).object, [true, true, 'ask']);
});

on('a resume twice at once resumes once', async (engine) => {
  let calls = 0;
  const flow = workflow('twice', { engine }).suspend().then(step({ name: 'note', execute: () => (calls += 1) }));
  for (let i = 0; i < 20; i += 1) {
    await flow.run(null, { runId: `r${i}` });
    const ends = await Promise.allSettled([flow.resume(`r${i}`, 1), flow.resume(`r${i}`, 2)]);
    const refused = ends.filter((end) => end.status === 'rejected');
    assert.equal(refused.length, 1);
    assert.ok(['run_active', 'run_finished', 'effect_unknown'].includes(refused[0].reason.code), String(refused[0].reason));
  }
  assert.equal(calls, 20);
});

on('a step may bail, and signals are kept for who waits', async (engine) => {
  const enough = step({ name: 'enough', execute: (input, ctx) => ctx.bail({ found: input }) });
  const bailed = await workflow('bails', { engine }).then(enough).then(step({ name: 'never', execute: () => 1 })).run(3);
  assert.deepEqual([bailed.status, bailed.object], ['bailed', { found: 3 }]);

  const flow = workflow('signals', { engine }).waitFor('paid').waitFor('sent');
  const runId = await flow.start({ order: 1 });
  await flow.signal(runId, 'sent', 'by air');
  await flow.signal(runId, 'paid', 3);
  assert.equal((await flow.result(runId)).object, 'by air');
});

on("a run's start is recorded or says why, and it can be cancelled", async (engine) => {
  const flow = workflow('starts', { engine }).suspend();
  assert.equal(await flow.start(null, { runId: 'r' }), 'r');
  await assert.rejects(flow.start(null, { runId: 'r' }), coded(ConflictError, 'run_exists'));
  await flow.cancel('r', { reason: 'enough' });
  assert.equal((await flow.result('r')).status, 'cancelled');
});

on('a signal of the host cancels the run and its steps', async (engine) => {
  const control = new AbortController();
  const seen = [];
  const hangs = step({
    name: 'hangs',
    execute: (_, ctx) =>
      new Promise((_, reject) => {
        ctx.signal.addEventListener('abort', () => {
          seen.push('told');
          reject(ctx.signal.reason);
        });
        control.abort(new Error('enough'));
      }),
  });
  await assert.rejects(workflow('aborted', { engine }).then(hangs).run(null, { signal: control.signal, runId: 'r' }), /enough/);
  assert.equal((await engine.result('r')).status, 'cancelled');
  assert.deepEqual(seen, ['told']);
});

on('events are read with for await', async (engine) => {
  const types = [];
  for await (const event of workflow('events', { engine }).map('x').stream()) types.push(event.type);
  assert.deepEqual(types, ['run_started', 'effect_completed', 'run_finished']);
});

on('agents, tools and workflows are steps', async (engine) => {
  const shout = tool({ name: 'shout', execute: ({ text }) => text.toUpperCase() });
  const agent = new Agent({ name: 'writer', model: scriptedModel([{ says: 'hello' }]) });
  const flow = workflow('mixed', { engine }).then(agent).then(workflow('inner').map({ text: path('input') })).then(shout);
  assert.equal((await flow.run('write')).object, 'HELLO');
});

on('dependencies in any order', async (engine) => {
  const a = step({ name: 'a', execute: (n) => n + 1 });
  const b = step({ name: 'b', execute: (n) => n * 2 });
  const c = step({ name: 'c', execute: (got) => got.a + got.b });
  assert.equal((await workflow('graph', { engine }).add(a, b, c.after(a, 'b')).run(5)).object, 16);
});

test('what is no step is told so, and a workflow is not awaited', async () => {
  assert.throws(() => workflow('w').then(3), coded(InvalidError, 'argument_invalid'));
  await assert.rejects(async () => workflow('w'), coded(InvalidError, 'argument_invalid'));
});

test('a builder is not changed by what is built on it', () => {
  const base = workflow('base').then('a');
  const longer = base.then('b');
  assert.deepEqual([base.spec.steps.length, longer.spec.steps.length], [1, 2]);
});

// --- Runs, afterwards ----------------------------------------------------------------------------------------------------------

const asks = (name, engine, id = 'ask') =>
  workflow(name, { engine })
    .then(step({ name: 'price', execute: ({ pieces }) => pieces * 10 }))
    .suspend({ id })
    .map(path('steps.price'));

on('a run is forked, restarted and compared', async (engine) => {
  const flow = asks('forks', engine);
  await flow.run({ pieces: 3 }, { runId: 'r' });
  assert.equal(await engine.fork('r', { effectId: 'price', output: 7, newRunId: 'f', metadata: { why: 'cheap' } }), 'f');
  assert.equal((await engine.result('f')).status, 'suspended');
  assert.deepEqual((await engine.runInfo('f')).metadata, { why: 'cheap' });
  assert.equal((await flow.resume('f')).object, 7);
  const again = await engine.restart('r');
  await engine.result(again);
  assert.equal((await engine.difference('r', again)).effects, undefined);
  const price = (await engine.difference('r', 'f')).effects.find((effect) => effect.effect_id === 'price');
  assert.deepEqual([price.left.output, price.right.output], [30, 7]);
  await assert.rejects(engine.fork('r'), coded(InvalidError, 'fork_invalid'));
  await assert.rejects(engine.restart('nobody'), coded(NotFoundError, 'run_unknown'));
  await assert.rejects(engine.difference('r', 'nobody'), coded(NotFoundError, 'run_unknown'));
});

on('workflows and runs are drawn', async (engine) => {
  const flow = asks('drawn', engine);
  assert.match(await engine.picture(flow), /^<svg/);
  await flow.run({ pieces: 1 }, { runId: 'r' });
  const byName = await engine.picture('drawn', { format: 'mermaid' });
  assert.match(byName, /^flowchart/);
  assert.equal(await engine.picture(flow.spec, { format: 'mermaid' }), byName);
  assert.notEqual(await engine.picture({ runId: 'r' }), await engine.picture('drawn'));
  await assert.rejects(engine.picture('nowhere'), coded(NotFoundError, 'workflow_unknown'));
});

on('a run goes on under a changed workflow', async (engine) => {
  await asks('changes', engine).run({ pieces: 3 }, { runId: 'r' });
  engine.unregister('workflow', 'changes');
  engine.unregister('step', 'price');
  const flow = asks('changes', engine, 'question');
  const [fit] = await engine.checkWorkflow(flow);
  assert.deepEqual([fit.run_id, fit.fits, fit.needs_migration, fit.misfit.effect_id], ['r', false, true, 'ask']);
  await engine.registerMigration({ workflow: flow, from: fit.hash, steps: { ask: 'question' }, outputs: { price: 40 } });
  assert.equal((await engine.checkWorkflow(flow.spec))[0].fits, true);
  assert.equal((await flow.resume('r')).object, 40);
  await assert.rejects(engine.registerMigration({ workflow: 'changes', from: fit.hash }), coded(ConflictError, 'name_taken'));
});

on('runs that ended are let go', async (engine) => {
  await workflow('ends', { engine }).map('x').run(null, { runId: 'a' });
  assert.deepEqual(await engine.prune([{ agent: 'ends', keepRuns: 1 }]), []);
  assert.deepEqual(await engine.prune([{ agent: 'ends', keepMs: 0, keepRuns: 0 }], { onlyTell: true }), ['a']);
  assert.deepEqual(await engine.prune([{ agent: 'ends', keepRuns: 0 }]), ['a']);
  assert.deepEqual(await engine.runs(), []);
  await assert.rejects(engine.prune([{ agent: 'ends' }]), coded(InvalidError, 'argument_invalid'));
});

test('journals of runs that ended are compacted', async () => {
  const folder = fs.mkdtempSync(path_.join(os.tmpdir(), 'lomusai-'));
  const file = path_.join(folder, 'runs.db');
  const engine = new Engine({ path: file, retention: [{ agent: 'ends', keepRuns: 1 }], compactAfterMs: null });
  const flow = workflow('ends', { engine }).map('x');
  for (const runId of ['a', 'b']) await flow.run(null, { runId });
  const found = await engine.runs({ kind: 'workflow', top: true, createdFromMs: 1 });
  assert.deepEqual(found.map((run) => run.run_id), ['b', 'a']);
  assert.deepEqual(await engine.runs({ metadata: { of: 'none' }, status: 'completed' }), []);
  const digest = await engine.digest('b');
  assert.deepEqual(await engine.prune(), ['a']);
  assert.deepEqual([await engine.compact(), await engine.compact({ endedMsAgo: 0 }), await engine.compact({ endedMsAgo: 0 })], [0, 1, 0]);
  assert.equal(await engine.digest('b'), digest);
  await engine.close();
  fs.rmSync(folder, { recursive: true });
  assert.throws(() => new Engine({ retention: [{ agent: 'ends' }] }), coded(InvalidError, 'argument_invalid'));
});

on('a schedule begins runs', async (engine) => {
  const flow = workflow('report', { engine }).map(path('input.of'));
  engine.register(flow);
  const request = { workflow: 'report', input: { of: 'sales' } };
  const put = await engine.putSchedule({ name: 'often', request, everyMs: 1, missed: 'skip' });
  assert.deepEqual([put.every_ms, put.missed], [1, 'skip']);
  let begun = [];
  for (let i = 0; i < 100_000 && begun.length === 0; i += 1) begun = await engine.fireDue();
  assert.equal((await flow.result(begun[0])).object, 'sales');
  assert.match((await engine.schedules())[0].last_run, /^schedule:often:/);
  assert.equal((await engine.pauseSchedule('often')).paused, true);
  assert.deepEqual(await engine.fireDue(), []);
  assert.equal((await engine.pauseSchedule('often', { paused: false })).paused, undefined);
  assert.deepEqual([await engine.deleteSchedule('often'), await engine.deleteSchedule('often')], [true, false]);

  const noon = new Date(Date.UTC(2099, 11, 31, 12));
  const daily = await engine.putSchedule({ name: 'daily', request, cron: '30 9 * * *', timezone: 'Europe/Berlin', from: noon, graceMs: 1500 });
  assert.deepEqual([daily.from_ms, daily.grace_ms, daily.next_ms], [noon.getTime(), 1500, Date.UTC(2100, 0, 1, 8, 30)]);
  assert.deepEqual(await engine.schedules(), [daily]);
  await assert.rejects(engine.putSchedule({ name: 'never', request }), coded(InvalidError, 'schedule_invalid'));
  await assert.rejects(engine.pauseSchedule('never'), coded(NotFoundError, 'schedule_unknown'));
});
