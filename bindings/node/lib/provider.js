// Models: your own provider, one that answers from a script, and any OpenAI-compatible endpoint.
'use strict';

const { snake } = require('./json');

/**
 * A model of your own: `class Mine extends LlmProvider { async *stream(request, ctx) { yield 'text'; } }`. Yields texts or chunks; a
 * `yield` waits while the run is behind.
 */
class LlmProvider {
  constructor({ name } = {}) {
    if (name !== undefined) this.name = name;
  }

  // eslint-disable-next-line require-yield
  async *stream() {
    throw new TypeError(`${this.constructor.name} must implement \`async *stream(request, ctx)\``);
  }
}

/** A provider that comes with the engine. */
class BuiltinProvider {
  constructor(config, name) {
    this.config = config;
    if (name !== undefined) this.name = name;
    // It may hold a key: not to be seen when somebody prints the agent.
    Object.defineProperty(this, 'config', { enumerable: false });
  }
}

/** A model that answers from JSON: the n-th model call of a run gets the n-th answer. For tests and examples. */
function scriptedModel(script, { name } = {}) {
  return new BuiltinProvider({ type: 'scripted', script }, name);
}

/** Models behind any server that speaks OpenAI's Chat Completions. */
function compatible({ name, ...config }) {
  const wire = snake(config);
  if (wire.timeouts) wire.timeouts = snake(wire.timeouts);
  return new BuiltinProvider({ ...wire, type: 'compatible' }, name);
}

function isProvider(value) {
  return value instanceof BuiltinProvider || (typeof value === 'object' && value !== null && typeof value.stream === 'function');
}

module.exports = { BuiltinProvider, LlmProvider, compatible, isProvider, scriptedModel };
