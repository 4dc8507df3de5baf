// The demo's second program: goes on with the run in Node. The agent is in the file; only its tool, and its model if that is a script,
// have to be here.
import { Engine, scriptedModel, tool } from '@lomusai/node';

const [path, runId] = process.argv.slice(2);
const refund = tool({
  name: 'refund',
  description: 'Pays an order back.',
  inputSchema: {
    type: 'object',
    properties: {
      order: { type: 'string', pattern: '^[A-Z]-[0-9]{2}$' },
      cents: { type: 'integer', minimum: 1, maximum: 5000 },
      reason: { enum: ['broken', 'late', 'lost'] },
    },
    required: ['order', 'cents', 'reason'],
    additionalProperties: false,
  },
  requireApproval: true,
  execute: ({ order, cents }, ctx) => {
    console.log(`node refund runs, under the key ${ctx.idempotencyKey}`);
    return `${cents} cents paid back for ${order}`;
  },
});
const script = [
  { calls: [{ name: 'refund', arguments: { order: 'A-17', cents: 1299, reason: 'broken' } }] },
  { says: 'I paid back 12.99 for order A-17.' },
];

const engine = new Engine({ path });
engine.register(refund, scriptedModel(script, { name: 'refunds' }));
console.log('you Approved.');
const result = await engine.approve(runId);
console.log(`model ${result.text.trim().replaceAll('\n', ' ')}`);
await engine.close();
