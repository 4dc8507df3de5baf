// Other processes: scripts that a test runs, with the package at hand.
'use strict';

const { spawn } = require('node:child_process');
const path = require('node:path');

const PACKAGE = path.join(__dirname, '../../index.js');

/** Begins a script in a process of its own; it finds the package in `lomusai`, its arguments in `process.argv`. */
function begin(script, { args = [], env = {}, flags = [] } = {}) {
  const code = `const lomusai = require(${JSON.stringify(PACKAGE)});\n(async () => {\n${script}\n})().catch((error) => { console.error(error); process.exit(9); });`;
  const child = spawn(process.execPath, [...flags, '-e', code, '--', ...args], {
    env: { ...process.env, NODE_TEST_CONTEXT: undefined, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [out, err] = ['', ''];
  child.stdout.on('data', (data) => (out += data));
  child.stderr.on('data', (data) => (err += data));
  const ended = new Promise((resolve) => {
    child.on('close', (code, signal) => resolve({ code, signal, out, err }));
  });
  const said = (text) =>
    new Promise((resolve, reject) => {
      const look = () => out.includes(text) && resolve(out);
      look();
      child.stdout.on('data', look);
      child.on('close', () => reject(new Error(`it ended without saying ${text}: ${out}${err}`)));
    });
  return { child, ended, said };
}

/** Runs a script to its end, at most so long. */
async function run(script, { timeoutMs = 20_000, ...options } = {}) {
  const { child, ended } = begin(script, options);
  const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
  const result = await ended;
  clearTimeout(timer);
  return result;
}

module.exports = { PACKAGE, begin, run };
