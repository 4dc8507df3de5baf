// One agent whose tool waits for approval, in Node. See tests/cross/README.md.
import { Agent, Engine, scriptedModel, tool } from '@lomusai/node';

const [mode, path, resumed] = process.argv.slice(2);
const add = tool({
  name: 'add',
  description: 'Adds two numbers.',
  inputSchema: {
    type: 'object',
    properties: { a: { type: 'integer' }, b: { type: 'integer' } },
    required: ['a', 'b'],
    additionalProperties: false,
  },
  requireApproval: () => true,
  execute: ({ a, b }) => a + b,
});
const engine = new Engine({ path });
const agent = new Agent({
  name: 'calculator',
  model: scriptedModel([{ calls: [{ name: 'add', arguments: { a: 1, b: 2 } }] }, { says: '1 + 2 is 3.' }]),
  tools: [add],
  instructions: () => 'Add.',
  stop: [() => false],
  processors: { input: [() => null], output: () => null },
  hooks: { beforeTool: async () => null },
  engine,
});

let runId = resumed;
if (mode === 'resume') {
  console.log('text', (await engine.approve(runId)).text);
} else {
  const result = await agent.generate('What is 1 + 2?');
  runId = result.runId;
  console.log('run', runId);
  // Killed here.
  if (mode === 'start') await new Promise((resolve) => setTimeout(resolve, 600_000));
  console.log('text', (await result.approve()).text);
}
console.log('digest', await engine.digest(runId));
await engine.close();
