// The engine: components by name, runs, threads.
'use strict';

const { functionCallable, providerCallable } = require('./call');
const { InvalidError } = require('./errors');
const { encode, snake } = require('./json');
const { enter, keepContext, native, port, sync, wait } = require('./native');
const { BuiltinProvider, isProvider } = require('./provider');
const { Result, RunStream, observe } = require('./run');
const { Tool } = require('./tool');

/** An engine's options as the engine reads them. What is named by the host, such as a budget, keeps its name. */
function wireOptions(options) {
  const wire = snake(options);
  for (const table of ['budgets', 'provider_limits', 'providers']) {
    if (wire[table]) wire[table] = Object.fromEntries(Object.entries(wire[table]).map(([name, value]) => [name, snake(value)]));
  }
  if (Array.isArray(wire.retention)) wire.retention = wire.retention.map(snake);
  return wire;
}

/**
 * Runs agents. Without a `path`, runs are kept in memory. Opening runs nothing; `start()`, once everything is registered, goes on with
 * the runs that another process left.
 */
class Engine {
  #native;
  #id;
  /** The callables by number. The native engine knows only the numbers, so that it does not keep JavaScript's objects alive. */
  #callables = [];
  #components = new Map();
  #onLog;

  constructor(settings = {}) {
    // What is no object is told to be none, where taking it apart would lose it.
    const { onLog, ...rest } = settings ?? {};
    const options = typeof settings === 'object' ? rest : settings;
    this.#onLog = onLog;
    this.#id = enter(this);
    this.#native = sync(() => new native.Engine(port, this.#id, encode(wireOptions(options), "the engine's options")));
    if (onLog) sync(() => this.#native.log());
  }

  // --- Components ------------------------------------------------------------------------------------------------------

  /**
   * Registers agents, workflows, steps, tools, and providers that have a name. An agent or workflow brings along what it is made of.
   */
  register(...components) {
    for (const component of components.flat()) {
      if (component instanceof Tool) this.#tool(component);
      else if (typeof component?.registerOn === 'function') component.registerOn(this, this.#registrar);
      else if (isProvider(component) && component.name !== undefined) this.registerProvider(component.name, component);
      else throw argument('only agents, workflows, steps, tools and providers with a name can be registered: see also registerProvider()');
    }
    return this;
  }

  registerTool(tool) {
    this.#tool(tool);
    return this;
  }

  /** Registers a provider: an `LlmProvider`, any object with `stream(request, ctx)`, or one that comes with the engine. */
  registerProvider(name, provider) {
    this.#once('provider', name, provider, () => {
      if (provider instanceof BuiltinProvider) {
        this.#native.registerBuiltinProvider(String(name), encode(provider.config, `the settings of provider ${name}`));
      } else if (isProvider(provider)) {
        this.#native.registerProvider(String(name), this.#callable(providerCallable(provider)));
      } else {
        throw argument(`provider \`${name}\` must have a method \`stream(request, ctx)\``);
      }
    });
    return this;
  }

  /** Registers a function that specs can name. */
  registerFunction(name, fn) {
    if (typeof fn !== 'function') throw argument(`function \`${name}\` must be a function`);
    this.#once('function', name, fn, () =>
      this.#native.registerFunction(String(name), this.#callable(functionCallable(fn))),
    );
    return this;
  }

  /** Registers an embedder: `embed(texts)` answers one list of `dimensions` numbers per text. */
  registerEmbedder(name, dimensions, embed) {
    const answer = functionCallable(({ texts }, context) => embed(texts, context));
    this.#once('embedder', name, embed, () =>
      this.#native.registerEmbedder(String(name), dimensions, this.#callable(answer)),
    );
    return this;
  }

  /** Registers an agent by its spec, as the engine takes it. */
  registerSpec(spec) {
    this.#once('agent', spec?.name, spec, () => this.#native.registerAgent(encode(spec, "the agent's spec")));
    return this;
  }

  /** Registers a workflow by its spec, as the engine takes it. */
  registerWorkflow(spec) {
    this.#once('workflow', spec?.name, spec, () => this.#native.registerWorkflow(encode(spec, "the workflow's spec")));
    return this;
  }

  #step(name, step) {
    if (!step.hasFunction) throw argument(`step \`${name}\` names a function and has none: give it \`execute\``);
    return this.#once('step', name, step.origin, () => this.#native.registerStep(String(name), this.#callable(step.callable)));
  }

  /** Takes a component away. `false` if there was none. */
  unregister(kind, name) {
    this.#components.delete(`${kind} ${name}`);
    return sync(() => this.#native.unregister(String(kind), String(name)));
  }

  #tool(tool) {
    if (!(tool instanceof Tool)) throw argument('a tool is made by tool({ name, inputSchema, execute })');
    const added = [];
    try {
      for (const [name, callable] of tool.functions) {
        if (this.#once('function', name, tool, () => this.#native.registerFunction(name, this.#callable(callable)))) {
          added.push(['function', name]);
        }
      }
      const spec = encode(tool.spec, `the spec of tool ${tool.name}`);
      if (this.#once('tool', tool.name, tool, () => this.#native.registerTool(spec, this.#callable(tool.callable)))) {
        added.push(['tool', tool.name]);
      }
    } catch (error) {
      this.#takeBack(added);
      throw error;
    }
    return added;
  }

  /** What an agent or workflow registers its parts with: it remembers them, so that a refused one leaves nothing behind. */
  #registrar = (register) => {
    const added = [];
    try {
      register({
        tool: (tool) => added.push(...this.#tool(tool)),
        provider: (name, provider) => this.registerProvider(name, provider),
        function: (name, fn) => {
          this.registerFunction(name, fn);
          added.push(['function', name]);
        },
        step: (name, step) => {
          if (this.#step(name, step)) added.push(['step', name]);
        },
        workflow: (spec, workflow) =>
          this.#once('workflow', spec.name, workflow, () => this.#native.registerWorkflow(encode(spec, "the workflow's spec"))),
        agent: (spec, agent) =>
          this.#once('agent', spec.name, agent, () => this.#native.registerAgent(encode(spec, "the agent's spec"))),
      });
    } catch (error) {
      this.#takeBack(added);
      throw error;
    }
  };

  #takeBack(added) {
    for (const [kind, name] of added) this.unregister(kind, name);
  }

  /** Registering the very same thing again is fine: agents share tools. `false` if it was there. */
  #once(kind, name, component, register) {
    const key = `${kind} ${name}`;
    if (component !== undefined && this.#components.get(key) === component) return false;
    sync(register);
    this.#components.set(key, component);
    return true;
  }

  /** Whether this very thing is registered. */
  has(kind, name, component) {
    return this.#components.get(`${kind} ${name}`) === component;
  }

  #callable(callable) {
    return this.#callables.push(callable) - 1;
  }

  /** For the engine's side of the thread. @internal */
  callable(number) {
    return this.#callables[number];
  }

  /** For the engine's side of the thread. @internal */
  logged(level, target, message) {
    this.#onLog?.({ level, target, message });
  }

  // --- Runs --------------------------------------------------------------------------------------------------------------

  /** Begins a run and gives its events. `request` is a start request of an agent or a workflow, as the engine takes it. */
  run(request, options = {}) {
    return new RunStream(this, this.#begin(request, options), { ...options, detached: request.detached });
  }

  /** Begins a run and gives what it came to. No event is made for JavaScript. */
  generate(request, options = {}) {
    return RunStream.resultOf(this, this.#begin(request, options), options);
  }

  /** Begins a run that nobody waits for, and gives its id once its start is recorded. */
  launch(request) {
    return RunStream.begun(this, this.#begin({ ...request, detached: true }, {}));
  }

  #begin(request, { signal }) {
    signal?.throwIfAborted();
    const text = encode(request, 'the request');
    return sync(() => this.#native.run(text, keepContext()));
  }

  /** Goes on with runs that another process left. Register everything first. */
  start() {
    return this.#ask('start');
  }

  /** Runs, newest first; a filter narrows. */
  runs(filter = {}) {
    return this.#ask('runs', { ...snake(filter), status: typeof filter.status === 'string' ? [filter.status] : filter.status });
  }

  /** The line about a run. */
  runInfo(runId) {
    return this.#ask('run', { run_id: runId });
  }

  /** The models that are known: what each can do and costs, and whether it can be asked now. */
  models() {
    return this.#ask('models');
  }

  /** The shared budgets, and what was spent of each. */
  budgets() {
    return this.#ask('budgets');
  }

  /** Runs that wait for a command. */
  pending() {
    return this.#ask('pending');
  }

  /** What a run came to, or where it waits; waits while it is at work here. A run that failed has its error as `error`. */
  async result(runId) {
    return new Result(await this.#ask('result', { run_id: runId }), this);
  }

  /** A run's journal. */
  export(runId) {
    return this.#ask('export', { run_id: runId });
  }

  /** The digest of a run's journal. */
  digest(runId) {
    return this.#ask('digest', { run_id: runId });
  }

  /** The digest of a journal that was exported. */
  digestOf(events) {
    return this.#ask('digest_of', { events });
  }

  deleteRun(runId) {
    return this.#ask('delete_run', { run_id: runId });
  }

  /** Sends a command to a run, wherever it stands; done once it is recorded. The run goes on without a reader. */
  async send(runId, command) {
    await this.#ask('command', { run_id: runId, command });
  }

  /** Sends a command to a suspended run and gives its events from there. */
  stream(runId, command, options = {}) {
    const text = encode(command, 'the command');
    options.signal?.throwIfAborted();
    const run = wait((ticket) => this.#native.resume(ticket, String(runId), text, keepContext()), this);
    return new RunStream(this, run, { ...options, detached: true, runId });
  }

  /** Runs the tool that waits for approval, and gives what the run came to. */
  async approve(runId, { effectId, ...options } = {}) {
    return this.stream(runId, { type: 'approve', effect_id: effectId }, options).result;
  }

  /** Tells the model that the tool may not run, and gives what the run came to. */
  async decline(runId, { effectId, reason, ...options } = {}) {
    return this.stream(runId, { type: 'decline', effect_id: effectId, reason }, options).result;
  }

  /** Gives a suspended tool or step what it waits for, and gives what the run came to. */
  async resume(runId, data, { effectId, label, ...options } = {}) {
    return this.stream(runId, { type: 'resume', effect_id: effectId, label, data }, options).result;
  }

  /** Takes up a workflow's run that failed, and gives what it came to: what was done stays done, what failed begins again. */
  async retry(runId, options = {}) {
    return this.stream(runId, { type: 'retry' }, options).result;
  }

  /** Tells a workflow's run that something happened; done once that is recorded. Kept until a step waits for it. */
  signal(runId, name, data) {
    return this.send(runId, { type: 'signal', name, data });
  }

  /** Gives the result of a client tool, and gives what the run came to. */
  async toolResult(runId, output, { effectId, isError, ...options } = {}) {
    return this.stream(runId, { type: 'tool_result', effect_id: effectId, output, is_error: isError }, options).result;
  }

  /** Asks for a run to be cancelled; done once that is recorded. */
  cancel(runId, { graceMs, reason } = {}) {
    return this.send(runId, { type: 'cancel', grace_ms: graceMs, reason });
  }

  /** A run's events after `after`, those of the past first, beside its primary reader. */
  observe(runId, { after = 0 } = {}) {
    return observe(this.#native, runId, after);
  }

  // --- Runs, afterwards --------------------------------------------------------------------------------------------------

  /** Begins another run that is as this one was at some event, with one thing changed, and gives its id. It goes on without a reader. */
  async fork(runId, options = {}) {
    return (await this.#ask('fork', { ...snake(options), run_id: runId })).run_id;
  }

  /** Begins another run with the same input, and gives its id. It goes on without a reader. */
  async restart(runId, { newRunId } = {}) {
    return (await this.#ask('restart', { run_id: runId, new_run_id: newRunId })).run_id;
  }

  /** How two runs differ: where their journals part, and what each effect came to. */
  difference(left, right) {
    return this.#ask('difference', { left, right });
  }

  /** Draws a registered workflow by its name, a workflow or spec, or `{ runId }`: a run's workflow, and where its steps stand. */
  async picture(of, { format } = {}) {
    const what = typeof of === 'string' ? { workflow: of } : of?.runId === undefined ? { spec: specOf(of) } : { run_id: of.runId };
    return this.#ask('picture', { ...what, format });
  }

  /** Whether the unfinished runs of a workflow could go on under this workflow or spec, with the migrations that are registered. */
  async checkWorkflow(workflow) {
    return this.#ask('check_workflow', { spec: specOf(workflow) });
  }

  /** Registers how runs that began under the spec of the hash `from` go on under the registered one. */
  async registerMigration(migration) {
    const { workflow, ...rest } = migration ?? {};
    if (isComponent(workflow)) this.register(workflow);
    await this.#ask('register_migration', { ...rest, workflow: isComponent(workflow) ? workflow.name : workflow });
  }

  /** Removes runs that have ended and that a rule does not keep, and gives their ids. With `onlyTell`, removes nothing. */
  compact({ endedMsAgo } = {}) {
    return this.#ask('compact', { ended_ms_ago: endedMsAgo });
  }

  prune(rules, { onlyTell } = {}) {
    return this.#ask('prune', { rules: Array.isArray(rules) ? rules.map(snake) : rules, only_tell: onlyTell });
  }

  // --- Schedules ---------------------------------------------------------------------------------------------------------

  /** Puts a schedule into the store, in place of one of the same name. Each of its times begins one run. */
  async putSchedule(schedule) {
    const { from, until, ...rest } = schedule ?? {};
    return this.#ask('put_schedule', { from_ms: millis(from), until_ms: millis(until), ...snake(rest) });
  }

  /** The schedules of the store, by name. */
  schedules() {
    return this.#ask('schedules');
  }

  /** Lets a schedule rest, or with `{ paused: false }` go on. */
  pauseSchedule(name, { paused } = {}) {
    return this.#ask('pause_schedule', { name, paused });
  }

  /** Takes a schedule out of the store. `false` if there was none. Its runs stay. */
  deleteSchedule(name) {
    return this.#ask('delete_schedule', { name });
  }

  /** Begins the runs that are due now, and gives their ids. An engine that was started does this by itself. */
  fireDue() {
    return this.#ask('fire_due');
  }

  // --- Threads -----------------------------------------------------------------------------------------------------------

  thread(thread) {
    return this.#ask('thread', { thread });
  }

  threads({ resource, offset, limit } = {}) {
    return this.#ask('threads', { resource, offset, limit });
  }

  /** The messages of a conversation. */
  messages(thread) {
    return this.#ask('messages', { thread });
  }

  deleteThread(thread) {
    return this.#ask('delete_thread', { thread });
  }

  /** One vector per text. */
  embed(embedder, texts) {
    return this.#ask('embed', { embedder, texts });
  }

  // --- Ends --------------------------------------------------------------------------------------------------------------

  /**
   * Closes the engine: runs that have a reader are cancelled, detached ones of a durable store are left for the next `start()`. Doing it
   * twice is fine.
   */
  async close({ timeoutMs } = {}) {
    await wait((ticket) => this.#native.close(ticket, timeoutMs), this);
  }

  get closed() {
    return this.#native.closed;
  }

  /** Asks the engine something by name, as every other language can: see the engine's list of operations. */
  call(operation, params) {
    return this.#ask(String(operation), params);
  }

  async #ask(operation, params = {}) {
    const text = encode(params, `the parameters of ${operation}`);
    const answer = await wait((ticket) => this.#native.call(ticket, operation, text), this);
    return JSON.parse(answer);
  }
}

if (Symbol.asyncDispose) {
  Object.defineProperty(Engine.prototype, Symbol.asyncDispose, {
    value() {
      return this.close();
    },
    configurable: true,
    writable: true,
  });
}

/** Whether it registers itself, as workflows do. The class is not to be had here: its file needs this one. */
const isComponent = (one) => typeof one?.registerOn === 'function';
const specOf = (workflow) => (isComponent(workflow) ? workflow.spec : workflow);
const millis = (time) => (time instanceof Date ? time.getTime() : time);

function argument(message) {
  return new InvalidError({ kind: 'invalid', code: 'argument_invalid', message });
}

module.exports = { Engine };
