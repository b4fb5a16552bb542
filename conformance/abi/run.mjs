#!/usr/bin/env node
// Compares packages/core/src/abi with Linux's own headers, through a C compiler.
//
// run.mjs [--record] [--json FILE]
//   --record   also writes what the headers say to conformance/data/abi/, which the unit test compares with

import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { commandLine } from '../command-line.mjs';
import { ensureLinux, fetched, headerFlags, headers, RELEASE, repository, source } from '../linux/tree.mjs';
import { writeReport } from '../report.mjs';
import { describe, differences } from './describe.mjs';
import { missing } from './inventory.mjs';
import { askHeaders } from './probe.mjs';

const MODULES = ['errno', 'ioctl', 'iommufd', 'iommufd-data', 'iommufd-test', 'vfio', 'vfio-type1'];
const TEST_HEADER = `${source}/drivers/iommu/iommufd/iommufd_test.h`;
const RECORD = fileURLToPath(new URL(`../data/abi/linux-${RELEASE}.json`, import.meta.url));

/** The modules of packages/core/src/abi, which Node does not load as they are. */
async function loadModules() {
  const contents = MODULES.map(
    (name, i) => `export * as m${i} from './packages/core/src/abi/${name}.ts';`,
  ).join('\n');
  const bundle = await build({
    stdin: { contents, resolveDir: repository },
    bundle: true,
    format: 'esm',
    platform: 'neutral',
    write: false,
    logLevel: 'error',
  });
  const code = Buffer.from(bundle.outputFiles[0].contents).toString('base64');
  return Object.values(await import(`data:text/javascript;base64,${code}`));
}

const { values } = commandLine({
  options: { record: { type: 'boolean', default: false }, json: { type: 'string' } },
});
ensureLinux();
const ours = describe(await loadModules());
const includes = ['<linux/vfio.h>', `"${TEST_HEADER}"`];
const theirs = askHeaders(ours, includes, headerFlags());
const lines = differences(ours, theirs);
for (const file of [`${headers}/linux/iommufd.h`, `${headers}/linux/vfio.h`, TEST_HEADER]) {
  lines.push(...missing(readFileSync(file, 'utf8'), ours));
}
if (values.record) writeFileSync(RECORD, `${JSON.stringify(theirs, null, 1)}\n`);

for (const line of lines) console.log(line);
const fields = Object.values(ours.structs).reduce((sum, { fields }) => sum + Object.keys(fields).length, 0);
console.log(
  `${Object.keys(ours.structs).length} structs, ${fields} fields and ${Object.keys(ours.constants).length} constants ` +
    `against Linux ${fetched().version}: ${lines.length === 0 ? 'no difference' : `${lines.length} differences`}`,
);
writeReport(values.json, { pass: lines.length === 0 ? 1 : 0, fail: lines.length, skip: 0, failures: lines });
if (lines.length > 0) process.exitCode = 1;
