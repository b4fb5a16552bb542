#!/usr/bin/env node
import { existsSync } from 'node:fs';

const main = new URL('../dist/viommu.js', import.meta.url);
if (existsSync(main)) {
  await import(main.href);
} else {
  process.stderr.write(
    'viommu: it is not built yet: run `npm ci`, or `npm run build`, where it was checked out\n',
  );
  process.exitCode = 2;
}
