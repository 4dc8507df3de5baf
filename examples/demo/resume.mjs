// The demo's second program: goes on with the run in Node. The agent itself is in the file; only the tool has to be here.
import { Engine, tool } from '@lomusai/node';

const [path, runId] = process.argv.slice(2);
const refund = tool({
  name: 'refund',
  description: 'Pays an order back.',
  inputSchema: {
    type: 'object',
    properties: {
      order: { type: 'string', pattern: '^[A-Z]-[0-9]{2}$' },
      cents: { type: 'integer', minimum: 1, maximum: 5000 },
      reason: { type: 'string', minLength: 3, maxLength: 40 },
    },
    required: ['order', 'cents', 'reason'],
    additionalProperties: false,
  },
  requireApproval: true,
  execute: ({ order, cents }, ctx) => {
    console.log(`  refund runs in Node, under the key ${ctx.idempotencyKey}`);
    return `${cents} cents paid back for ${order}`;
  },
});
const lookUp = tool({
  name: 'look_up',
  description: 'Finds an order.',
  inputSchema: {
    type: 'object',
    properties: { order: { type: 'string', pattern: '^[A-Z]-[0-9]{2}$' } },
    required: ['order'],
    additionalProperties: false,
  },
  execute: ({ order }) => `Order ${order} is known.`,
});

const engine = new Engine({ path });
engine.register(refund, lookUp);
const result = await engine.approve(runId);
console.log(`  model: ${result.text.trim().replaceAll('\n', '\n  ')}`);
await engine.close();
