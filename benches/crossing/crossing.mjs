// What a call into JavaScript costs: a plain function and an async one; and what the require costs.
import { createRequire } from 'node:module';

const CALLS = 200;
const RUNS = 100;
const LOOPS = 10_000_000;

/** CPU time of the process, user and system, in microseconds. */
function cpu() {
  const { user, system } = process.cpuUsage();
  return user + system;
}

const require = createRequire(import.meta.url);
const began = cpu();
require('./empty.cjs');
const emptied = cpu();
const { Agent, Engine, scriptedModel, tool } = require('@lomusai/node');
const imported = cpu();

const print = (line) => console.log(JSON.stringify(line));
const printCase = (name, calls, us) => print({ case: name, calls, cpu_us_per_call: us / calls });

print({ case: 'Node: require of an empty module', cpu_ms: (emptied - began) / 1e3 });
print({ case: "Node: require('@lomusai/node')", cpu_ms: (imported - emptied) / 1e3 });

// From the first call of a run to the last: what its start and end cost is not the crossing's.
const watch = { seen: 0, began: 0, spent: 0 };
function seen() {
  if (watch.seen === 0) watch.began = cpu();
  watch.seen += 1;
  if (watch.seen === CALLS) watch.spent += cpu() - watch.began;
}

function add({ x, y }) {
  seen();
  return x + y;
}

async function measure(name, execute) {
  const engine = new Engine();
  const inputSchema = {
    type: 'object',
    properties: { x: { type: 'integer' }, y: { type: 'integer' } },
    required: ['x', 'y'],
    additionalProperties: false,
  };
  const calls = Array.from({ length: CALLS }, () => ({ name: 'add', arguments: { x: 1, y: 2 } }));
  const agent = new Agent({
    name: 'adder',
    model: scriptedModel([{ calls }, { says: 'done' }]),
    tools: [tool({ name: 'add', inputSchema, execute })],
    toolConcurrency: 1,
    engine,
  });
  for (let run = 0; run <= RUNS; run += 1) {
    // The first run warms up.
    if (run <= 1) watch.spent = 0;
    watch.seen = 0;
    await agent.generate('go');
    if (watch.seen !== CALLS) throw new Error(`${name}: ${watch.seen} calls`);
  }
  printCase(name, RUNS * (CALLS - 1), watch.spent);
  await engine.close();
}

const loopBegan = cpu();
for (let i = 0; i < LOOPS; i += 1) add({ x: 1, y: 2 });
printCase('Node: plain loop', LOOPS, cpu() - loopBegan);
await measure('Node: sync', add);
await measure('Node: async', async (input) => add(input));
