// A workflow that asks a person about large refunds. It is kept in a file: this process may end, and another one, in any language, goes on.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Engine, path, step, workflow } from '@lomusai/node';

const check = step({ name: 'check', execute: ({ order }) => ({ order, amount: 120 }) });

// Waits for the boss, maybe for days.
const boss = step({
  name: 'boss',
  resumeSchema: { type: 'boolean' },
  execute: (order, ctx) => {
    if (ctx.resumeData === undefined) return ctx.suspend({ may: 'we pay back', ...order }, { label: 'boss' });
    return ctx.resumeData || ctx.bail('the boss said no');
  },
});

// The key is the same however often this is called for one run: give it to who takes the money.
const pay = step({
  name: 'pay',
  retry: 3,
  execute: ({ order, amount }, { idempotencyKey }) => {
    console.log('paying back', amount, 'under the key', idempotencyKey);
    return `${amount} paid back for ${order}`;
  },
});

const tell = step({ name: 'tell', execute: (person) => `told ${person}` });

const refund = (engine) =>
  workflow('refund', { engine })
    .then(check)
    .branch([['steps.check.amount > 100', boss]])
    .then(pay.takes(path('steps.check')))
    .map(path('input.people'))
    .foreach(tell, { concurrency: 2 });

const folder = mkdtempSync(join(tmpdir(), 'lomusai-'));
const file = join(folder, 'runs.db');

const before = new Engine({ path: file });
const waiting = await refund(before).run({ order: 'A-17', people: ['Ada', 'Bob'] }, { runId: 'refund-1' });
console.log(waiting.status, waiting.pending[0].label);
await before.close();

// As another process would: open the file, register the same steps, and answer.
const after = new Engine({ path: file });
const result = await refund(after).resume('refund-1', true, { label: 'boss' });
console.log(result.status, result.object);
await after.close();
rmSync(folder, { recursive: true });
