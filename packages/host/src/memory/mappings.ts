import { readFileSync } from 'node:fs';
import { big } from '@viommu/core/base/u64';
import type { Device } from '../files/files.ts';
import { parseMaps, type MapsLine } from '../processes/proc-text.ts';

function read(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}

function* tree(pid: number, seen: Set<number>): Generator<number> {
  if (seen.has(pid)) return;
  seen.add(pid);
  yield pid;
  for (const child of read(`/proc/${pid}/task/${pid}/children`).split(' ')) {
    if (child !== '') yield* tree(Number.parseInt(child, 10), seen);
  }
}

/**
 * The mappings of a file by some processes and all that descend from them. Slow, as it reads all their maps; what asks
 * for it is seldom.
 */
export function* mappingsOf(roots: Iterable<number>, device: Device, inode: number): Generator<MapsLine> {
  const wanted = big(inode);
  const seen = new Set<number>();
  for (const root of roots) {
    for (const pid of tree(root, seen)) {
      for (const line of parseMaps(read(`/proc/${pid}/maps`))) {
        if (line.inode === wanted && line.major === device.major && line.minor === device.minor) yield line;
      }
    }
  }
}
