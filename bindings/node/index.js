// Lomusai for Node: see README.md.
'use strict';

const { Agent } = require('./lib/agent');
const { Answer } = require('./lib/call');
const { Engine } = require('./lib/engine');
const errors = require('./lib/errors');
const { LlmProvider, compatible, scriptedModel } = require('./lib/provider');
const { Result, RunStream } = require('./lib/run');
const { Tool, reply, tool } = require('./lib/tool');
const { FatalError, Step, Workflow, expr, path, step, workflow } = require('./lib/workflow');

const { KINDS, CODES, ...classes } = errors;

module.exports = {
  Agent,
  Answer,
  Engine,
  FatalError,
  LlmProvider,
  Result,
  RunStream,
  Step,
  Tool,
  Workflow,
  compatible,
  expr,
  path,
  reply,
  scriptedModel,
  step,
  tool,
  workflow,
  ...classes,
  version: require('./package.json').version,
};
