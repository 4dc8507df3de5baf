// The table of bad input: the same codes in every language. See tests/conformance/README.md.
'use strict';

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { test } = require('node:test');
const { Engine, LlmProvider, LomusaiError, step, tool } = require('../index.js');
const { BuiltinProvider } = require('../lib/provider.js');

const CONFORMANCE = path.join(__dirname, '../../../tests/conformance');
const CASES = JSON.parse(fs.readFileSync(path.join(CONFORMANCE, 'bad_input.json'), 'utf8'));
const NOBODY = 65534;

/** Makes the bad file and opens it. */
async function open(options, file) {
  if (!file) return new Engine(options).close();
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'lomusai-'));
  const name = path.join(folder, 'store.db');
  const attempt = () => new Engine({ ...camel(options), path: name });
  try {
    if (file === 'corrupt') fs.writeFileSync(name, 'This is not a database. '.repeat(1000));
    else await new Engine({ path: name }).close();
    if (file === 'newer') {
      const handle = fs.openSync(name, 'r+');
      fs.writeSync(handle, Buffer.from('7fffffff', 'hex'), 0, 4, 60);
      fs.closeSync(handle);
    }
    if (file === 'locked') {
      const holder = spawn('python3', [path.join(CONFORMANCE, 'hold_store.py'), name], { stdio: ['pipe', 'pipe', 'inherit'] });
      assert.equal(String((await once(holder.stdout, 'data'))[0]), 'locked\n');
      try {
        await attempt().close();
      } finally {
        holder.stdin.end();
        await once(holder, 'close');
      }
    } else if (file === 'read_only') {
      fs.chmodSync(name, 0o444);
      fs.chmodSync(folder, 0o555);
      const user = process.geteuid();
      if (user === 0) process.seteuid(NOBODY);
      let opened;
      try {
        opened = attempt();
      } finally {
        process.seteuid(user);
        fs.chmodSync(folder, 0o755);
      }
      await opened.close();
    } else {
      await attempt().close();
    }
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

const camel = (options) =>
  Object.fromEntries(Object.entries(options).map(([key, value]) => [key.replace(/_(.)/g, (_, c) => c.toUpperCase()), value]));

function act(engine, { does, args = {}, file, text }) {
  // This API takes values: one that JSON does not know stands for text that is none.
  if (text !== undefined) args = () => text;
  switch (does) {
    case 'open':
      return open(args, file);
    case 'register_tool': {
      const made = tool({ name: 'made', execute: () => null });
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
    case 'register_workflow':
      return engine.registerWorkflow(args);
    case 'register_step':
      return engine.register(step({ name: args.name, execute: () => null }));
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
  test(one.name, async () => {
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
