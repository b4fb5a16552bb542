#!/usr/bin/env node
// Writes scripts of ioctls to DIR/scripts, for record.mjs to play on a real kernel.
//
// generate.mjs DIR [--kind random|mutants|fields] [--seed N] [--count N] [--from DIR]
//
//   --kind    random: of the model, see ../model · mutants: given scripts with steps changed, moved, left out and taken
//             from others · fields: every field of every request set to what breaks code
//   --from    the scripts that mutants are made of (conformance/data/transcripts/scripts)

import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';
import { commandLine, expectKnown, usage } from '../command-line.mjs';
import { runScript } from '../debian/apt.mjs';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

async function loadGenerator() {
  const out = mkdtempSync(`${tmpdir()}/viommu-oracle-`);
  try {
    const outfile = `${out}/generate.mjs`;
    await build({
      entryPoints: [here('generate.ts')],
      outfile,
      bundle: true,
      platform: 'node',
      format: 'esm',
      conditions: ['viommu-source'],
      logLevel: 'error',
    });
    return await import(pathToFileURL(outfile).href);
  } finally {
    rmSync(out, { recursive: true });
  }
}

async function main() {
  const { values, positionals } = commandLine({
    allowPositionals: true,
    options: {
      kind: { type: 'string', default: 'random' },
      seed: { type: 'string', default: '1' },
      count: { type: 'string', default: '1000' },
      from: { type: 'string', default: here('../data/transcripts/scripts') },
    },
  });
  const [directory] = positionals;
  const [seed, count] = [Number(values.seed), Number(values.count)];
  if (directory === undefined || positionals.length > 1) usage('takes one directory');
  if (!(Number.isInteger(seed) && count >= 1)) usage('--seed and --count take whole numbers');
  const { KINDS, scriptsOf } = await loadGenerator();
  expectKnown('kind', [values.kind], KINDS);
  const given = readdirSync(values.from)
    .filter((name) => name.endsWith('.s'))
    .sort();
  const scripts = scriptsOf(
    values.kind,
    seed,
    count,
    given.map((name) => readFileSync(`${values.from}/${name}`, 'utf8')),
  );
  mkdirSync(`${directory}/scripts`, { recursive: true });
  scripts.forEach((script, index) => {
    const name = `${values.kind}-${seed}-${String(index).padStart(5, '0')}.s`;
    writeFileSync(`${directory}/scripts/${name}`, script);
  });
  console.log(`${scripts.length} scripts written to ${directory}/scripts`);
}

await runScript('generate.mjs', main);
