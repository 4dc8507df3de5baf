// What a turn costs in Node: a run with a scripted model, without any network.
import { Agent, Engine, scriptedModel, tool } from '@lomusai/node';

const TURNS = 1000;
const answer = { says: 'word '.repeat(20) };

function cpu() {
  const { user, system } = process.cpuUsage();
  return user + system;
}

async function measure(name, turn) {
  let began = 0;
  // The first tenth warms up.
  for (let count = 0; count < TURNS + TURNS / 10; count += 1) {
    if (count === TURNS / 10) began = cpu();
    await turn();
  }
  console.log(JSON.stringify({ case: name, calls: TURNS, cpu_us_per_call: (cpu() - began) / TURNS }));
}

const engine = new Engine();
const speaker = new Agent({ name: 'speaker', model: scriptedModel([answer]), engine });
const add = tool({
  name: 'add',
  inputSchema: { type: 'object', properties: { x: { type: 'integer' }, y: { type: 'integer' } } },
  execute: ({ x, y }) => x + y,
});
const call = { calls: [{ name: 'add', arguments: { x: 1, y: 2 } }] };
const adder = new Agent({ name: 'adder', model: scriptedModel([call, { says: 'word' }]), tools: [add], engine });

await measure('Node: turn, 20 deltas, not read', () => speaker.generate('go'));
await measure('Node: turn, 20 deltas, read', async () => {
  for await (const event of speaker.stream('go')) void event;
});
await measure('Node: turn with one tool round', () => adder.generate('go'));
await engine.close();
