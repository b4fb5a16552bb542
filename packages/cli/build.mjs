// Bundles the command line into dist/, so that it starts with few files to load. What only some verbs or options need
// (a YAML parser, the schema of machine files) becomes files of its own, loaded when asked for.
import { copyFileSync, mkdirSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const at = (path) => fileURLToPath(new URL(path, import.meta.url));

rmSync(at('dist'), { recursive: true, force: true });
mkdirSync(at('dist'), { recursive: true });
await build({
  entryPoints: [at('src/viommu.ts')],
  outdir: at('dist'),
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
});
copyFileSync(at('../host/native/build/viommu.node'), at('dist/viommu.node'));
