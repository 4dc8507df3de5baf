// Packs what is published for this platform: `node scripts/pack.js LIBRARY FOLDER` writes the main package and the platform's package,
// with the compiled LIBRARY in it, into FOLDER. With `--local` behind it they are `@lomusai/local`, with models in the process, and its
// platform's package; the library is one that was built with the feature `local`.
'use strict';

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { platform } = require('../lib/loader.js');

const PACKAGE = path.join(__dirname, '..');

function pack(library, folder, local = false) {
  const staged = fs.mkdtempSync(path.join(os.tmpdir(), 'lomusai-pack-'));
  try {
    const name = platform();
    const part = path.join(staged, 'part');
    fs.cpSync(path.join(PACKAGE, 'npm', name), part, { recursive: true });
    fs.copyFileSync(library, path.join(part, `lomusai.${name}.node`));

    const main = path.join(staged, 'main');
    if (local) {
      stageLocal(main, part);
      return [main, part].map((from) => packInto(folder, from));
    }
    const manifest = JSON.parse(fs.readFileSync(path.join(PACKAGE, 'package.json'), 'utf8'));
    for (const file of manifest.files) fs.cpSync(path.join(PACKAGE, file), path.join(main, file), { recursive: true });
    // The platforms' packages exist only once they are published, so that the manifest for development does not name them.
    const parts = fs.readdirSync(path.join(PACKAGE, 'npm')).sort();
    manifest.optionalDependencies = Object.fromEntries(parts.map((name) => [`@lomusai/node-${name}`, manifest.version]));
    delete manifest.devDependencies;
    delete manifest.scripts;
    write(main, manifest);

    return [main, part].map((from) => packInto(folder, from));
  } finally {
    fs.rmSync(staged, { recursive: true, force: true });
  }
}

/** The platform's package under its other name, and the package that asks for it. */
function stageLocal(main, part) {
  const manifest = JSON.parse(fs.readFileSync(path.join(part, 'package.json'), 'utf8'));
  const rename = (name) => name.replace('@lomusai/node-', '@lomusai/local-');
  const platforms = fs.readdirSync(path.join(PACKAGE, 'npm')).sort();
  const { version, license, repository, engines } = manifest;
  write(part, { ...manifest, name: rename(manifest.name), description: `${manifest.description}, with models in the process` });
  fs.mkdirSync(main);
  write(main, {
    name: '@lomusai/local',
    version,
    description: 'Models in the process for @lomusai/node: GGUF files by llama.cpp',
    license,
    repository,
    engines,
    main: 'index.js',
    files: ['index.js'],
    optionalDependencies: Object.fromEntries(platforms.map((name) => [`@lomusai/local-${name}`, version])),
  });
  fs.writeFileSync(
    path.join(main, 'index.js'),
    "// Found by @lomusai/node, which asks for its platform.\n'use strict';\n\n" +
      'exports.load = (platform) => require(`@lomusai/local-${platform}`);\n',
  );
}

function write(folder, manifest) {
  fs.writeFileSync(path.join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
}

function packInto(folder, from) {
  fs.mkdirSync(folder, { recursive: true });
  const printed = execFileSync('npm', ['pack', '--json', '--pack-destination', path.resolve(folder)], {
    cwd: from,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  return path.join(folder, packed(JSON.parse(printed)));
}

/** The file's name: npm prints a list, or an object by package name, depending on its version. */
function packed(printed) {
  return (Array.isArray(printed) ? printed[0] : Object.values(printed)[0]).filename;
}

if (require.main === module) {
  const [library, folder, local] = process.argv.slice(2);
  for (const file of pack(library, folder, local === '--local')) console.log(file);
}

module.exports = { pack };
