// Schemas: JSON Schema as it is, or any Standard Schema that can say itself as JSON Schema (zod, valibot, arktype and others).
'use strict';

const { InvalidError } = require('./errors');

/** Whether this is a Standard Schema. Some are functions. */
function isStandard(schema) {
  return schema !== null && (typeof schema === 'object' || typeof schema === 'function') && '~standard' in schema;
}

/** The JSON Schema for what goes into this schema. */
function toJsonSchema(schema, what) {
  if (schema === undefined || !isStandard(schema)) return schema;
  const json = convert(schema, what);
  // The engine reads draft 2020-12 anyway, and some providers refuse the key.
  if (json !== null && typeof json === 'object' && '$schema' in json) {
    const { $schema, ...rest } = json;
    return rest;
  }
  return json;
}

function convert(schema, what) {
  const { vendor, jsonSchema } = schema['~standard'];
  try {
    if (typeof jsonSchema?.input === 'function') return jsonSchema.input({ target: 'draft-2020-12' });
    if (typeof schema.toJSONSchema === 'function') return schema.toJSONSchema({ io: 'input' });
    if (typeof schema.toJsonSchema === 'function') return schema.toJsonSchema();
    // Earlier releases have the conversion beside the schemas.
    if (vendor === 'zod' && schema._zod) return peer('zod').toJSONSchema(schema, { io: 'input' });
    if (vendor === 'valibot') return peer('@valibot/to-json-schema').toJsonSchema(schema);
  } catch (cause) {
    throw wrong(`${what}: the ${vendor} schema cannot be written as JSON Schema: ${cause?.message ?? cause}`, cause);
  }
  throw wrong(
    `${what}: a ${vendor} schema of this version cannot say itself as JSON Schema: update ${vendor}, or pass JSON Schema`,
  );
}

function peer(name) {
  try {
    return require(name);
  } catch {
    return require(require.resolve(name, { paths: [process.cwd()] }));
  }
}

function wrong(message, cause) {
  return new InvalidError({ kind: 'invalid', code: 'schema_invalid', message }, cause && { cause });
}

/** Checks a value with a Standard Schema, and gives what the schema makes of it, maybe as a promise. */
function validate(schema, value, code, what) {
  if (!isStandard(schema)) return value;
  const result = schema['~standard'].validate(value);
  return typeof result?.then === 'function' ? result.then((result) => unwrap(result, code, what)) : unwrap(result, code, what);
}

function unwrap(result, code, what) {
  if (!result.issues) return result.value;
  const text = result.issues.map(issueText).join('; ');
  const message = `${what} do not fit: ${text}`;
  throw new InvalidError({ kind: 'invalid', code, message, details: { issues: result.issues.map(issueText) } });
}

function issueText({ message, path }) {
  const keys = (path ?? []).map((key) => (typeof key === 'object' ? key.key : key));
  return keys.length ? `${keys.map(String).join('.')}: ${message}` : message;
}

module.exports = { isStandard, toJsonSchema, validate };
