// A model in the process, in Node. See tests/local/README.md.
import assert from 'node:assert/strict';
import { Agent, Engine, tool } from '@lomusai/node';

const model = 'local:smollm2-135m';
const given = [];
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
  execute: (input) => {
    given.push(input);
    return 'done';
  },
});
const engine = new Engine({ providers: { local: { threads: 1, context_tokens: 2048 } } });

const tests = {
  async 'an agent calls a tool and streams'() {
    const settings = { maxOutputTokens: 60, seed: 7, temperature: 1 };
    const agent = new Agent({ name: 'clerk', model, tools: [refund], settings, engine });
    const stream = agent.stream('Order A-17 for 12.99 is broken.', { toolChoice: { tool: 'refund' } });
    let deltas = 0;
    for await (const event of stream) if (event.type === 'part_delta') deltas += 1;
    const result = await stream.result;
    assert.equal(result.status, 'completed');
    assert.equal(given.length, 1);
    assert.match(given[0].order, /^[A-Z]-[0-9]{2}$/);
    assert.ok(Number.isInteger(given[0].cents) && given[0].cents >= 1 && given[0].cents <= 5000);
    assert.ok(['broken', 'late', 'lost'].includes(given[0].reason));
    assert.ok(deltas > 1 && result.usage.output > 1);
    assert.match(await engine.digest(result.runId), /^[0-9a-f]+$/);
  },
  async 'an answer fits its schema'() {
    const output = {
      type: 'object',
      properties: {
        city: { type: 'string', minLength: 1, maxLength: 12 },
        days: { type: 'integer', minimum: 1, maximum: 9 },
      },
      required: ['city', 'days'],
      additionalProperties: false,
    };
    const settings = { maxOutputTokens: 80, seed: 3 };
    const { object } = await new Agent({ name: 'planner', model, output, settings, engine }).generate('Plan a journey.');
    assert.deepEqual(Object.keys(object), ['city', 'days']);
    assert.ok(object.city.length >= 1 && [...object.city].length <= 12 && object.days >= 1 && object.days <= 9);
  },
  async 'texts become vectors'() {
    const texts = ['A ship at sea', 'A boat on the ocean', 'Tax law of 1911'];
    const [one, same, other] = await engine.embed('local:minilm-l6-v2', texts);
    const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
    assert.equal(one.length, 384);
    assert.ok(Math.abs(dot(one, one) - 1) < 1e-3 && dot(one, same) > dot(one, other));
  },
  async 'a model that is not there is named'() {
    for (const name of ['nobody-has-this', '/nowhere/x.gguf']) {
      const lost = new Agent({ name: 'lost', model: `local:${name}`, settings: { maxRetries: 0 } });
      await assert.rejects(lost.generate('Hello'), (error) => error.code === 'model_unknown' && error.message.includes(name));
    }
  },
};

for (const [name, test] of Object.entries(tests)) {
  await test();
  console.log(`ok: ${name}`);
}
await engine.close();
console.log(`${Object.keys(tests).length} passed, 0 failed`);
