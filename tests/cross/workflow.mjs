// A workflow that waits three times, in Node. See tests/cross/README.md.
import { Engine, path, step, workflow } from '@lomusai/node';

const [file, ...stages] = process.argv.slice(2);
const check = step({ name: 'check', execute: ({ n }) => ({ n: n * 2, items: [1, 2, 3] }) });
const yes = step({ name: 'yes', execute: () => 'yes' });
const many = step({ name: 'many', execute: () => 'many' });
const price = step({ name: 'price', execute: (item) => item * 10 });
const total = step({ name: 'total', execute: ({ prices, paid }) => ({ total: prices.reduce((a, b) => a + b) + paid }) });

const toil = step({
  name: 'toil',
  execute: (_, { attempt }) => {
    if (attempt > 3) return attempt;
    console.log('status working');
    // Killed here.
    return new Promise((resolve) => setTimeout(resolve, 600_000));
  },
});

const engine = new Engine({ path: file, leaseMs: 500 });
const flow = workflow('handover', { engine })
  .then(check)
  .suspend({ label: 'boss', payload: { sum: path('steps.check.n') }, id: 'boss' })
  .branch([['steps.boss.ok', yes], [({ input }) => input.ok, many]])
  .waitFor('paid', { id: 'paid' })
  .foreach(price.takes(path('steps.check.items')), { concurrency: 2 })
  .suspend({ label: 'clerk', id: 'clerk' })
  .then(total.takes({ prices: path('steps.price'), paid: path('steps.paid.sum') }));

/** What the run waits for at this stage. */
async function tell(stage) {
  if (stage === '0') return flow.run({ n: 3 }, { runId: 'handover' });
  if (stage === '1') return flow.resume('handover', { ok: true }, { label: 'boss' });
  if (stage === '3') return flow.resume('handover', null, { label: 'clerk' });
  await flow.signal('handover', 'paid', { sum: 5 });
  return flow.result('handover');
}

/** Begins the work, or goes on with it once nobody else holds it. */
async function work(stage) {
  const flow = workflow('toil', { engine }).then(toil);
  engine.register(flow);
  if (stage === '4') await flow.start(undefined, { runId: 'toil' });
  while (stage === '5' && !(await engine.start()).recovered.includes('toil')) await new Promise((resolve) => setTimeout(resolve, 50));
  console.log('status', (await flow.result('toil')).status);
  console.log('digest', await engine.digest('toil'));
  process.exit();
}
if (stages[0] > '3') await work(stages[0]);

let result;
for (const stage of stages) {
  result = await tell(stage);
  console.log('status', result.status);
}
// Killed here.
if (stages.at(-1) !== '3') await new Promise((resolve) => setTimeout(resolve, 600_000));
console.log('total', result.object.total);
console.log('digest', await engine.digest('handover'));
await engine.close();
