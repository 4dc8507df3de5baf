// `test` for soaks. node:test follows every promise with a hook; over millions of them what it holds on to hides a leak.
'use strict';

const tests = [];

/** As that of node:test: the tests run one after the other, or those whose names hold the first argument. Says what came of them in TAP. */
function test(name, options, body = options) {
  if (!name.includes(process.argv[2] ?? '')) return;
  if (tests.push({ name, options, body }) === 1) setImmediate(run);
}

async function run() {
  const counts = { pass: 0, fail: 0, skipped: 0 };
  for (const { name, options, body } of tests) {
    if (options.skip) {
      counts.skipped += 1;
      continue;
    }
    // What hangs is an end of the process with code 13: nothing is left to wait for.
    const error = await Promise.resolve().then(body).then(() => null, (reason) => reason ?? new Error('rejected'));
    counts[error ? 'fail' : 'pass'] += 1;
    console.log(`${error ? 'not ok' : 'ok'} - ${name}`);
    if (error) console.log(error);
  }
  for (const [what, count] of Object.entries(counts)) console.log(`# ${what} ${count}`);
  process.exitCode = counts.fail ? 1 : 0;
}

module.exports = { test };
