#!/usr/bin/env node
// Records what QEMU's IOMMU models do with a DMA write through random configurations, in the form that run.mjs reads.
//
//   node conformance/vectors/record.mjs [--lines N] [--seed N] [--output FILE] amd|vtd
//   node conformance/vectors/record.mjs [--output FILE] --again FILE amd|vtd
//
// The second asks QEMU again what lines of a file do, and keeps all but its answers. QEMU is Debian's, as for
// conformance/qemu, which is fetched where it is absent; it runs without a guest.

import { readFileSync, writeFileSync } from 'node:fs';
import { commandLine, usage } from '../command-line.mjs';
import { dice } from '../dice.mjs';
import * as amd from './record/amd.mjs';
import { qemuVersion, Qtest, withMemory } from './record/qtest.mjs';
import * as vtd from './record/vtd.mjs';
import { Layout } from './record/words.mjs';

const RECORDERS = [amd, vtd];

const { values, positionals } = commandLine({
  options: {
    lines: { type: 'string', default: '1000' },
    seed: { type: 'string', default: '1' },
    output: { type: 'string' },
    again: { type: 'string' },
  },
  allowPositionals: true,
});
const recorder = RECORDERS.find(({ name }) => name === positionals[0]);
if (recorder === undefined || positionals.length !== 1) {
  usage(`takes one of ${RECORDERS.map(({ name }) => name).join(', ')}`);
}

/** Random lines, without answers. */
function* made(machine) {
  const count = Math.ceil(Number(values.lines) / recorder.machines.length);
  const offset = recorder.machines.indexOf(machine) * count;
  for (let i = 1; i <= count; i++) {
    const seed = Number(values.seed) * 1_000_000 + offset + i;
    const random = dice(seed);
    yield { seed, ...recorder.line(random, new Layout(random), machine) };
  }
}

/** The lines of a file that are the machine's. */
function* recorded(machine) {
  for (const text of readFileSync(values.again, 'utf8').split('\n')) {
    if (text === '') continue;
    const { qemu, ...line } = JSON.parse(text);
    if (qemu !== undefined && line.mode === (machine.mode ?? line.mode)) yield line;
  }
}

const version = qemuVersion();
const out = [];
for (const machine of recorder.machines) {
  const qtest = await Qtest.start(machine.iommu);
  try {
    out.push({ model: `QEMU ${version} ${machine.label}`, ...(await recorder.header(qtest)) });
    for (const line of values.again === undefined ? made(machine) : recorded(machine))
      out.push({ ...line, qemu: await withMemory(qtest, line.mem, () => recorder.play(qtest, line)) });
  } finally {
    qtest.stop();
  }
}
const text = out.map((line) => `${JSON.stringify(line)}\n`).join('');
if (values.output === undefined) process.stdout.write(text);
else writeFileSync(values.output, text);
