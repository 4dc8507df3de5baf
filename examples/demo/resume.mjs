// The demo's second program: goes on with the run in Node. The agent itself is in the file; only the tool has to be here.
import { Engine, scriptedModel, tool } from '@lomusai/node';

const [path, runId] = process.argv.slice(2);
const refund = tool({
  name: 'refund',
  description: 'Pays an order back.',
  inputSchema: {
    type: 'object',
    properties: { order: { type: 'string' }, cents: { type: 'integer' } },
    required: ['order', 'cents'],
    additionalProperties: false,
  },
  requireApproval: true,
  execute: ({ order, cents }, ctx) => {
    console.log(`  refund runs in Node, under the key ${ctx.idempotencyKey}`);
    return `${cents} cents paid back for ${order}`;
  },
});
const script = [
  { says: 'Let me look that up. ', calls: [{ name: 'refund', arguments: { order: 'A-17', cents: 1299 } }] },
  { says: 'Done: order A-17 is refunded.', usage: { input: 60, output: 8 } },
];

const engine = new Engine({ path });
engine.register(refund, scriptedModel(script, { name: 'model' }));
const result = await engine.approve(runId);
console.log(`  clerk: ${result.text}`);
await engine.close();
