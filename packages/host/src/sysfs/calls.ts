import { closeSync, lstatSync, readFileSync } from 'node:fs';
import { EACCES, EFAULT, EISDIR, ENOTDIR } from '@viommu/core/abi/errno';
import type { Task } from '@viommu/core/memory/process';
import { ELOOP } from '../errno.ts';
import { hand, type Answer, type Machine } from '../calls/machine.ts';
import type { Native } from '../native.ts';
import type { HostTask } from '../processes/processes.ts';
import type { PseudoFile } from '../files/pseudo-files.ts';
import { asksToWrite, S_IFDIR, S_IFLNK, S_IFREG, type NodeStat } from '../files/virtual-nodes.ts';
import type { SysfsFile } from './nodes.ts';
import { TREE_PATTERN, type TreeEntry } from './tree.ts';

// System calls with a path into the tree.

/** Which paths the addon stops. What is beside them in the same directories is the system's. */
export const SYSFS_PATTERNS: readonly string[] = [
  '/sys/bus/pci',
  '/sys/bus/pci/*',
  '/sys/class/iommu*',
  '/sys/class/misc',
  '/sys/class/misc/*',
  '/sys/class/vfio*',
  '/sys/dev/char/*',
  '/sys/devices/pci*',
  '/sys/devices/virtual/iommu*',
  '/sys/devices/virtual/misc*',
  '/sys/devices/virtual/vfio*',
  '/sys/kernel/iommu_groups*',
  '/sys/module/iommufd*',
  '/sys/module/vfio*',
  TREE_PATTERN,
];

const O_DIRECTORY = process.arch === 'arm64' ? 0o40000 : 0o200000;
const O_CLOEXEC = 0o2000000;
const O_RDONLY = 0;
/** A file of sysfs takes at most a page at once. */
const STORE_BYTES_MAX = 4096;

const decoder = new TextDecoder();

const TYPES = { directory: S_IFDIR, link: S_IFLNK, file: S_IFREG } as const;

export function statOfTreeEntry({ real, node }: TreeEntry): NodeStat {
  const stat = lstatSync(real);
  const permissions = node.kind === 'file' ? node.mode : node.kind === 'link' ? 0o777 : 0o755;
  return {
    mode: TYPES[node.kind] | permissions,
    inode: stat.ino,
    links: node.kind === 'directory' ? stat.nlink : 1,
    uid: stat.uid,
    gid: stat.gid,
    size: node.kind === 'file' ? node.size : 0,
    deviceMajor: (stat.dev >>> 8) & 0xfff,
    deviceMinor: (stat.dev & 0xff) | ((stat.dev >>> 12) & 0xfff00),
    major: 0,
    minor: 0,
    seconds: Math.floor(stat.mtimeMs / 1000),
  };
}

/** open(2). What is read of an attribute is what it says now. */
export function openTreeEntry(machine: Machine, task: HostTask, entry: TreeEntry, flags: number): Answer {
  const { node } = entry;
  if (node.kind === 'link') return -ELOOP;
  if (node.kind === 'directory') {
    return asksToWrite(flags) ? -EISDIR : hand(machine, machine.tree.openDirectory(entry), flags);
  }
  if ((flags & O_DIRECTORY) !== 0) return -ENOTDIR;
  if (!asksToWrite(flags)) return hand(machine, machine.native.textFile(node.read()), flags);
  if (node.write === undefined) return -EACCES;
  const file = new AttributeFile(node, node.write, statOfTreeEntry(entry));
  const closeOnExec = (flags & O_CLOEXEC) !== 0;
  const fd = machine.files.install(task, file, { closeOnExec, answer: false, flags, node: null });
  if (fd >= 0) file.watch(machine.native, task.tid, fd);
  return fd;
}

/** An attribute that may be written, in open form. Each write is given to it at once (fs/kernfs/file.c). */
class AttributeFile implements PseudoFile {
  readonly type = 'pseudo';
  readonly stat: NodeStat;
  readonly #node: SysfsFile;
  readonly #store: NonNullable<SysfsFile['write']>;
  #view = -1;

  constructor(node: SysfsFile, store: NonNullable<SysfsFile['write']>, stat: NodeStat) {
    this.#node = node;
    this.#store = store;
    this.stat = stat;
  }

  /**
   * Keeps the file behind the descriptor: a shell moves it to number 1, where writes are not stopped and go into that
   * file. They are given to the attribute when it is closed.
   */
  watch(native: Native, tid: number, fd: number): void {
    this.#view = native.openOf(tid, fd, O_RDONLY);
  }

  read(task: Task, va: bigint, count: number, offset: number): number {
    const bytes = this.#node.read().subarray(offset, offset + count);
    return bytes.length === 0 || task.process.memory.write(va, bytes) ? bytes.length : -EFAULT;
  }

  write(task: Task, va: bigint, count: number): number {
    const bytes = new Uint8Array(Math.min(count, STORE_BYTES_MAX));
    if (!task.process.memory.read(va, bytes)) return -EFAULT;
    const refused = this.#store(decoder.decode(bytes));
    return refused === null ? bytes.length : -refused;
  }

  release(): void {
    if (this.#view < 0) return;
    const text = readFileSync(this.#view, 'utf8');
    closeSync(this.#view);
    if (text !== '') this.#store(text.slice(0, STORE_BYTES_MAX));
  }
}
