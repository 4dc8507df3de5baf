// The vectors that every language runs.
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { test } = require('node:test');
const canonical = require('./support/canonical.js');
const { play, readAll } = require('./support/vectors.js');

test('the worked example of the guide has its lines and its digest', () => {
  const guide = fs.readFileSync(path.join(__dirname, '../../../tests/conformance/README.md'), 'utf8');
  const example = (name) => guide.split(`<!-- example: ${name} -->`)[1].match(/```\w*\n([\s\S]*?)\n```/)[1];
  const journal = JSON.parse(example('journal'));
  assert.deepEqual(canonical.lines(journal), example('lines').split('\n'));
  assert.equal(canonical.digest(journal), example('digest').trim());
});

for (const vector of readAll()) {
  test(vector.name, { timeout: 30_000 }, async () => {
    assert.deepEqual(await play(vector), [], vector.file);
  });
}
