// Finds the compiled part for this platform.
'use strict';

const fs = require('node:fs');
const path = require('node:path');

/** `linux-x64-gnu`, `darwin-arm64`, `win32-x64-msvc` and the like. */
function platform() {
  const base = `${process.platform}-${process.arch}`;
  if (process.platform === 'linux') return `${base}-${isMusl() ? 'musl' : 'gnu'}`;
  if (process.platform === 'win32') return `${base}-msvc`;
  return base;
}

function isMusl() {
  // The report is exact but costs tens of milliseconds where it looks up host names; the loader's file does as well.
  try {
    const files = fs.readdirSync('/lib').concat(fs.readdirSync('/lib64'));
    if (files.some((file) => file.startsWith('ld-linux'))) return false;
    if (files.some((file) => file.startsWith('ld-musl'))) return true;
  } catch {
    // One of the folders is missing: ask.
  }
  return !process.report.getReport().header.glibcVersionRuntime;
}

function load() {
  const name = platform();
  const file = path.join(__dirname, '..', 'native', `lomusai.${name}.node`);
  if (fs.existsSync(file)) return require(file);
  const local = withModels(name);
  if (local) return local;
  const name_ = `@lomusai/node-${name}`;
  try {
    return require(name_);
  } catch (error) {
    if (error.code !== 'MODULE_NOT_FOUND') throw error;
    throw new Error(
      `Lomusai has no compiled part for ${name}: neither the package ${name_} nor ${file} is there. ` +
        'Install without --omit=optional on the platform you run on, or build it with `cargo xtask test --only node`.',
      { cause: error },
    );
  }
}

/** The compiled part with models in the process, where the package that has it is installed. */
function withModels(name) {
  let manifest;
  try {
    manifest = require('@lomusai/local/package.json');
  } catch (error) {
    if (error.code === 'MODULE_NOT_FOUND') return null;
    throw error;
  }
  const own = require('../package.json').version;
  if (manifest.version !== own) {
    throw new Error(`@lomusai/local ${manifest.version} does not fit @lomusai/node ${own}: npm install @lomusai/local@${own}`);
  }
  return require('@lomusai/local').load(name);
}

module.exports = { load, platform };
