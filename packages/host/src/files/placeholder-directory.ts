import { readFileSync } from 'node:fs';
import { errnoName } from '@viommu/core/abi/errno';
import type { Native } from '../native.ts';
import { StartFailure } from '../program/spawn.ts';

/** Paths in /proc/self/mountinfo have blanks as \040. */
function unescape(path: string): string {
  return path.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

/** The mount points of tmpfs in /proc/self/mountinfo (Documentation/filesystems/proc.rst §3.5). */
export function tmpfsMounts(mountinfo: string): string[] {
  return mountinfo.split('\n').flatMap((line) => {
    const [mount, source] = line.split(' - ');
    return source?.startsWith('tmpfs ') ? [unescape(mount!.split(' ')[4]!)] : [];
  });
}

/**
 * Where the files are made that stand behind descriptors: a directory on tmpfs that we may write to and that tells when
 * a file in it is closed. Throws {@link StartFailure} where there is none.
 */
export function choosePlaceholderDirectory(native: Native, env: NodeJS.ProcessEnv): string {
  const tried: string[] = [];
  const places = function* (): Generator<string> {
    yield '/dev/shm';
    const runtime = env['XDG_RUNTIME_DIR'];
    if (runtime !== undefined && runtime !== '') yield runtime;
    yield* tmpfsMounts(readFileSync('/proc/self/mountinfo', 'utf8'));
  };
  for (const place of places()) {
    const result = native.useDirectory(place);
    if (result === 0) return place;
    tried.push(`${place} (${errnoName(-result)})`);
  }
  throw new StartFailure(
    125,
    'viommu keeps its files in a directory on tmpfs and found none that it can write to. ' +
      `Tried: ${tried.join(', ')}. Mount one on /dev/shm, or set XDG_RUNTIME_DIR to one`,
  );
}
