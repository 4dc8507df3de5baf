// A tool that a person must approve. The run is kept in a file meanwhile: this process may end, and another one go on.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Agent, Engine, scriptedModel, tool } from '@lomusai/node';

const folder = mkdtempSync(join(tmpdir(), 'lomusai-'));

function open() {
  const engine = new Engine({ path: join(folder, 'runs.db') });
  const agent = new Agent({
    engine,
    name: 'clerk',
    model: scriptedModel([{ calls: [{ name: 'pay', arguments: { amount: 5 } }] }, { says: 'Paid 5.' }]),
    tools: [
      tool({
        name: 'pay',
        description: 'Pays a bill.',
        inputSchema: { type: 'object', properties: { amount: { type: 'number' } }, required: ['amount'] },
        requireApproval: true,
        // The key is the same however often the call is tried: pass it to whoever takes the money.
        execute: ({ amount }, { idempotencyKey }) => ({ amount, receipt: idempotencyKey.split('/')[1] }),
      }),
    ],
  });
  return { engine, agent };
}

const before = open();
const waiting = await before.agent.generate('Pay the bill.');
console.log(waiting.status, waiting.pending[0].tool, waiting.pending[0].arguments);
await before.engine.close();

const after = open();
await after.engine.start();
const [run] = await after.engine.pending();
const result = await after.engine.approve(run.run_id);
console.log(result.status, result.text);
await after.engine.close();
rmSync(folder, { recursive: true });
