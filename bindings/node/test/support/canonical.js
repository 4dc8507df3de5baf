// The canonical form of a journal and its digest, by the steps of tests/conformance/README.md and with no help of the engine.
'use strict';

const { createHash } = require('node:crypto');

const EFFECT_EVENTS = new Set([
  'effect_started',
  'effect_completed',
  'effect_failed',
  'effect_suspended',
  'effect_skipped',
  'custom',
]);
const HOST_WORDED = new Set([
  'tool_failed',
  'tool_result_invalid',
  'function_failed',
  'function_reply_invalid',
  'provider_host_failed',
  'callback_panicked',
  'tool_unanswered',
  'function_unanswered',
  'step_failed',
  'step_fatal',
  'step_result_invalid',
  'step_unanswered',
]);

/** Two ids of effects: token by token, a number before a word, what ends first first. */
function effectOrder(a, b) {
  const [one, other] = [a.split('.'), b.split('.')];
  for (let i = 0; i < Math.min(one.length, other.length); i += 1) {
    const [p, q] = [/^\d+$/.test(one[i]), /^\d+$/.test(other[i])];
    if (p !== q) return p ? -1 : 1;
    const order = p ? Number(BigInt(one[i]) - BigInt(other[i])) : Buffer.compare(Buffer.from(one[i]), Buffer.from(other[i]));
    if (order !== 0) return order;
  }
  return one.length - other.length;
}

/** Those of a workflow: each stretch of events that have an effect, by the effect. */
function inOrderOfWorkflow(durable) {
  const ordered = [];
  let stretch = [];
  const flush = () => {
    ordered.push(...stretch.sort((a, b) => effectOrder(a.effect_id, b.effect_id)));
    stretch = [];
  };
  for (const event of durable) {
    if (event.effect_id !== undefined && event.type !== 'signal_received') {
      stretch.push(event);
    } else {
      flush();
      ordered.push(event);
    }
  }
  flush();
  return ordered;
}

/** The durable events; those of parallel calls in the order of the calls. */
function inOrder(journal) {
  const durable = journal.filter((event) => !event.sub).sort((a, b) => a.seq - b.seq);
  if (durable[0]?.spec?.kind === 'workflow') return inOrderOfWorkflow(durable);
  const ordered = [];
  let stretch = [];
  let step;
  const flush = () => {
    ordered.push(...stretch.sort((a, b) => Number(a.call - b.call)).map(({ event }) => event));
    stretch = [];
  };
  for (const event of durable) {
    const place = EFFECT_EVENTS.has(event.type) ? /^(\d+)\.(\d+)(?:\.|$)/.exec(event.effect_id) : null;
    if (place === null || BigInt(place[1]) !== step) flush();
    step = place === null ? undefined : BigInt(place[1]);
    if (place === null) ordered.push(event);
    else stretch.push({ call: BigInt(place[2]), event });
  }
  flush();
  return ordered;
}

/** The events after steps 1 to 4 of the guide. */
function events(journal) {
  const runs = new Map();
  const threads = new Map();
  const ordinal = (map, prefix, id) => {
    if (!map.has(id)) map.set(id, `${prefix}:${map.size}`);
    return map.get(id);
  };
  return inOrder(journal).map((original) => {
    const event = structuredClone(original);
    for (const field of ['seq', 'sub', 'at_ms', 'retry_at_ms', 'due_at_ms']) delete event[field];
    if (event.error) {
      delete event.error.host;
      delete event.error.retry_after_ms;
      if (HOST_WORDED.has(event.error.code)) {
        delete event.error.message;
        delete event.error.details;
      }
    }
    if (event.run_id !== undefined) event.run_id = ordinal(runs, 'run', event.run_id);
    if (event.parent?.run_id !== undefined) event.parent.run_id = ordinal(runs, 'run', event.parent.run_id);
    if (event.forked_from !== undefined) event.forked_from.run_id = ordinal(runs, 'run', event.forked_from.run_id);
    if (event.child !== undefined) event.child = ordinal(runs, 'run', event.child);
    for (const reason of event.reasons ?? []) {
      delete reason.due_at_ms;
      if (reason.child !== undefined) reason.child = ordinal(runs, 'run', reason.child);
    }
    if (event.thread !== undefined) event.thread = ordinal(threads, 'thread', event.thread);
    return event;
  });
}

function lines(journal) {
  return events(journal).map(canonical);
}

/** RFC 8785: what JavaScript prints, with sorted keys. */
function canonical(value) {
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  const fields = Object.keys(value).sort();
  return `{${fields.map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`).join(',')}}`;
}

function digest(journal) {
  const hash = createHash('sha256').update(Buffer.of(1));
  for (const line of lines(journal)) hash.update(`${line}\n`, 'utf8');
  return `01${hash.digest('hex')}`;
}

module.exports = { digest, events, lines };
