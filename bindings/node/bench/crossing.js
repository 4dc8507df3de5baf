// What a call of the engine to JavaScript and back costs in CPU, beside the same question without one. Prints a line per way:
// `node bench/crossing.js [CALLS]`. Build with --release before believing it.
'use strict';

const { execFileSync } = require('node:child_process');
const { Engine } = require('../index.js');

const CALLS = Number(process.argv[2] ?? 20_000);

async function measure(what, call, atOnce) {
  const loop = async (calls) => {
    for (let i = 0; i < calls; i += 1) await call();
  };
  await loop(500);
  const cpu = process.cpuUsage();
  await Promise.all(Array.from({ length: atOnce }, () => loop(CALLS / atOnce)));
  const { user, system } = process.cpuUsage(cpu);
  return { what, us: (user + system) / CALLS };
}

/** The fastest of a few: the others tell about the machine. */
function fastest(program) {
  const times = Array.from({ length: 5 }, () => {
    const start = process.hrtime.bigint();
    execFileSync(process.execPath, ['-e', program]);
    return Number(process.hrtime.bigint() - start) / 1e6;
  });
  return Math.min(...times);
}

async function main() {
  const engine = new Engine();
  engine.registerEmbedder('sync', 1, () => [[1]]);
  engine.registerEmbedder('async', 1, async () => [[1]]);
  const ask = (name) => () => engine.embed(name, ['x']);
  for (const atOnce of [1, 32]) {
    // A question that the engine answers by itself: what is left of the others is the crossing.
    const empty = await measure('no callable', () => engine.call('digest_of', { events: [] }), atOnce);
    for (const name of ['sync', 'async']) {
      const { us } = await measure(name, ask(name), atOnce);
      console.log(`${name}, ${atOnce} at once: ${(us - empty.us).toFixed(1)} us CPU per call (${us.toFixed(1)} less ${empty.us.toFixed(1)})`);
    }
  }
  const bare = fastest('0');
  const full = fastest(`require(${JSON.stringify(require.resolve('../index.js'))})`);
  console.log(`require('@lomusai/node'): ${(full - bare).toFixed(1)} ms more than an empty program of ${bare.toFixed(1)} ms`);
  await engine.close();
}

main();
