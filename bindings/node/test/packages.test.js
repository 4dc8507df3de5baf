// What is published, installed in a clean folder, runs the README's program.
'use strict';

const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { test } = require('node:test');
const { platform } = require('../lib/loader.js');
const { pack } = require('../scripts/pack.js');

const programs = ['../README.md', '../../../README.md'].map((file) => {
  return fs.readFileSync(path.join(__dirname, file), 'utf8').match(/```js\n([\s\S]*?)```/)[1];
});

test('the packed packages install in a clean folder and run as ESM and CommonJS', { timeout: 120_000 }, () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'lomusai-'));
  const npm = (...words) => execFileSync('npm', words, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  const node = (file) => execFileSync(process.execPath, [file], { cwd: folder, encoding: 'utf8' });
  try {
    const library = path.join(__dirname, `../native/lomusai.${platform()}.node`);
    const [main, part] = pack(library, folder);
    fs.writeFileSync(path.join(folder, 'package.json'), '{ "name": "user", "version": "1.0.0", "private": true }\n');
    // The platform's package first, and nothing else from a registry: the other platforms' packages are optional.
    npm('install', '--offline', '--no-audit', '--no-fund', part);
    npm('install', '--offline', '--no-audit', '--no-fund', '--omit=optional', main);
    assert.ok(!fs.existsSync(path.join(folder, 'node_modules/@lomusai/node/native')));

    for (const program of programs) {
      fs.writeFileSync(path.join(folder, 'app.mjs'), program);
      assert.equal(node('app.mjs'), '1 + 2 is 3.\n');

      const required = program.replace(/import (\{.*?\}) from '@lomusai\/node';/s, "const $1 = require('@lomusai/node');");
      fs.writeFileSync(path.join(folder, 'app.cjs'), `(async () => {\n${required}\n})();\n`);
      assert.equal(node('app.cjs'), '1 + 2 is 3.\n');
    }

    // Without the compiled part, the error says what is missing.
    fs.rmSync(path.join(folder, 'node_modules/@lomusai', `node-${platform()}`), { recursive: true });
    assert.throws(() => node('app.mjs'), (error) => error.stderr.includes(`@lomusai/node-${platform()}`));
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
});

test('the compiled part with models in the process is taken where it is installed, in the same version', () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'lomusai-'));
  const { version } = require('../package.json');
  const own = path.join(folder, 'node_modules/@lomusai/node');
  const local = path.join(folder, 'node_modules/@lomusai/local');
  const load = (as) => {
    fs.writeFileSync(path.join(local, 'package.json'), JSON.stringify({ name: '@lomusai/local', version: as }));
    const program = `console.log(require(${JSON.stringify(path.join(own, 'lib/loader.js'))}).load())`;
    return execFileSync(process.execPath, ['-e', program], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  };
  try {
    fs.cpSync(path.join(__dirname, '../lib'), path.join(own, 'lib'), { recursive: true });
    fs.copyFileSync(path.join(__dirname, '../package.json'), path.join(own, 'package.json'));
    fs.mkdirSync(local, { recursive: true });
    fs.writeFileSync(path.join(local, 'index.js'), 'exports.load = (platform) => `taken for ${platform}`;\n');
    assert.equal(load(version), `taken for ${platform()}\n`);
    assert.throws(() => load('0.0.1'), new RegExp(`@lomusai/local 0.0.1 does not fit @lomusai/node ${version}: npm install`));
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
});
