// One of the peers, from Node: `node --expose-gc peer.mjs JOB [N]`, against the server `MOCK_URL`, prints one line. The jobs are the Rust program's.
import { Agent, Engine, compatible, tool } from '@lomusai/node';

const [job, size] = process.argv.slice(2);
const add = tool({
  name: 'add',
  description: 'Add two numbers',
  inputSchema: { type: 'object', properties: { a: { type: 'number' }, b: { type: 'number' } }, required: ['a', 'b'] },
  execute: ({ a, b }) => ({ sum: a + b }),
});

function agent(engine, name, tools) {
  return new Agent({ name, model: 'mock/mock', instructions: 'You are a helpful assistant.', tools, maxSteps: 20, engine });
}

async function turn(one, prompt) {
  const { text } = await one.generate(prompt);
  if (!text) throw new Error('no text');
}

async function timed(work) {
  const [cpu, wall] = [process.cpuUsage(), performance.now()];
  await work();
  const { user, system } = process.cpuUsage(cpu);
  return { wall_s: (performance.now() - wall) / 1e3, cpu_s: (user + system) / 1e6 };
}

async function times(n, work) {
  for (let i = 0; i < n; i += 1) await work(i);
}

function heap() {
  globalThis.gc?.();
  return process.memoryUsage().heapUsed;
}

const jobs = {
  async J0(engine, n = 10_000) {
    const kept = [];
    // An agent that is given an engine is registered there.
    const make = (i) => kept.push(agent(engine, `agent${i}`, [add]));
    await times(200, (i) => make(-1 - i));
    const before = heap();
    const took = await timed(() => times(n, make));
    return { n, ...took, extra: { us_per_agent: (took.wall_s * 1e6) / n, bytes_per_agent: (heap() - before) / n, kept: kept.length } };
  },
  async J1(engine) {
    return { n: 1, ...(await timed(() => turn(agent(engine, 'agent', [add]), 'hello tools:1'))), extra: {} };
  },
  async J2(engine, n = 500) {
    const one = agent(engine, 'agent', []);
    await times(100, () => turn(one, 'hello'));
    const laps = [];
    const took = await timed(() =>
      times(n, async () => {
        const began = performance.now();
        await turn(one, 'hello');
        laps.push((performance.now() - began) * 1e3);
      }),
    );
    laps.sort((a, b) => a - b);
    return { n, ...took, extra: { us_per_turn: (took.wall_s * 1e6) / n, min_us: laps[0], p50_us: laps[n >> 1] } };
  },
  async J3(engine, n = 50) {
    const one = agent(engine, 'agent', [add]);
    await times(10, () => turn(one, 'hello tools:10'));
    const took = await timed(() => times(n, () => turn(one, 'hello tools:10')));
    return { n, ...took, extra: { ms_per_turn: (took.wall_s * 1e3) / n, us_per_round: (took.wall_s * 1e6) / (n * 11) } };
  },
};

if (jobs[job]) {
  const engine = new Engine();
  const baseUrl = process.env.MOCK_URL ?? 'http://127.0.0.1:18080/v1';
  engine.registerProvider('mock', compatible({ baseUrl, apiKey: 'mock', stream: false }));
  const done = await jobs[job](engine, ...(size ? [Number(size)] : []));
  const { n, wall_s, cpu_s, extra } = done;
  const peak_rss_kb = process.resourceUsage().maxRSS;
  console.log(JSON.stringify({ peer: 'lomusai-node', job, n, wall_s, cpu_s, peak_rss_kb, extra }));
  await engine.close();
} else {
  console.log(JSON.stringify({ peer: 'lomusai-node', job, skip: 'no such job here' }));
}
