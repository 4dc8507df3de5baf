// The examples do what they say.
'use strict';

const assert = require('node:assert/strict');
const { execFile } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { after, before, test } = require('node:test');
const { promisify } = require('node:util');

const EXAMPLES = path.join(__dirname, '../../../examples/node');
const OUTPUT = {
  'hello.mjs': 'Hello, world!\n',
  'tools.mjs': /^error .*city.*\nok \{"celsius":21,"city":"Ghent","sky":"clear"\}\nIt is 21 degrees/,
  'provider.mjs': 'the sea is salt {"input":15,"output":15}\n',
  'stream.mjs': /^progress \{"n":1\}\nprogress \{"n":2\}\nprogress \{"n":3\}\ntext One \n[^]*finished completed\nOne two three\.\nOne two three\.\n$/,
  'workflow.mjs': "suspended boss\npaying back 120 under the key refund-1/pay\ncompleted [ 'told Ada', 'told Bob' ]\n",
  'approval.mjs': 'suspended pay {"amount":5}\ncompleted Paid 5.\n',
};

// The examples import the package by its name, as users do: from a folder where it is linked in.
let folder;

before(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'lomusai-'));
  fs.mkdirSync(path.join(folder, 'node_modules/@lomusai'), { recursive: true });
  fs.symlinkSync(path.join(__dirname, '..'), path.join(folder, 'node_modules/@lomusai/node'));
  for (const file of fs.readdirSync(EXAMPLES)) fs.copyFileSync(path.join(EXAMPLES, file), path.join(folder, file));
});

after(() => fs.rmSync(folder, { recursive: true, force: true }));

test('every example has a test', () => {
  assert.deepEqual(fs.readdirSync(EXAMPLES).sort(), Object.keys(OUTPUT).sort());
});

for (const [file, expected] of Object.entries(OUTPUT)) {
  test(`examples/node/${file}`, async () => {
    const { stdout, stderr } = await promisify(execFile)(process.execPath, [path.join(folder, file)], { timeout: 30_000 });
    if (typeof expected === 'string') assert.equal(stdout, expected);
    else assert.match(stdout, expected);
    assert.equal(stderr, '');
  });
}
