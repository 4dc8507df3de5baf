// Checked by `tsc --strict`, never run: what must compile, and what must not.
import { z } from 'zod';
import {
  Agent, Engine, LlmProvider, LomusaiError, ToolError, compatible, expr, path, reply, scriptedModel, step, tool, workflow,
  type CallContext, type ModelChunk, type ModelRequest, type Result, type RunEvent,
} from '../../index.mjs';

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
function same<A, B>(..._: Same<A, B> extends true ? [] : ['these types differ', A, B]): void {}

// Arguments are inferred from a Standard Schema: what comes out of it, not what goes in.
const weather = tool({
  name: 'weather',
  inputSchema: z.object({ city: z.string(), days: z.string().transform(Number).default(1) }),
  resumeSchema: z.object({ yes: z.boolean() }),
  suspendSchema: z.object({ question: z.string() }),
  requireApproval: ({ days }) => days > 3,
  execute: async (input, ctx) => {
    same<typeof input, { city: string; days: number }>();
    same<typeof ctx.resumeData, { yes: boolean } | undefined>();
    // @ts-expect-error there is no such argument
    input.town;
    // @ts-expect-error the payload must fit its schema
    if (!ctx.resumeData) return ctx.suspend({ nonsense: 1 });
    ctx.signal.throwIfAborted();
    ctx.progress({ done: 1 });
    return reply({ ok: true }, [{ type: 'text', text: 'x' }]);
  },
});

// And from JSON Schema as it is written.
tool({
  name: 'json',
  inputSchema: {
    type: 'object',
    properties: { city: { type: 'string' }, unit: { enum: ['c', 'f'] }, tags: { type: 'array', items: { type: 'integer' } } },
    required: ['city'],
  },
  execute: (input) => {
    same<typeof input, { city: string; unit?: 'c' | 'f'; tags?: number[] }>();
    return input.city.length;
  },
});

// A schema that is only known at run time gives anything.
declare const unknownSchema: { type: string; [key: string]: unknown };
tool({ name: 'any', inputSchema: unknownSchema, execute: (input) => input.whatever.there.is });

// @ts-expect-error a tool has a name
tool({ execute: () => 1 });
// @ts-expect-error a description is a text
tool({ name: 't', description: 5 });

class Mine extends LlmProvider {
  override async *stream(request: ModelRequest, context: CallContext): AsyncGenerator<ModelChunk> {
    yield request.messages.length + context.runId;
    yield { type: 'usage', usage: { input: 1 } };
    // @ts-expect-error there is no such chunk
    yield { type: 'nonsense' };
  }
}

const engine = new Engine({ path: 'runs.db', onLog: ({ level, message }) => console.log(level, message) });
// @ts-expect-error there is no such option
new Engine({ paht: 'runs.db' });

const agent = new Agent({
  engine,
  name: 'a',
  model: new Mine(),
  instructions: (_, { context }) => `Help ${context.user}`,
  tools: [weather, 'registered'],
  output: z.object({ city: z.string(), founded: z.string().transform((text) => new Date(text)) }),
  approval: ({ tool }) => tool === 'weather',
  stop: [({ step }) => step > 2, { type: 'tool_called', tool: 'weather' }],
  processors: { stream: ({ text }) => ({ text: text.toUpperCase() }) },
  settings: { temperature: 0.5 },
});
new Agent({ name: 'b', model: compatible({ baseUrl: 'http://localhost' }), agents: [agent] });
new Agent({ name: 'c', model: scriptedModel([{ says: 'x' }, { calls: [{ name: 't' }] }]) });
// @ts-expect-error an agent has a model
new Agent({ name: 'd' });
// @ts-expect-error `says` is a text
scriptedModel([{ says: 5 }]);

async function runs(): Promise<void> {
  const result = await agent.generate('x', { history: [], signal: new AbortController().signal, context: { user: 'Ada' } });
  same<typeof result, Result<{ city: string; founded: Date }>>();
  same<typeof result.object, { city: string; founded: Date } | undefined>();
  if (result.status === 'suspended') await result.approve({ effectId: result.pending[0]!.effect_id });
  // @ts-expect-error there is no such status
  if (result.status === 'sleeping') return;

  const other = await agent.generate('x', { output: { type: 'object', properties: { n: { type: 'number' } }, required: ['n'] } });
  same<typeof other.object, { n: number } | undefined>();

  const stream = agent.stream([{ role: 'user', content: 'x' }]);
  for await (const event of stream) {
    same<typeof event, RunEvent>();
    if (event.type === 'part_delta') event.text?.length;
    if (event.type === 'run_finished') event.outcome satisfies 'completed' | 'failed' | 'cancelled' | 'exhausted' | 'bailed';
    // @ts-expect-error only some events have a message
    event.message;
  }
  for await (const text of stream.textStream) text.length;
  // @ts-expect-error it is a promise
  stream.result.text;

  try {
    await engine.approve('run');
  } catch (error) {
    if (error instanceof ToolError) error.code satisfies string;
    if (error instanceof LomusaiError && error.kind === 'limit') error.details.limit;
  }
  // @ts-expect-error there is no such command
  await engine.send('run', { type: 'go' });
  const [info] = await engine.runs({ status: 'completed' });
  info!.run_id.length;
  await using closing = engine;
  void closing;
}
void runs;

// Types go through a workflow: from a schema, from what a function returns, through foreach and map.
const lookUp = step({
  name: 'look_up',
  inputSchema: z.object({ id: z.string() }),
  outputSchema: z.object({ amounts: z.array(z.number()) }),
  resumeSchema: z.boolean(),
  suspendSchema: z.object({ sum: z.number() }),
  execute: (input, ctx) => {
    same<typeof input, { id: string }>();
    same<typeof ctx.resumeData, boolean | undefined>();
    // @ts-expect-error the payload must fit its schema
    if (input.id === 'x') return ctx.suspend({ sum: 'x' });
    if (input.id === 'y') return ctx.bail('enough');
    return { amounts: [ctx.attempt] };
  },
});
const double = step({ name: 'double', inputSchema: z.number(), execute: (n) => n * 2 });
const flow = workflow('typed', { inputSchema: z.object({ id: z.string() }) })
  .then(lookUp)
  .map(({ amounts }) => amounts)
  .foreach(double, { concurrency: 2 })
  .map((doubled) => doubled.map(String));

async function flows() {
  const { object } = await flow.run({ id: '7' }, { runId: 'r', signal: AbortSignal.timeout(5) });
  same<typeof object, string[] | undefined>();
  // @ts-expect-error the input has another shape
  await flow.run({ name: 7 });
  const run: string = await flow.start({ id: '7' });
  await flow.signal(run, 'paid', { sum: 3 });
  const resumed: Result<string[]> = await flow.resume(run, true, { label: 'boss' });
  for await (const event of flow.stream({ id: '7' })) if (event.type === 'run_finished') event.outcome;
  workflow('graph')
    .add(double, lookUp.after(double, 'x').when('steps.double > 1').takes(path('input')).needs('all').retried({ max: 2, delayMs: 5 }))
    .branch([[(asked) => asked.input > 1, double], ['input', 'registered']])
    .map({ a: path('steps.x'), b: [expr('1 + 1')] })
    .waitFor('paid', { dataSchema: z.number() })
    .sleep(5)
    .sleepUntil(new Date())
    .suspend({ label: 'boss', payload: { sum: path('input') } })
    .bail('x', { when: 'input' });
  // @ts-expect-error there is no such rule
  double.needs('some');
  return resumed;
}
void flows;

async function afterwards(): Promise<void> {
  const fork: string = await engine.fork('r', { effectId: 'pay', output: null, metadata: { why: 'x' } });
  const { same: count, effects } = await engine.difference('r', await engine.restart(fork, { newRunId: 's' }));
  effects?.map(({ effect_id, left }) => [effect_id.length, count + 1, left.output]);
  const drawn: string[] = [await engine.picture(flow), await engine.picture(flow.spec, { format: 'mermaid' }), await engine.picture({ runId: 'r' })];
  // @ts-expect-error there is no such format
  await engine.picture('flow', { format: 'png' });
  for (const fit of await engine.checkWorkflow(flow)) {
    if (!fit.fits) await engine.registerMigration({ workflow: flow, from: fit.hash, steps: { old: 'new', gone: null }, state: { n: 0 } });
  }
  const gone: string[] = await engine.prune([{ status: ['failed'], kind: 'workflow', keepMs: 5 }], { onlyTell: true });
  const put = await engine.putSchedule({ name: 's', request: { workflow: 'w' }, everyMs: 5, missed: 'all', until: new Date() });
  put.next_ms?.toFixed();
  // @ts-expect-error what becomes of missed times has three names
  await engine.putSchedule({ name: 's', request: { workflow: 'w' }, cron: '@daily', missed: 'twice' });
  void [drawn, gone, await engine.fireDue(), (await engine.pauseSchedule('s', { paused: false })).last_error?.code];
}
void afterwards;
