// Agents: a spec, the functions it names, and the engine it runs on.
'use strict';

const { Engine } = require('./engine');
const { encode, snake } = require('./json');
const { native, sync } = require('./native');
const { isProvider } = require('./provider');
const { isStandard, toJsonSchema, validate } = require('./schema');
const { Tool } = require('./tool');

/** Options of a call that are not fields of the spec. */
const REQUEST = ['history', 'thread', 'resource', 'run_id', 'context', 'transient', 'detached', 'on_busy'];

/**
 * A model with instructions, tools and rules. With an `engine` it is registered there at once; without, it gets one of its own, in
 * memory, when it first runs.
 */
class Agent {
  #options;
  #engine;
  #output;

  constructor({ engine, ...options }) {
    this.#options = options;
    this.name = options.name;
    this.#output = outputSpec(options.output, `the output schema of agent \`${options.name}\``);
    if (engine) {
      engine.register(this);
      this.#engine = engine;
    }
  }

  /** The engine it runs on. */
  get engine() {
    if (this.#engine === undefined) {
      const engine = new Engine();
      engine.register(this);
      this.#engine = engine;
    }
    return this.#engine;
  }

  /** For {@link Engine.register}. @internal */
  registerOn(engine, registrar) {
    if (engine.has('agent', this.name, this)) return;
    for (const agent of this.#options.agents ?? []) if (agent instanceof Agent) engine.register(agent);
    registrar((parts) => {
      const spec = this.#spec(parts);
      parts.agent(spec, this);
    });
    this.#engine ??= engine;
  }

  /** The spec as the engine takes it; what it names is registered on the way. */
  #spec(parts) {
    const { name, model, instructions, tools, agents, stop, approval, processors, hooks, limits, settings, output,
      fallbacks, budget, ...rest } = this.#options;
    // What has no name stands for itself by a number, until the engine has named it: it is called the same in every language.
    const nameless = [];
    const placeholder = (thing) => `#${nameless.push(thing) - 1}`;
    const named = (value) => (typeof value === 'function' ? placeholder(value) : value);
    const spec = { ...snake(rest), name };
    spec.model = isProvider(model) ? (model.name ?? placeholder(model)) : model;
    if (isProvider(model) && model.name !== undefined) parts.provider(model.name, model);
    if (typeof instructions === 'function') {
      spec.instructions = { function: named(({ agent, input }, context) => instructions({ agent, input }, context)) };
    } else if (instructions !== undefined) {
      spec.instructions = instructions;
    }
    if (tools) {
      spec.tools = Array.from(tools, (tool) => {
        if (!(tool instanceof Tool)) return tool;
        parts.tool(tool);
        return tool.name;
      });
    }
    if (agents) spec.agents = Array.from(agents, (agent) => (agent instanceof Agent ? agent.name : agent));
    if (stop) {
      spec.stop = Array.from(stop, (rule) => (typeof rule === 'function' ? { type: 'function', function: named(rule) } : rule));
    }
    if (approval === true) spec.approval = 'always';
    else if (typeof approval === 'function') spec.approval = { function: named(approval) };
    else if (approval !== undefined && approval !== false) spec.approval = approval;
    if (processors) {
      spec.processors = snake(processors);
      for (const phase of ['input', 'step', 'stream', 'output']) {
        if (!processors[phase]) continue;
        spec.processors[phase] = [processors[phase]].flat().map(named);
      }
    }
    if (hooks) {
      spec.hooks = Object.fromEntries(Object.entries(snake(hooks)).map(([hook, fn]) => [hook, named(fn)]));
    }
    if (limits !== undefined) spec.limits = snake(limits);
    if (settings !== undefined) spec.settings = snake(settings);
    if (budget !== undefined) spec.budget = snake(budget);
    if (fallbacks) spec.fallbacks = Array.from(fallbacks, fallback);
    if (this.#output) spec.output = this.#output.spec;
    return nameless.length > 0 ? { ...spec, ...nameParts(spec, nameless, parts) } : spec;
  }

  /** Runs the agent and gives what it came to. */
  async generate(input, options = {}) {
    const { engine, request, run } = this.#request(input, options);
    return engine.generate(request, run);
  }

  /** Runs the agent and gives its events. What is wrong with the request is thrown at once. */
  stream(input, options = {}) {
    const { engine, request, run } = this.#request(input, options);
    return engine.run(request, run);
  }

  #request(input, { signal, engine = this.engine, output, clientTools, settings, budget, ...rest }) {
    const request = { agent: this.name, input };
    const options = {};
    for (const [key, value] of Object.entries(snake(rest))) {
      if (value !== undefined) (REQUEST.includes(key) ? request : options)[key] = value;
    }
    const shape = outputSpec(output, 'the output schema of the run') ?? this.#output;
    if (output !== undefined) options.output = shape.spec;
    if (settings !== undefined) options.settings = snake(settings);
    if (budget !== undefined) options.budget = snake(budget);
    if (clientTools !== undefined) options.client_tools = Array.from(clientTools, (tool) => (tool instanceof Tool ? tool.spec : tool));
    if (Object.keys(options).length > 0) request.options = options;
    return { engine, request, run: { signal, finalize: shape?.finalize } };
  }
}

/** Has the engine name what has no name, and registers it. Gives the parts of the spec that may name something. */
function nameParts({ name, model, instructions, approval, stop, processors, hooks }, nameless, parts) {
  const text = encode({ name, model, instructions, approval, stop, processors, hooks }, 'the spec');
  const { spec, functions } = JSON.parse(sync(() => native.nameFunctions(text)));
  for (const [place, called] of Object.entries(functions)) {
    const thing = nameless[Number(place.slice(1))];
    if (isProvider(thing)) parts.provider(called, thing);
    else parts.function(called, thing);
  }
  return spec;
}

/** An entry of a list of fallbacks as the engine takes it. */
function fallback(entry) {
  if (typeof entry === 'string') return { model: entry };
  const wire = snake(entry);
  if (wire.settings) wire.settings = snake(wire.settings);
  return wire;
}

/** An output as the engine takes it, and what makes the schema's own value of an answer. */
function outputSpec(output, what) {
  if (output === undefined || output === null) return undefined;
  const whole = !isStandard(output) && typeof output === 'object' && 'schema' in output;
  const { schema, ...rest } = whole ? output : { schema: output };
  const spec = { ...rest, schema: toJsonSchema(schema, what) };
  if (!isStandard(schema)) return { spec };
  const finalize = async (result) => {
    if (result.object !== undefined) result.object = await validate(schema, result.object, 'output_invalid', 'the answer’s fields');
    return result;
  };
  return { spec, finalize };
}

module.exports = { Agent };
