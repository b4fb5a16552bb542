// Linux's selftests pin more than RLIMIT_MEMLOCK lets most users.
import { spawnSync } from 'node:child_process';

/** What the tests pin at most, and some. */
export const MEMLOCK_KIB = 262144;

/** RLIMIT_MEMLOCK in KiB where Linux's tests pin more than it allows; else null. */
export function tooSmallMemlock() {
  if (process.getuid() === 0) return null;
  const { stdout } = spawnSync('sh', ['-c', 'ulimit -H -l'], { encoding: 'utf8' });
  const kib = Number.parseInt(stdout, 10);
  return kib < MEMLOCK_KIB ? kib : null;
}

/** What `viommu run` needs beside its other options, so that the tests may pin what they do. */
export function pinOptions() {
  return tooSmallMemlock() === null ? [] : ['--unlimited-pins'];
}
