#!/usr/bin/env node
// Compiles Linux's page table code into programs, plays random requests on them, and writes requests and answers to
// *.jsonl, which the tests beside them compare with our page tables. Nothing of Linux is kept.
//
// record.mjs --linux DIRECTORY [--seed N] [NAME...]
//   --linux   an unpacked linux-source tree with drivers/iommu and include/linux
//   NAME      arm-lpae, generic-pt; all of them where none is named

import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { commandLine, expectKnown, usage } from '../command-line.mjs';
import * as armLpae from './arm-lpae.mjs';
import * as genericPt from './generic-pt.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
const RECORDERS = [armLpae, genericPt];

const { values, positionals } = commandLine({
  options: { linux: { type: 'string' }, seed: { type: 'string', default: '1' } },
  allowPositionals: true,
});
const { linux } = values;
if (linux === undefined || !existsSync(join(linux, 'drivers/iommu/io-pgtable-arm.c'))) {
  usage('--linux must name a Linux source tree that has drivers/iommu');
}
expectKnown(
  'recorder',
  positionals,
  RECORDERS.map(({ name }) => name),
);

for (const { name, record } of RECORDERS) {
  if (positionals.length > 0 && !positionals.includes(name)) continue;
  const directory = mkdtempSync(join(tmpdir(), 'golden-'));
  try {
    const records = record(linux, directory, values.seed);
    const lines = records.map((each) => `${JSON.stringify(each)}\n`);
    writeFileSync(join(here, `${name}.jsonl`), lines.join(''));
    console.log(`${name}: ${records.length} tables`);
  } finally {
    rmSync(directory, { recursive: true });
  }
}
