// Packs what is published for this platform: `node scripts/pack.js LIBRARY FOLDER` writes the main package and the platform's package,
// with the compiled LIBRARY in it, into FOLDER.
'use strict';

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { platform } = require('../lib/loader.js');

const PACKAGE = path.join(__dirname, '..');

function pack(library, folder) {
  const staged = fs.mkdtempSync(path.join(os.tmpdir(), 'lomusai-pack-'));
  try {
    const name = platform();
    const part = path.join(staged, 'part');
    fs.cpSync(path.join(PACKAGE, 'npm', name), part, { recursive: true });
    fs.copyFileSync(library, path.join(part, `lomusai.${name}.node`));

    const main = path.join(staged, 'main');
    const manifest = JSON.parse(fs.readFileSync(path.join(PACKAGE, 'package.json'), 'utf8'));
    for (const file of manifest.files) fs.cpSync(path.join(PACKAGE, file), path.join(main, file), { recursive: true });
    // The platforms' packages exist only once they are published, so that the manifest for development does not name them.
    const parts = fs.readdirSync(path.join(PACKAGE, 'npm')).sort();
    manifest.optionalDependencies = Object.fromEntries(parts.map((name) => [`@lomusai/node-${name}`, manifest.version]));
    delete manifest.devDependencies;
    delete manifest.scripts;
    fs.writeFileSync(path.join(main, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);

    fs.mkdirSync(folder, { recursive: true });
    return [main, part].map((from) => {
      const printed = execFileSync('npm', ['pack', '--json', '--pack-destination', path.resolve(folder)], {
        cwd: from,
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      });
      return path.join(folder, packed(JSON.parse(printed)));
    });
  } finally {
    fs.rmSync(staged, { recursive: true, force: true });
  }
}

/** The file's name: npm prints a list, or an object by package name, depending on its version. */
function packed(printed) {
  return (Array.isArray(printed) ? printed[0] : Object.values(printed)[0]).filename;
}

if (require.main === module) {
  const [library, folder] = process.argv.slice(2);
  for (const file of pack(library, folder)) console.log(file);
}

module.exports = { pack };
