// Runs recordings of IOMMU models (conformance/data/vectors/*.jsonl and files of their form) on viommu's models.
//
//   node conformance/vectors/run.mjs [--quiet] [FILE...]
//
// Without a file, those of conformance/data/vectors.
//
// Prints every difference, and `N of M agree` per file. A difference that the vendor's list explains (docs/*-differences.md)
// has its classes beside it. Ends with status 1 where a difference has no class, or one that the list does not have.

import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';
import { commandLine } from '../command-line.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
const RECORDINGS = fileURLToPath(new URL('../data/vectors', import.meta.url));

async function loadVendors() {
  const out = mkdtempSync(join(tmpdir(), 'viommu-vectors-'));
  try {
    const outfile = join(out, 'vendors.mjs');
    await build({
      entryPoints: [join(here, 'vendors.ts')],
      outfile,
      bundle: true,
      platform: 'node',
      format: 'esm',
      conditions: ['viommu-source'],
      logLevel: 'error',
    });
    return (await import(pathToFileURL(outfile).href)).VENDORS;
  } finally {
    rmSync(out, { recursive: true });
  }
}

function listed(vendor) {
  const text = readFileSync(join(here, '../..', vendor.differences), 'utf8');
  return new Set([...text.matchAll(/^#+ `([^`]+)`$/gm)].map((match) => match[1]));
}

function runFile(path, vendors, quiet) {
  const lines = readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line !== '');
  const classes = new Map();
  let run = null;
  let known = new Set();
  let total = 0;
  let agreed = 0;
  let unexplained = 0;
  for (const text of lines) {
    const line = JSON.parse(text);
    // A line that a vendor accepts starts a part of its own: recordings may have several.
    const vendor = vendors.find((candidate) => candidate.accepts(line));
    if (vendor !== undefined) {
      run = vendor.open(line);
      known = listed(vendor);
      continue;
    }
    if (run === null)
      throw new Error(`${path}: no vendor knows the first line; it names no model of vendors.ts`);
    total++;
    const answer = run(line);
    if (JSON.stringify(answer.expected) === JSON.stringify(answer.got)) {
      agreed++;
      continue;
    }
    const explained = answer.classes.length > 0 && answer.classes.every((name) => known.has(name));
    const name = explained ? answer.classes.join(' + ') : 'UNEXPLAINED';
    classes.set(name, (classes.get(name) ?? 0) + 1);
    if (!explained) unexplained++;
    if (!quiet || !explained) {
      console.log(`seed ${line.seed} (${line.kind}, ${line.damage ?? 'none'}): ${name}`);
      console.log(`  recorded ${JSON.stringify(answer.expected)}`);
      console.log(`  viommu   ${JSON.stringify(answer.got)}`);
    }
  }
  for (const [name, count] of [...classes].sort()) console.log(`${basename(path)}: ${count} differ: ${name}`);
  console.log(`${basename(path)}: ${agreed} of ${total} agree`);
  return unexplained;
}

function parse() {
  const { values, positionals } = commandLine({
    allowPositionals: true,
    options: { quiet: { type: 'boolean', default: false } },
  });
  const all = () => readdirSync(RECORDINGS).map((name) => join(RECORDINGS, name));
  return { quiet: values.quiet, files: positionals.length > 0 ? positionals : all() };
}

const { quiet, files } = parse();
const vendors = await loadVendors();
let unexplained = 0;
for (const file of files) unexplained += runFile(file, vendors, quiet);
process.exit(unexplained === 0 ? 0 : 1);
