// Tools: a description for the model and a function of yours.
'use strict';

const { Answer, ToolContext, ToolReply, fail, functionCallable, outcome, settle, suspension } = require('./call');
const { encode } = require('./json');
const { native, sync } = require('./native');
const { toJsonSchema, validate } = require('./schema');

/** A function that models may call. Made by {@link tool}. */
class Tool {
  constructor(options) {
    const { name, description, inputSchema, outputSchema, suspendSchema, resumeSchema, ...rest } = options;
    const { execute, onCall, requireApproval, maySuspend, timeoutMs, ...unknown } = rest;
    this.name = name;
    this.description = description;
    this.inputSchema = inputSchema;
    this.outputSchema = outputSchema;
    this.suspendSchema = suspendSchema;
    this.resumeSchema = resumeSchema;
    this.execute = execute;
    this.onCall = onCall;
    this.requireApproval = requireApproval;
    const what = (schema) => `the ${schema} of tool \`${name}\``;
    const rule = typeof requireApproval === 'function' ? nameRule(name) : undefined;
    this.approvalName = rule;
    /** The spec as the engine takes it. */
    this.spec = {
      name,
      description,
      input_schema: toJsonSchema(inputSchema, what('inputSchema')),
      output_schema: toJsonSchema(outputSchema, what('outputSchema')),
      resume_schema: toJsonSchema(resumeSchema, what('resumeSchema')),
      approval: rule !== undefined ? { function: rule } : requireApproval ? 'always' : undefined,
      may_suspend: (maySuspend ?? (suspendSchema !== undefined || resumeSchema !== undefined)) || undefined,
      client: (execute === undefined && onCall === undefined) || undefined,
      timeout_ms: timeoutMs,
      // Told by the engine, by name.
      ...unknown,
    };
  }

  /** The tool as the engine calls it. */
  get callable() {
    return this.onCall ? answeredLater(this.onCall) : answered(this);
  }

  /** The functions that the spec names. */
  get functions() {
    if (typeof this.requireApproval !== 'function') return [];
    const rule = async ({ arguments: input }, context) =>
      Boolean(await this.requireApproval(typeof input === 'string' ? JSON.parse(input) : input, context));
    return [[this.approvalName, functionCallable(rule)]];
  }
}

/** What the engine calls a rule of a tool: the same in every language. */
function nameRule(name) {
  const text = encode({ name, approval: { function: '#' } }, "the tool's spec");
  return JSON.parse(sync(() => native.nameFunctions(text))).functions['#'];
}

function answered(tool) {
  return (input, facts, answer) => {
    const context = new ToolContext(answer, facts, input);
    const failed = (error) => fail(context, error, notFitting.has(error) ? 'arguments' : undefined);
    outcome(
      () => then(prepare(tool, input, context), (args) => tool.execute(args, context)),
      (value) => {
        const suspended = context[suspension];
        if (suspended) outcome(() => payloadOf(tool, suspended.payload), (payload) => suspend(context, payload), failed);
        else settle(context, (answer) => give(answer, value));
      },
      failed,
    );
  };
}

/** A function that takes the call and answers it now or later. */
function answeredLater(onCall) {
  return (input, facts, answer) => {
    const handle = new Answer(answer, facts, input);
    // What it returns is not the answer; what it throws is.
    outcome(
      () => onCall(JSON.parse(input), handle),
      () => {},
      (error) => fail(handle, error),
    );
  };
}

/** Errors of our own checks: nothing is asked of an error itself, which may be anything. */
const notFitting = new WeakSet();

/** The input and what resumed a tool or step, as their schemas make them; `code` is of the error where they do not fit. */
function prepare(component, input, context, code = 'arguments_invalid', what = 'arguments') {
  const marked = (error) => {
    if (typeof error === 'object' && error !== null) notFitting.add(error);
    throw error;
  };
  const check = (schema, value, what) => {
    try {
      const checked = validate(schema, value, code, what);
      return typeof checked?.then === 'function' ? checked.then(undefined, marked) : checked;
    } catch (error) {
      return marked(error);
    }
  };
  const args = check(component.inputSchema, JSON.parse(input), `the ${what} of \`${component.name}\``);
  if (context.resumeData === undefined) return args;
  return then(check(component.resumeSchema, context.resumeData, `the data that resumed \`${component.name}\``), (data) => {
    ToolContext.setResumeData(context, data);
    return args;
  });
}

function payloadOf(tool, payload) {
  return validate(tool.suspendSchema, payload, 'tool_result_invalid', `the payload of \`${tool.name}\``);
}

function suspend(context, payload) {
  settle(context, (answer) => answer.suspend(encode(payload, 'the payload')));
}

function give(answer, value) {
  if (value instanceof ToolReply) {
    answer.reply(encode({ output: value.output ?? null, content: value.content }, 'the result'));
  } else {
    answer.resolve(encode(value, 'the result'));
  }
}

function then(value, next) {
  return typeof value?.then === 'function' ? value.then(next) : next(value);
}

/**
 * Describes a tool. Without `execute` it is a client tool: the run suspends, and whoever started it gives the result.
 */
function tool(options) {
  return new Tool(options);
}

/** A tool's result with images or files beside it. */
function reply(output, content) {
  return new ToolReply({ output, content });
}

module.exports = { Tool, answeredLater, notFitting, prepare, reply, then, tool };
