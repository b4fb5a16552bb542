import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import type { SystemText } from '../native.ts';

// What a program will miss under viommu, as far as its file tells.

const ELF = 0x7f454c46;
const IDENTITY_BYTES = 5;
const ELFCLASS32 = 1;
const S_ISUID = 0o4000;

/** What to tell the user about a program, named as the user did; `candidates`: where execvp(3) looks for it. */
export function programWarnings(name: string, candidates: readonly SystemText[]): string[] {
  for (const path of candidates) {
    const file = look(path);
    if (file !== null) return warningsOf(name, file);
  }
  return [];
}

interface ProgramFile {
  readonly identity: Buffer;
  readonly mode: number;
  readonly uid: number;
}

function look(path: SystemText): ProgramFile | null {
  let fd: number;
  try {
    // What is no program, such as a pipe without a writer, must not keep us.
    fd = openSync(
      typeof path === 'string' ? path : Buffer.from(path),
      constants.O_RDONLY | constants.O_NONBLOCK,
    );
  } catch {
    return null;
  }
  try {
    const { mode, uid } = fstatSync(fd);
    const identity = Buffer.alloc(IDENTITY_BYTES);
    readSync(fd, identity, 0, IDENTITY_BYTES, 0);
    return { identity, mode, uid };
  } catch {
    return null;
  } finally {
    closeSync(fd);
  }
}

function warningsOf(name: string, { identity, mode, uid }: ProgramFile): string[] {
  const warnings: string[] = [];
  if (identity.readUInt32BE(0) === ELF && identity[4] === ELFCLASS32)
    warnings.push(`${name} is a program of 32 bits: it finds no /dev/iommu; programs of 64 bits do`);
  if ((mode & S_ISUID) !== 0 && uid !== process.geteuid!())
    warnings.push(`${name} is set-user-ID, and runs as who started it: a seccomp filter allows no more`);
  return warnings;
}
