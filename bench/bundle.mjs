// Bundles core from its sources and loads it, for benchmarks that run in process.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';
import { keepConstants } from '../scripts/constants.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));

/**
 * Loads what `source` (TypeScript that exports from '@viommu/core/…') exports. `plugins` are esbuild's.
 */
export async function loadCore(source, plugins = []) {
  const scratch = mkdtempSync(join(tmpdir(), 'viommu-bench-'));
  try {
    const outfile = join(scratch, 'core.mjs');
    await build({
      stdin: { contents: source, resolveDir: join(here, '../packages/host'), loader: 'ts' },
      bundle: true,
      platform: 'node',
      format: 'esm',
      target: 'es2023',
      conditions: ['viommu-source'],
      logLevel: 'error',
      outfile,
      plugins,
    });
    writeFileSync(outfile, keepConstants(readFileSync(outfile, 'utf8')));
    return await import(pathToFileURL(outfile).href);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
