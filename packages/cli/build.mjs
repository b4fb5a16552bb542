// Bundles the command line into dist/, so that it starts with few files to load. What only some verbs or options need
// (a YAML parser, the schema of machine files) becomes files of its own, loaded when asked for.
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { keepConstants } from '../../scripts/constants.mjs';

const at = (path) => fileURLToPath(new URL(path, import.meta.url));

// Made beside the old one and put in its place when it is whole: somebody may be running that, and a build may fail.
const fresh = mkdtempSync(at('.dist-'));
process.on('exit', () => rmSync(fresh, { recursive: true, force: true }));

// commander loads it for verbs that are programs of their own, of which we have none: a twentieth of `viommu run -- true`.
const withoutChildProcess = {
  name: 'without-child-process',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^node:child_process$/ }, ({ path }) => ({ path, namespace: 'nothing' }));
    onLoad({ filter: /.*/, namespace: 'nothing' }, () => ({ contents: 'module.exports = {};' }));
  },
};

await build({
  entryPoints: [at('src/viommu.ts')],
  outdir: fresh,
  bundle: true,
  splitting: true,
  platform: 'node',
  format: 'esm',
  target: 'node20',
  conditions: ['viommu-source'],
  // commander is CommonJS and asks for Node's modules by require().
  banner: {
    js: "import { createRequire as viommuRequire } from 'node:module'; const require = viommuRequire(import.meta.url);",
  },
  logLevel: 'warning',
  plugins: [withoutChildProcess],
});
for (const name of readdirSync(fresh)) {
  const path = join(fresh, name);
  writeFileSync(path, keepConstants(readFileSync(path, 'utf8')));
}
copyFileSync(at('../host/native/build/viommu.node'), join(fresh, 'viommu.node'));

const old = mkdtempSync(at('.dist-'));
process.on('exit', () => rmSync(old, { recursive: true, force: true }));
if (existsSync(at('dist'))) renameSync(at('dist'), join(old, 'dist'));
chmodSync(fresh, 0o755);
renameSync(fresh, at('dist'));
