// Values to JSON as the engine takes it, with errors that name the value.
'use strict';

const { InvalidError } = require('./errors');

const LONE_SURROGATE = /(?<=(?:^|[^\\])(?:\\\\)*)\\ud[89a-f][0-9a-f]{2}/g;

/**
 * JSON of a value. `undefined` is `null`. A BigInt is a number where JavaScript can hold it as one, else a text: that is how
 * journals keep large integers. Half of a surrogate pair becomes U+FFFD, as everywhere where text becomes UTF-8.
 */
function encode(value, what) {
  let json;
  try {
    json = stringify(value);
  } catch (cause) {
    throw invalid(`${what} cannot be written as JSON: ${words(cause)}`, cause);
  }
  if (json === undefined) {
    if (value === undefined) return 'null';
    throw invalid(`${what} cannot be written as JSON: it is a ${typeof value}`);
  }
  return json.includes('\\ud') ? json.replace(LONE_SURROGATE, '\ufffd') : json;
}

function words(cause) {
  try {
    return String(cause?.message ?? cause).split('\n')[0];
  } catch {
    return 'it throws what cannot be described';
  }
}

function stringify(value) {
  try {
    return JSON.stringify(value);
  } catch (error) {
    // A replacer makes everything several times slower, so it is only used where it is needed.
    if (!/BigInt/.test(words(error))) throw error;
    return JSON.stringify(value, (_, item) => (typeof item === 'bigint' ? fromBigInt(item) : item));
  }
}

function fromBigInt(n) {
  const number = Number(n);
  return Number.isSafeInteger(number) ? number : String(n);
}

function invalid(message, cause) {
  return new InvalidError({ kind: 'invalid', code: 'json_invalid', message }, cause === undefined ? undefined : { cause });
}

/** The fields of a settings object with their names as the engine writes them: `maxSteps` is `max_steps`. */
function snake(object) {
  if (object === null || typeof object !== 'object' || Array.isArray(object)) return object;
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [toSnake(key), value]));
}

function toSnake(name) {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

module.exports = { encode, snake };
