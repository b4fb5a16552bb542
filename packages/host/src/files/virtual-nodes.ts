import { statSync } from 'node:fs';

// Paths that exist for the program whatever the machine has.
//
// `process` is the global one here and everywhere in what the command line runs: importing from node:process makes
// streams of descriptors 0 to 2, and a terminal that the program shares would be in non-blocking mode from then on.

const S_IFMT = 0o170000;
export const S_IFDIR = 0o040000;
const S_IFCHR = 0o020000;
export const S_IFREG = 0o100000;
export const S_IFLNK = 0o120000;

const O_ACCMODE = 0o3;
const MISC_MAJOR = 10;
/** Linux gives /dev/iommu a dynamic minor (drivers/iommu/iommufd/main.c iommu_misc_dev); this is one of those. */
const IOMMU_MINOR = 125;
/** include/linux/miscdevice.h VFIO_MINOR. */
const VFIO_MINOR = 196;
/**
 * drivers/vfio/device_cdev.c vfio_cdev_init() and group.c vfio_group_init() take dynamic major numbers; they are given
 * from 511 down.
 */
const VFIO_DEVICE_MAJOR = 511;
const VFIO_GROUP_MAJOR = 510;
/** Inode numbers of devtmpfs are small; ours are out of their way. */
const FIRST_INODE = 0x7e00;

/** What stat(2) says of a file of ours. */
export interface NodeStat {
  readonly mode: number;
  readonly inode: number;
  readonly links: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly deviceMajor: number;
  readonly deviceMinor: number;
  /** Of a device file: its own number. */
  readonly major: number;
  readonly minor: number;
  /** When it was made, in seconds after 1970. */
  readonly seconds: number;
}

/** A path that is ours. */
export interface VirtualNode {
  readonly path: string;
  readonly stat: NodeStat;
}

/** The device files and directories below /dev. The minor of one of `deviceFiles` is the number in its name. */
export function deviceNodes(
  startSeconds: number,
  deviceFiles: readonly string[] = [],
): ReadonlyMap<string, VirtualNode> {
  const dev = statSync('/dev').dev;
  const common = {
    uid: process.getuid!(),
    gid: process.getgid!(),
    size: 0,
    deviceMajor: (dev >>> 8) & 0xfff,
    deviceMinor: (dev & 0xff) | ((dev >>> 12) & 0xfff00),
    seconds: startSeconds,
  };
  const nodes = new Map<string, VirtualNode>();
  const add = (path: string, mode: number, major: number, minor: number): void => {
    const links = (mode & S_IFMT) === S_IFDIR ? 2 : 1;
    const inode = FIRST_INODE + nodes.size;
    nodes.set(path, { path, stat: { ...common, mode, inode, links, major, minor } });
  };
  add('/dev/iommu', S_IFCHR | 0o660, MISC_MAJOR, IOMMU_MINOR);
  add('/dev/vfio', S_IFDIR | 0o755, 0, 0);
  add('/dev/vfio/vfio', S_IFCHR | 0o660, MISC_MAJOR, VFIO_MINOR);
  add('/dev/vfio/devices', S_IFDIR | 0o755, 0, 0);
  for (const path of deviceFiles) {
    const major = path.startsWith('/dev/vfio/devices/') ? VFIO_DEVICE_MAJOR : VFIO_GROUP_MAJOR;
    add(path, S_IFCHR | 0o660, major, Number.parseInt(/\d+$/.exec(path)?.[0] ?? '0', 10));
  }
  return nodes;
}

/** What stat(2) says of a file that an ioctl handed out (fs/anon_inodes.c: no type, mode 0600). */
export function anonymousStat(node: VirtualNode, inode: number): NodeStat {
  return { ...node.stat, mode: 0o600, inode, links: 1, major: 0, minor: 0 };
}

export function isDirectory({ mode }: NodeStat): boolean {
  return (mode & S_IFMT) === S_IFDIR;
}

/** Whether access(2) with `mode` (R_OK 4, W_OK 2, X_OK 1) is granted: the files are the caller's own. */
export function accessible(stat: NodeStat, mode: number): boolean {
  const granted = isDirectory(stat) ? 0o5 : (stat.mode >>> 6) & 0o7;
  return (mode & ~granted) === 0;
}

/** Whether open(2) with these flags asks to write. */
export function asksToWrite(flags: number): boolean {
  return (flags & O_ACCMODE) !== 0;
}
