// The table of bad input: the same codes in every language. See tests/conformance/README.md.
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { test } = require('node:test');
const { Engine, LlmProvider, LomusaiError, tool } = require('../index.js');
const { BuiltinProvider } = require('../lib/provider.js');

const CASES = JSON.parse(fs.readFileSync(path.join(__dirname, '../../../tests/conformance/bad_input.json'), 'utf8'));

async function open(options, file) {
  if (!file) return new Engine(options).close();
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'lomusai-'));
  try {
    const name = path.join(folder, 'store.db');
    if (file === 'corrupt') {
      fs.writeFileSync(name, 'This is not a database. '.repeat(1000));
    } else {
      await new Engine({ path: name }).close();
      const handle = fs.openSync(name, 'r+');
      fs.writeSync(handle, Buffer.from('7fffffff', 'hex'), 0, 4, 60);
      fs.closeSync(handle);
    }
    await new Engine({ ...options, path: name }).close();
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

function act(engine, { does, args = {}, file }) {
  switch (does) {
    case 'open':
      return open(args, file);
    case 'register_tool': {
      const made = tool({ name: args.name, execute: () => null });
      made.spec = args;
      return engine.register(made);
    }
    case 'register_function':
      return engine.registerFunction(args.name, () => null);
    case 'register_provider':
      return engine.registerProvider(args.name, new LlmProvider());
    case 'register_builtin_provider':
      return engine.registerProvider(args.name, new BuiltinProvider(args.config));
    case 'register_agent':
      return engine.registerSpec(args);
    case 'unregister':
      return engine.unregister(args.kind, args.name);
    case 'run':
      return engine.generate(args);
    case 'command':
      return engine.send(args.run_id, args.command);
    case 'call':
      return engine.call(args.operation, args.params);
    case 'close':
      return engine.close();
    default:
      throw new Error(`unknown step ${does}`);
  }
}

for (const one of CASES) {
  // Raw text cannot be given: the API takes values.
  test(one.name, { skip: 'text' in one }, async () => {
    const engine = new Engine();
    for (const step of one.first ?? []) await act(engine, step);
    await assert.rejects(
      async () => act(engine, one),
      (error) => {
        assert.ok(error instanceof LomusaiError, String(error));
        assert.equal(error.code, one.code, error.message);
        assert.ok(error.message.length > 0);
        return true;
      },
    );
    await engine.close();
  });
}
