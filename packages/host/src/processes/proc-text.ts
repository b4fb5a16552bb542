// Text files of /proc/PID (Documentation/filesystems/proc.rst).

/** What is read of /proc/TID/status. */
export interface TaskStatus {
  /** The thread group: the process. */
  readonly tgid: number;
  readonly parent: number;
  /** The real user id. */
  readonly uid: number;
  /** CapEff, one bit each. */
  readonly capabilities: bigint;
}

function field(text: string, name: string): string | undefined {
  const at = text.startsWith(`${name}:`) ? 0 : text.indexOf(`\n${name}:`) + 1;
  if (at === 0 && !text.startsWith(`${name}:`)) return undefined;
  const end = text.indexOf('\n', at);
  return text.slice(at + name.length + 1, end < 0 ? undefined : end).trim();
}

/** Parses /proc/TID/status; null where it is not one. */
export function parseStatus(text: string): TaskStatus | null {
  const [tgid, parent, uids, capabilities] = ['Tgid', 'PPid', 'Uid', 'CapEff'].map((name) =>
    field(text, name),
  );
  if (tgid === undefined || parent === undefined || uids === undefined || capabilities === undefined)
    return null;
  return {
    tgid: Number.parseInt(tgid, 10),
    parent: Number.parseInt(parent, 10),
    uid: Number.parseInt(uids, 10),
    capabilities: BigInt(`0x${capabilities}`),
  };
}

/** What is read of /proc/TID/stat: what tells one task of a number from the next, and one program from the next. */
export interface TaskStat {
  /** When it started, in clock ticks after boot (field 22). */
  readonly startTime: string;
  /** The bottom of its stack (field 28), which execve() chooses anew. */
  readonly startStack: string;
}

/** Parses /proc/TID/stat; null where it is not one. The name in it may hold blanks and parentheses. */
export function parseStat(text: string): TaskStat | null {
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const [startTime, startStack] = [fields[19], fields[25]];
  return startTime === undefined || startStack === undefined ? null : { startTime, startStack };
}

/** /proc/PID/status with pages of 4 KiB added to VmLck and VmPin (fs/proc/task_mmu.c task_mem()). */
export function addToStatus(text: string, lockedPages: number, pinnedPages: number): string {
  const add = (name: string, pages: number) => (line: string, kib: string) =>
    pages === 0 ? line : `${name}:\t${String(Number.parseInt(kib, 10) + pages * 4).padStart(8)} kB`;
  return text
    .replace(/^VmLck:\s*(\d+) kB$/m, add('VmLck', lockedPages))
    .replace(/^VmPin:\s*(\d+) kB$/m, add('VmPin', pinnedPages));
}

/** One line of /proc/PID/maps. Addresses in bytes; `end` is exclusive there. */
export interface MapsLine {
  readonly start: bigint;
  readonly end: bigint;
  readonly readable: boolean;
  readonly writable: boolean;
  readonly shared: boolean;
  readonly offset: bigint;
  readonly major: number;
  readonly minor: number;
  readonly inode: bigint;
  readonly name: string;
}

const MAPS_LINE =
  /^([0-9a-f]+)-([0-9a-f]+) ([r-])([w-])[x-]([sp]) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+)\s*(.*)$/;

/** Parses /proc/PID/maps. */
export function parseMaps(text: string): MapsLine[] {
  const lines: MapsLine[] = [];
  for (const line of text.split('\n')) {
    const match = MAPS_LINE.exec(line);
    if (match === null) continue;
    const [, start, end, readable, writable, shared, offset, major, minor, inode, name] = match;
    lines.push({
      start: BigInt(`0x${start!}`),
      end: BigInt(`0x${end!}`),
      readable: readable === 'r',
      writable: writable === 'w',
      shared: shared === 's',
      offset: BigInt(`0x${offset!}`),
      major: Number.parseInt(major!, 16),
      minor: Number.parseInt(minor!, 16),
      inode: BigInt(inode!),
      name: name!,
    });
  }
  return lines;
}

/** What /proc/PID/smaps tells of one mapping beyond /proc/PID/maps. */
export interface SmapsEntry {
  readonly pageBytes: number;
  /** Two letters each: 'io' VM_IO, 'pf' VM_PFNMAP, 'ht' VM_HUGETLB. */
  readonly flags: readonly string[];
}

/** The entry of /proc/PID/smaps for the mapping that starts at `start`; null where there is none. */
export function findSmapsEntry(text: string, start: bigint): SmapsEntry | null {
  const head = `${start.toString(16).padStart(8, '0')}-`;
  const at = text.startsWith(head) ? 0 : text.indexOf(`\n${head}`) + 1;
  if (at === 0 && !text.startsWith(head)) return null;
  const flagsAt = text.indexOf('\nVmFlags:', at);
  const end = flagsAt < 0 ? text.length : text.indexOf('\n', flagsAt + 1);
  const entry = text.slice(at, end < 0 ? undefined : end);
  const kib = field(entry, 'KernelPageSize');
  const flags = field(entry, 'VmFlags');
  return {
    pageBytes: kib === undefined ? 4096 : Number.parseInt(kib, 10) * 1024,
    flags: flags === undefined ? [] : flags.split(/\s+/),
  };
}
