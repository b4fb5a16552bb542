// Random reads of 4 KiB from the NVMe model, by examples/nvme.c under `viommu run`: a driver in user space that polls. A
// doorbell is a pwrite(2) that is stopped and answered, so one read at a time pays for two of them each, 32 at a time for
// two in 32. The peer is the same program's reads of a file of the machine's own, without viommu: pread(2) of a memory
// file, which asks no device.
//
//   node bench/nvme.mjs
//
// Needs cc, and the built command (npm run build).
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const READS = 100_000;
const DISK = 64 << 20;

const PEER = `
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include "measure.h"

int main(int argc, char **argv)
{
	static char block[4096];
	long reads = atol(argv[1]), blocks = atol(argv[2]) / 4096;
	int fd = memfd_create("disk", 0);
	double start;

	(void)argc;
	for (long i = 0; i < blocks; i++)
		if (write(fd, block, sizeof(block)) != sizeof(block))
			return 1;
	start = now();
	for (long i = 0; i < reads; i++)
		if (pread(fd, block, sizeof(block), rand() % blocks * 4096L) != sizeof(block))
			return 1;
	printf("%.0f\\n", reads / ((now() - start) / 1e9));
	return 0;
}
`;

const scratch = mkdtempSync(join(tmpdir(), 'viommu-bench-'));
try {
  const cc = (out, source) =>
    execFileSync(process.env['CC'] ?? 'cc', ['-O2', '-Wall', `-I${root}bench/peers`, '-o', out, source]);
  const [program, peer] = ['nvme', 'peer'].map((name) => join(scratch, name));
  cc(program, `${root}examples/nvme.c`);
  writeFileSync(`${peer}.c`, PEER);
  cc(peer, `${peer}.c`);
  const viommu = [`${root}packages/cli/bin/viommu.js`, 'run', '--quiet'];
  const args = [...viommu, '--machine', `${root}machines/devices.yaml`, '--', program, String(READS)];
  const said = execFileSync(process.execPath, args, { encoding: 'utf8' });
  const c = Number(execFileSync(peer, [String(READS), String(DISK)], { encoding: 'utf8' }));
  console.log('NVMe, 4 KiB at random, beside pread(2) of a memory file in C');
  for (const [, depth, rate] of said.matchAll(/(\d+) at a time: (\d+) reads/g)) {
    const ratio = (Number(rate) / c).toFixed(3);
    console.log(`  ${depth.padStart(2)} at a time ${rate.padStart(7)} a second, C ${c}, ratio ${ratio}`);
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
