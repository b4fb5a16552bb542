import { readFileSync } from 'node:fs';
import { EACCES, EEXIST, EFAULT, EINVAL, EISDIR, ENOTDIR, ENXIO } from '@viommu/core/abi/errno';
import { ENODATA } from '../errno.ts';
import { failed } from '@viommu/core/base/result';
import { exact } from '@viommu/core/base/u64';
import { OP, type Mailbox } from '../native.ts';
import { DEBUGFS } from '../files/fault-attributes.ts';
import type { InstalledFile } from '../files/files.ts';
import { ANSWERED, hand, PASS, putStat, type Answer, type Machine } from './machine.ts';
import { addToStatus } from '../processes/proc-text.ts';
import type { HostTask } from '../processes/processes.ts';
import { failNthFile } from '../files/pseudo-files.ts';
import { openTreeEntry, statOfTreeEntry, SYSFS_PATTERNS } from '../sysfs/calls.ts';
import { fromTree, type TreeEntry } from '../sysfs/tree.ts';
import {
  accessible,
  anonymousStat,
  asksToWrite,
  isDirectory,
  S_IFDIR,
  S_IFREG,
  type NodeStat,
  type VirtualNode,
} from '../files/virtual-nodes.ts';

// System calls that take a path. The addon has made the path absolute and stopped it only where it may be ours.

/** What the addon stops; `*` is any run of characters. */
export const PATH_PATTERNS: readonly string[] = [
  '/dev/iommu',
  '/dev/iommu/*',
  '/dev/vfio',
  '/dev/vfio/*',
  '/proc/*/status',
  '/proc/*/fail-nth',
  '/proc/*/fd/*',
  DEBUGFS,
  `${DEBUGFS}/fail*`,
  ...SYSFS_PATTERNS,
];

const O_CREAT = 0o100;
const O_EXCL = 0o200;
const O_DIRECTORY = process.arch === 'arm64' ? 0o40000 : 0o200000;
const O_CLOEXEC = 0o2000000;
const O_PATH = 0o10000000;
const O_NOFOLLOW = process.arch === 'arm64' ? 0o100000 : 0o400000;
const AT_SYMLINK_NOFOLLOW = 0x100;
const AT_EACCESS = 0x200;
const AT_NO_AUTOMOUNT = 0x800;
const AT_EMPTY_PATH = 0x1000;
const AT_STATX_SYNC_TYPE = 0x6000;
const STATX__RESERVED = 0x8000_0000;
const ACCESS_MODES = 7;
const ACCESS_FLAGS = AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH;
const STAT_FLAGS = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE;

const PROC_FILE = /^\/proc\/(\d+)(?:\/task\/(\d+))?\/(status|fail-nth|fd\/(\d+))$/;

/** What a path leads to. */
export type Target =
  | { readonly kind: 'node'; readonly node: VirtualNode }
  /** Something in what is no directory. */
  | { readonly kind: 'nowhere' }
  | { readonly kind: 'fault'; readonly what: 'directory' | 'file' }
  | { readonly kind: 'status'; readonly pid: number }
  | { readonly kind: 'fail-nth'; readonly pid: number; readonly tid: number }
  | { readonly kind: 'descriptor'; readonly file: InstalledFile }
  | { readonly kind: 'tree'; readonly entry: TreeEntry };

/** What the call's absolute path leads to; null where it is nothing of ours. */
export function findTarget(machine: Machine): Target | null {
  const { box, tree } = machine;
  const path = fromTree(box.path);
  const node = machine.nodes.get(path);
  if (node !== undefined)
    return endsInSlash(box) && !isDirectory(node.stat) ? NOWHERE : { kind: 'node', node };
  if (path.startsWith('/dev/') && isInNode(machine, path)) return NOWHERE;
  if (path.startsWith(DEBUGFS)) {
    const what = machine.faults.kind(path);
    return what === null ? null : { kind: 'fault', what };
  }
  if (path.startsWith('/sys/') || path.startsWith('/dev/')) {
    const entry = tree.find(path, followsLink(box));
    return entry === null ? null : { kind: 'tree', entry };
  }
  const match = PROC_FILE.exec(path);
  if (match === null) return null;
  const pid = Number.parseInt(match[1]!, 10);
  const tid = match[2] === undefined ? pid : Number.parseInt(match[2], 10);
  if (match[3] === 'status') return { kind: 'status', pid };
  if (match[3] === 'fail-nth') return { kind: 'fail-nth', pid, tid };
  const file = machine.files.of(tid, Number.parseInt(match[4]!, 10));
  return file === undefined ? null : { kind: 'descriptor', file };
}

const NOWHERE = { kind: 'nowhere' } as const;

function isInNode({ nodes }: Machine, path: string): boolean {
  for (let end = path.lastIndexOf('/'); end > 0; end = path.lastIndexOf('/', end - 1)) {
    const node = nodes.get(path.slice(0, end));
    if (node !== undefined) return !isDirectory(node.stat);
  }
  return false;
}

/** A slash at the end: what is there must be a directory. */
function endsInSlash(box: Mailbox): boolean {
  return box.low(3) !== 0;
}

/** Whether the call wants what a link leads to. */
function followsLink(box: Mailbox): boolean {
  if (endsInSlash(box) || box.op === OP.ACCESS) return true;
  if (box.op === OP.OPEN) return (box.low(0) & O_NOFOLLOW) === 0;
  return box.op !== OP.READLINK && (box.low(1) & AT_SYMLINK_NOFOLLOW) === 0;
}

/** Answers the call in the mailbox. */
export function answerPathCall(machine: Machine, task: HostTask, target: Target): Answer {
  const { box } = machine;
  const { path, op } = box;
  if (!hasGoodFlags(box)) return PASS; // the kernel refuses it before it looks at the path
  if (target.kind === 'nowhere') return -ENOTDIR;
  switch (op) {
    case OP.OPEN:
      return open(machine, task, target, path, box.low(0));
    case OP.READLINK:
      return readlink(machine, task, target);
    case OP.XATTR:
      // None of ours has any. What is listed is nothing.
      return target.kind === 'status' ? PASS : box.low(0) === 1 ? 0 : -ENODATA;
    case OP.ACCESS: {
      const stat = statOf(machine, target);
      return stat === null ? PASS : accessible(stat, box.low(0)) ? 0 : -EACCES;
    }
    default: {
      const follow = (box.low(1) & AT_SYMLINK_NOFOLLOW) === 0;
      const stat = target.kind === 'descriptor' && !follow ? null : statOf(machine, target);
      return stat === null ? PASS : putStat(machine, task.tid, box.arg(0), stat, op === OP.STATX);
    }
  }
}

/** fs/stat.c vfs_statx(), do_statx(); fs/open.c do_faccessat(). */
function hasGoodFlags(box: Mailbox): boolean {
  const flags = box.low(1);
  switch (box.op) {
    case OP.ACCESS:
      return (box.low(0) & ~ACCESS_MODES) === 0 && (flags & ~ACCESS_FLAGS) === 0;
    case OP.STAT:
      return (flags & ~STAT_FLAGS) === 0;
    case OP.STATX:
      return (
        (flags & ~STAT_FLAGS) === 0 &&
        (flags & AT_STATX_SYNC_TYPE) !== AT_STATX_SYNC_TYPE &&
        (box.low(2) & STATX__RESERVED) === 0
      );
    default:
      return true;
  }
}

/** What stat(2) says of an open file. */
export function statOfFile(machine: Machine, { file, node, inode }: InstalledFile): NodeStat {
  if (file.type === 'pseudo') return file.stat;
  if (node !== null) return node.stat;
  return { ...anonymousStat(machine.nodes.get('/dev/iommu')!, inode), size: file.size ?? 0 };
}

function statOf(machine: Machine, target: Target): NodeStat | null {
  const plain = (mode: number): NodeStat => ({
    ...machine.nodes.get('/dev/iommu')!.stat,
    mode,
    major: 0,
    minor: 0,
  });
  switch (target.kind) {
    case 'nowhere':
      return null;
    case 'node':
      return target.node.stat;
    case 'fault':
      return plain(target.what === 'directory' ? S_IFDIR | 0o755 : S_IFREG | 0o600);
    case 'status':
      return null;
    case 'fail-nth':
      return plain(S_IFREG | 0o644);
    case 'descriptor':
      return statOfFile(machine, target.file);
    case 'tree':
      return statOfTreeEntry(target.entry);
  }
}

function open(machine: Machine, task: HostTask, target: Target, path: string, flags: number): Answer {
  switch (target.kind) {
    case 'nowhere':
      return -ENOTDIR;
    case 'node':
      return openNode(machine, task, target.node, flags);
    case 'fault':
      return openFault(machine, path, target.what, flags);
    case 'status':
      return openStatus(machine, target.pid, path, flags);
    case 'fail-nth':
      return openFailNth(machine, task, target, flags);
    case 'descriptor': {
      const { node } = target.file;
      if ((flags & O_NOFOLLOW) !== 0) return PASS;
      // fs/open.c: opening /proc/self/fd/N opens what it links to once more, which files without a path refuse.
      return node === null ? -ENXIO : openNode(machine, task, node, flags);
    }
    case 'tree':
      return openTreeEntry(machine, task, target.entry, flags);
  }
}

function openNode(machine: Machine, task: HostTask, node: VirtualNode, flags: number): Answer {
  if ((flags & O_CREAT) !== 0 && (flags & O_DIRECTORY) !== 0) return -EINVAL;
  if ((flags & (O_CREAT | O_EXCL)) === (O_CREAT | O_EXCL)) return -EEXIST;
  const directory = isDirectory(node.stat);
  if (!directory && (flags & O_DIRECTORY) !== 0) return -ENOTDIR;
  if (directory && asksToWrite(flags)) return -EISDIR;
  if (directory) return openDirectory(machine, node.path, flags);
  if ((flags & O_PATH) !== 0) return PASS;
  const file = machine.kernel.open(node.path, task, flags);
  if (file === null) return PASS;
  if (failed(file)) return -file.errno;
  const fd = machine.files.install(task, file, {
    closeOnExec: (flags & O_CLOEXEC) !== 0,
    answer: true,
    flags,
    node,
  });
  if (fd < 0) {
    file.release();
    return fd;
  }
  const { trace } = machine;
  if (trace.active) trace.emit({ kind: 'open', by: taskName(task), path: node.path, fd });
  return ANSWERED;
}

/** As traces name a task: the process, and the thread where it is not the first. */
function taskName({ tid, process: { pid } }: HostTask): string {
  return tid === pid ? String(pid) : `${pid}/${tid}`;
}

function openDirectory(machine: Machine, path: string, flags: number): Answer {
  const entry = machine.tree.find(path, true);
  return entry === null ? PASS : hand(machine, machine.tree.openDirectory(entry), flags);
}

function openFault(machine: Machine, path: string, what: 'directory' | 'file', flags: number): Answer {
  if (what === 'file' && (flags & O_DIRECTORY) !== 0) return -ENOTDIR;
  if (what === 'directory' && asksToWrite(flags)) return -EISDIR;
  return hand(machine, machine.faults.open(path, what, flags), flags);
}

function openStatus(machine: Machine, pid: number, path: string, flags: number): Answer {
  const memory = machine.processes.byPid(pid)?.memory;
  if (memory === undefined || (memory.lockedPages === 0 && memory.pinnedPages === 0)) return PASS;
  if (asksToWrite(flags)) return -EACCES;
  let text: string;
  try {
    text = readFileSync(path, 'latin1');
  } catch {
    return PASS;
  }
  const shown = addToStatus(text, memory.lockedPages, memory.pinnedPages);
  return hand(machine, machine.native.textFile(Buffer.from(shown, 'latin1')), flags);
}

function openFailNth(
  machine: Machine,
  task: HostTask,
  target: Target & { kind: 'fail-nth' },
  flags: number,
): Answer {
  const { processes, files } = machine;
  const thread = processes.byTid(target.tid);
  if (thread === null || thread.process.pid !== target.pid) return PASS;
  const file = failNthFile(() => processes.byTid(target.tid), statOf(machine, target)!);
  const closeOnExec = (flags & O_CLOEXEC) !== 0;
  const fd = files.install(task, file, { closeOnExec, answer: true, flags, node: null });
  return fd < 0 ? fd : ANSWERED;
}

function linkName({ file, node }: InstalledFile): string {
  return node?.path ?? (file.type === 'pseudo' ? '/proc/self/fail-nth' : LINK_NAMES[file.type]);
}

function readlink(machine: Machine, task: HostTask, target: Target): Answer {
  const { box } = machine;
  let name: string;
  if (target.kind === 'descriptor') name = linkName(target.file);
  else if (target.kind === 'tree' && target.entry.node.kind === 'link') name = target.entry.node.target;
  else return target.kind === 'status' || target.kind === 'fail-nth' ? PASS : -EINVAL;
  const size = exact(box.arg(1) & 0x7fff_ffffn);
  if (size === 0) return -EINVAL;
  const bytes = new TextEncoder().encode(name).subarray(0, size);
  return task.process.memory.write(box.arg(0), bytes) ? bytes.length : -EFAULT;
}

// drivers/iommu/iommufd/eventq.c and selftest.c: anon_inode_getfile(); drivers/dma-buf/dma-buf.c dmabuffs_dname().
const LINK_NAMES = {
  iommufd: '/dev/iommu',
  'vfio-device': 'anon_inode:[vfio-device]',
  'vfio-group': '/dev/vfio',
  'migration-data': 'anon_inode:vfio_mig',
  'fault-queue': 'anon_inode:[iommufd-pgfault]',
  veventq: 'anon_inode:[iommufd-viommu-event]',
  access: 'anon_inode:[iommufd_test_staccess]',
  'dma-buf': '/dmabuf:',
} as const;
