import { EFAULT, EINVAL, ERANGE } from '@viommu/core/abi/errno';
import type { Task } from '@viommu/core/memory/process';
import { ESRCH } from '../errno.ts';
import type { NodeStat } from './virtual-nodes.ts';

const U32_MAX = 0xffff_ffff;
/** lib/kstrtox.c kstrtouint_from_user(): no longer text can be a number. */
const NUMBER_TEXT_MAX = 1 + 32 + 1 + 1;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** A small file of /proc that is answered here, in open form. Results are zero or more, or a negative errno. */
export interface PseudoFile {
  readonly type: 'pseudo';
  readonly stat: NodeStat;
  read(task: Task, va: bigint, count: number, offset: number): number;
  write(task: Task, va: bigint, count: number, offset: number): number;
  release(): void;
}

/**
 * Parses an unsigned number as the kernel does: base 0, one newline at the end (lib/kstrtox.c kstrtouint()). Null where
 * it is none; Infinity where it is too large.
 */
export function parseUnsigned(text: string): number | null {
  const match = /^\+?(?:0x([0-9a-f]+)|0([0-7]*)|([1-9][0-9]*))\n?$/i.exec(text);
  if (match === null) return null;
  const [, hexadecimal, octal, decimal] = match;
  const value =
    hexadecimal !== undefined
      ? Number.parseInt(hexadecimal, 16)
      : Number.parseInt(octal !== undefined ? octal || '0' : decimal!, octal !== undefined ? 8 : 10);
  return value > U32_MAX ? Infinity : value;
}

/** A thread's /proc/PID/task/TID/fail-nth (fs/proc/base.c proc_fail_nth_read() and _write()). */
export function failNthFile(target: () => Task | null, stat: NodeStat): PseudoFile {
  return {
    type: 'pseudo',
    stat,
    read: (task, va, count, offset) => {
      const state = target()?.failNth;
      if (state === undefined) return -ESRCH;
      const bytes = encoder.encode(`${state.remaining}\n`).subarray(offset, offset + count);
      return bytes.length === 0 || task.process.memory.write(va, bytes) ? bytes.length : -EFAULT;
    },
    write: (task, va, count) => {
      const bytes = new Uint8Array(Math.min(count, NUMBER_TEXT_MAX));
      if (!task.process.memory.read(va, bytes)) return -EFAULT;
      const value = parseUnsigned(decoder.decode(bytes));
      if (value === null) return -EINVAL;
      if (value === Infinity) return -ERANGE;
      const state = target()?.failNth;
      if (state === undefined) return -ESRCH;
      state.remaining = value;
      return count;
    },
    release: () => {},
  };
}
