// Workflows: functions as steps, a builder for the graph, and the ways to run it. A builder only writes down what it was told: the engine
// turns the chain into a graph, the same one in every language.
'use strict';

const { Agent } = require('./agent');
const { StepContext, bailing, fail, outcome, settle, suspension } = require('./call');
const { Engine } = require('./engine');
const { InvalidError } = require('./errors');
const { encode, snake } = require('./json');
const { native, sync } = require('./native');
const { isStandard, toJsonSchema, validate } = require('./schema');
const { Tool, answeredLater, notFitting, prepare, then } = require('./tool');

// --- Values --------------------------------------------------------------------------------------------------------------------

/** A value that is made while a run goes on: what `path` and `expr` give. */
class Made {
  constructor(mapping) {
    this.mapping = mapping;
  }
}

/** What is at a path: `input.user.id`, `steps.fetch.items.0`, `state.total`, `item`, `index`, `iteration`. What is not there is null. */
function path(of) {
  return new Made({ from: of });
}

/** What an expression gives: `expr("'Dear ' ~ input.name")`. */
function expr(text) {
  return new Made({ expr: text });
}

/** A mapping as the engine takes it: objects and lists may hold paths and expressions, all else stands for itself. */
function mapping(value) {
  if (value instanceof Made) return value.mapping;
  if (!hasMade(value)) return { value };
  if (Array.isArray(value)) return { list: value.map(mapping) };
  return { object: Object.fromEntries(Object.entries(value).map(([key, item]) => [key, mapping(item)])) };
}

function hasMade(value) {
  if (value instanceof Made) return true;
  return value !== null && typeof value === 'object' && Object.values(value).some(hasMade);
}

const retrySpec = (retry) => (typeof retry === 'number' ? { max: retry } : snake(retry));

// --- Steps ---------------------------------------------------------------------------------------------------------------------

/** A failure that no further attempt can mend. */
class FatalError extends InvalidError {
  constructor(message, options) {
    super({ kind: 'invalid', code: 'step_fatal', message }, options);
  }
}

/** A step of a workflow: what it runs, and what it says of its place. Made by {@link step}. Its methods give changed copies. */
class Step {
  #condition;

  constructor(run, { name = '', id = '', component, execute, onCall, schemas = {}, fields = {} } = {}) {
    this.name = name;
    this.execute = execute;
    this.onCall = onCall;
    this.component = component;
    this.inputSchema = schemas.inputSchema;
    this.outputSchema = schemas.outputSchema;
    this.suspendSchema = schemas.suspendSchema;
    this.resumeSchema = schemas.resumeSchema;
    /** What is said of it so far, as the engine takes it. */
    this.spec = { id, run, ...fields };
    for (const [key, schema] of Object.entries(schemas)) {
      if (schema !== undefined) this.spec[snakeKey(key)] = toJsonSchema(schema, `the ${key} of step \`${name}\``);
    }
    /** What the step is to the engine that has it, through all its copies. */
    this.origin = this;
  }

  /** Whether it has a function, and does not only name one. */
  get hasFunction() {
    return this.execute !== undefined || this.onCall !== undefined;
  }

  /** Its id in the workflow; empty where the engine is to make one. */
  get id() {
    return this.spec.id;
  }

  #copy(fields) {
    const copy = Object.assign(new Step(this.spec.run), this);
    copy.spec = { ...this.spec, ...fields };
    copy.#condition = this.#condition;
    return copy;
  }

  /** The same, behind these steps, in place of behind the link before. */
  after(...steps) {
    return this.#copy({ after: steps.flat().map((one) => (typeof one === 'string' ? one : one.id)) });
  }

  /** The same, run only if this holds: an expression, or a function that is asked. One that fails counts as not holding. */
  when(condition) {
    const copy = this.#copy();
    copy.#condition = condition;
    return copy;
  }

  /** The same, given this in place of what the step before gave. */
  takes(input) {
    return this.#copy({ input: mapping(input) });
  }

  /** The same, saying what becomes of it when steps before it were skipped: `any` (default), `all` or `none`. */
  needs(needs) {
    return this.#copy({ needs });
  }

  /** The same under another id. */
  named(id) {
    return this.#copy({ id });
  }

  /** The same, tried again so often when it fails. */
  retried(retry) {
    return this.#copy({ retry: retrySpec(retry) });
  }

  /** The same, with words about it. */
  describe(description) {
    return this.#copy({ description });
  }

  /** For {@link Engine.register}. @internal */
  registerOn(engine, registrar) {
    registrar((parts) => parts.step(this.name, this));
  }

  /** The condition it was given. @internal */
  static condition(step) {
    return step.#condition;
  }

  /** The step as the engine calls it. @internal */
  get callable() {
    const step = this.origin;
    if (step.onCall) return answeredLater(step.onCall);
    return (input, facts, answer) => {
      const context = new StepContext(answer, facts, input);
      const failed = (error) => fail(context, error, notFitting.has(error) ? 'arguments' : undefined);
      outcome(
        () => then(prepare(step, input, context, 'input_invalid', 'input'), (args) => step.execute(args, context)),
        (value) => give(step, context, value, failed),
        failed,
      );
    };
  }
}

function give(step, context, value, failed) {
  const send = (reply) => {
    const fields = Object.entries({ ...reply, state: StepContext.sets(context) }).filter(([, value]) => value !== undefined);
    // One by one: as part of an object, what is no JSON would just be left out.
    const text = () => `{${fields.map(([key, value]) => `"${key}":${encode(value, 'the answer')}`).join()}}`;
    settle(context, (answer) => answer.reply(text()));
  };
  const { [suspension]: suspended, [bailing]: bailed } = context;
  if (bailed) {
    send({ bail: bailed.result ?? null });
  } else if (suspended) {
    const check = () => validate(step.suspendSchema, suspended.payload, 'step_result_invalid', `the payload of \`${step.name}\``);
    outcome(check, (payload) => send({ suspend: payload ?? null, label: suspended.label }), failed);
  } else {
    send({ output: value ?? null });
  }
}

const snakeKey = (key) => Object.keys(snake({ [key]: 0 }))[0];

/**
 * A step of a function: `step({ name, execute })`. With a name alone it is a step whose function is registered under that name.
 */
function step(options) {
  if (typeof options === 'string') return new Step({ step: options }, { name: options, id: idOf(options) });
  const { name, id, description, inputSchema, outputSchema, suspendSchema, resumeSchema, retry, timeoutMs, metadata, execute, onCall } = options;
  const fields = {};
  if (description !== undefined) fields.description = description;
  if (retry !== undefined) fields.retry = retrySpec(retry);
  if (timeoutMs !== undefined) fields.timeout_ms = timeoutMs;
  if (metadata !== undefined) fields.metadata = metadata;
  const schemas = { inputSchema, outputSchema, suspendSchema, resumeSchema };
  return new Step({ step: name }, { name, id: id ?? idOf(name), execute, onCall, schemas, fields });
}

/** The id of a step that runs a component of this name. */
const idOf = (name) => String(name).replaceAll('.', '_').replace(/^_+/, '');

/** A step of a function that has no name: it is called by its place in the workflow. */
const anonymous = (execute, id = '') => new Step({ step: '' }, { id, execute });

/** What a link runs, as a step. */
function asStep(one) {
  if (one instanceof Step) return one;
  if (typeof one === 'string') return step(one);
  if (one instanceof Workflow) return new Step({ workflow: one.name }, { component: one });
  if (one instanceof Agent) return new Step({ agent: one.name }, { component: one });
  if (one instanceof Tool) return new Step({ tool: one.name }, { component: one });
  if (typeof one === 'function') return anonymous(one);
  throw argument(`a step is made by step({ name, execute }), or is a function, an agent, a tool, a workflow or a name, not ${typeof one}`);
}

function argument(message) {
  return new InvalidError({ kind: 'invalid', code: 'argument_invalid', message });
}

// --- Workflows -----------------------------------------------------------------------------------------------------------------

/** Fields of a request. */
const REQUEST = ['runId', 'context', 'transient', 'state', 'detached'];

/**
 * A workflow that is built by its methods, each of which gives a longer one. Made by {@link workflow}.
 *
 * A link comes after all steps before it that nothing else comes after. Steps in one link run side by side. What a step gives is the next
 * one's input.
 */
class Workflow {
  #options;
  #engine;
  #chain = [];
  #steps = [];
  #callables = [];
  #drafted;

  constructor(name, { engine, ...options } = {}) {
    this.name = name;
    this.#options = options;
    this.#engine = engine;
  }

  /** The engine it runs on. */
  get engine() {
    return (this.#engine ??= new Engine());
  }

  // --- Building it -------------------------------------------------------------------------------------------------------------

  /** One more step: a step, a function, an agent, a tool, a workflow, or the name of a registered step function. */
  then(one, rejected) {
    // What has a `then` looks like a promise to `await`.
    if (typeof rejected === 'function') return void rejected(argument(`workflow \`${this.name}\` is no promise: do not await it`));
    return this.#longer((said) => ({ then: said.step(one) }));
  }

  /** Steps side by side. Gives an object of what each gave, by id. */
  parallel(steps) {
    return this.#longer((said) => ({ parallel: Array.from(steps, said.step) }));
  }

  /**
   * Steps with a condition each, `[condition, step]`. All whose condition holds run, side by side; one that fails counts as not holding.
   * Gives an object of what those gave that ran, by id. What follows runs whichever did.
   */
  branch(arms) {
    return this.#longer((said) => ({ branch: Array.from(arms, ([condition, one]) => said.step(asStep(one).when(condition))) }));
  }

  /** A step for each item of the list that the step before gave. Gives the list of what each gave, in order. */
  foreach(one, { concurrency, id } = {}) {
    return this.#longer((said) => ({ foreach: { step: said.step(one), id, concurrency } }));
  }

  /** A step that runs, and again with what it gave as long as the condition holds. The condition sees `output` and `iteration`. */
  dowhile(one, condition, { max, id } = {}) {
    return this.#longer((said) => ({ loop: { step: said.step(one), while: said.condition(condition), id, max } }));
  }

  /** As `dowhile`, until the condition holds. */
  dountil(one, condition, { max, id } = {}) {
    return this.#longer((said) => ({ loop: { step: said.step(one), until: said.condition(condition), id, max } }));
  }

  /** Works a value out: `path(…)`, `expr(…)`, or objects and lists in which they are; or a function of the input. */
  map(value, { id } = {}) {
    if (typeof value === 'function') return this.then(anonymous(value, id));
    return this.#plain({ map: mapping(value) }, id);
  }

  /** Waits so many milliseconds, across restarts. */
  sleep(ms, { id } = {}) {
    return this.#plain({ sleep: mapping(ms) }, id);
  }

  /** Waits until then: a `Date`, or milliseconds since 1970. */
  sleepUntil(time, { id } = {}) {
    return this.#plain({ sleep_until: mapping(time instanceof Date ? time.getTime() : time) }, id);
  }

  /** Waits for a signal, and gives its data. One that came earlier counts. */
  waitFor(signal, { timeoutMs, dataSchema, id } = {}) {
    return this.#plain({ wait: { signal, timeout_ms: timeoutMs } }, id, dataSchema);
  }

  /** Waits for `resume`, and gives its data. */
  suspend({ payload, label, dataSchema, id } = {}) {
    return this.#plain({ suspend: { payload: payload === undefined ? undefined : mapping(payload), label } }, id, dataSchema);
  }

  /** Ends the run as a success with this; with `when` only if that holds. */
  bail(result = null, { when, id = '' } = {}) {
    const one = new Step({ bail: mapping(result) }, { id });
    return this.then(when === undefined ? one : one.when(when));
  }

  /** Steps in the style of dependencies: each comes after what it says by `after`, and after nothing else. */
  add(...steps) {
    return this.#longer((said) => ({ steps: steps.flat().map(said.step) }));
  }

  /** What the run comes to, as in `map`. Default: what the last link gives. */
  output(value) {
    const longer = this.#copy();
    longer.#options = { ...this.#options, output: mapping(value) };
    return longer;
  }

  #copy() {
    const copy = new Workflow(this.name, { ...this.#options, engine: this.#engine });
    copy.#chain = [...this.#chain];
    copy.#steps = [...this.#steps];
    copy.#callables = [...this.#callables];
    return copy;
  }

  /** The workflow with one more link, which `link` says in terms of steps and conditions. */
  #longer(link) {
    const longer = this.#copy();
    const placeholder = (callable) => `#${longer.#callables.push(callable) - 1}`;
    const condition = (told) => (typeof told === 'function' ? { function: placeholder(told) } : { expr: told });
    const said = {
      condition,
      step(one) {
        const made = asStep(one);
        const spec = { ...made.spec };
        const when = Step.condition(made);
        if (when !== undefined) spec.when = condition(when);
        if (spec.run.step === '') spec.run = { step: placeholder(made) };
        longer.#steps.push(made);
        return spec;
      },
    };
    longer.#chain.push(link(said));
    return longer;
  }

  #plain(run, id = '', dataSchema) {
    const resume_schema = toJsonSchema(dataSchema, `the data of a wait of workflow \`${this.name}\``);
    return this.#longer(() => ({ then: { id, run, resume_schema } }));
  }

  /** The workflow's spec, as in every language. */
  get spec() {
    return this.#draft().spec;
  }

  #draft() {
    if (this.#drafted === undefined) {
      const { inputSchema, outputSchema, retry, limits, ...rest } = this.#options;
      const what = (schema) => `the ${schema} of workflow \`${this.name}\``;
      const draft = {
        ...snake(rest),
        name: this.name,
        input_schema: toJsonSchema(inputSchema, what('inputSchema')),
        output_schema: toJsonSchema(outputSchema, what('outputSchema')),
        retry: retry === undefined ? undefined : retrySpec(retry),
        limits: limits === undefined ? undefined : snake(limits),
        chain: this.#chain,
      };
      this.#drafted = JSON.parse(sync(() => native.draftWorkflow(encode(draft, "the workflow's draft"))));
    }
    return this.#drafted;
  }

  /** For {@link Engine.register}. @internal */
  registerOn(engine, registrar) {
    if (engine.has('workflow', this.name, this)) return;
    const { spec, functions } = this.#draft();
    for (const { component } of this.#steps) if (component !== undefined) engine.register(component);
    registrar((parts) => {
      for (const one of this.#steps) if (one.hasFunction && one.name !== '') parts.step(one.name, one);
      for (const [placeholder, name] of Object.entries(functions)) {
        const callable = this.#callables[Number(placeholder.slice(1))];
        if (callable instanceof Step) parts.step(name, callable);
        else parts.function(name, callable);
      }
      parts.workflow(spec, this);
    });
    this.#engine ??= engine;
  }

  // --- Running it --------------------------------------------------------------------------------------------------------------

  #ready() {
    const { engine } = this;
    if (!engine.has('workflow', this.name, this)) engine.register(this);
    return engine;
  }

  #request(input, options) {
    const said = Object.fromEntries(REQUEST.filter((key) => options[key] !== undefined).map((key) => [key, options[key]]));
    return { ...snake(said), workflow: this.name, input };
  }

  get #finalize() {
    const { outputSchema } = this.#options;
    if (!isStandard(outputSchema)) return undefined;
    return async (result) => {
      if (result.object !== undefined) result.object = await validate(outputSchema, result.object, 'output_invalid', 'the output’s fields');
      return result;
    };
  }

  /** Runs the workflow until it ends or waits for somebody. What it came to is the result's `object`. */
  async run(input, options = {}) {
    return this.#ready().generate(this.#request(input, options), { signal: options.signal, finalize: this.#finalize });
  }

  /** Runs the workflow and gives its events. */
  stream(input, options = {}) {
    return this.#ready().run(this.#request(input, options), { signal: options.signal, finalize: this.#finalize });
  }

  /** Begins a run that nobody waits for, and gives its id once its start is recorded. `result` waits for it later. */
  async start(input, options = {}) {
    return this.#ready().launch(this.#request(input, options));
  }

  /** What a run came to, or where it waits; waits while it is at work here. */
  async result(runId) {
    const result = await this.#ready().result(runId);
    return this.#finalize && result.error === undefined ? this.#finalize(result) : result;
  }

  /** Goes on with a step that suspended, which is given `data`, and gives what the run came to. */
  async resume(runId, data, { effectId, label, signal } = {}) {
    const command = { type: 'resume', effect_id: effectId, label, data };
    return this.#ready().stream(runId, command, { signal, finalize: this.#finalize }).result;
  }

  /** Takes up a run that failed, and gives what it came to: what was done stays done, what failed begins again. */
  async retry(runId, { signal } = {}) {
    return this.#ready().stream(runId, { type: 'retry' }, { signal, finalize: this.#finalize }).result;
  }

  /** Tells a run that something happened; done once that is recorded. Kept until a step waits for it. */
  async signal(runId, name, data) {
    await this.#ready().signal(runId, name, data);
  }

  /** Asks for a run to be cancelled; done once that is recorded. */
  async cancel(runId, options) {
    await this.#ready().cancel(runId, options);
  }
}

/** A workflow without steps, to be built: `workflow('refund').then(check).branch([…])`. */
function workflow(name, options) {
  return new Workflow(name, options);
}

module.exports = { FatalError, Step, Workflow, expr, path, step, workflow };
