import {
  chmodSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readlinkSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path/posix';
import type { SysfsFile, SysfsNode } from './nodes.ts';

// The nodes as real directories, files and links on tmpfs: so the kernel itself lists them, and follows links and
// relative paths among them.

const NAME = 'viommu-sysfs-';
/** What paths into a tree look like: those that start from a descriptor of one of its directories. */
export const TREE_PATTERN = `*/${NAME}*`;
/** Numbers of processes mean something within a PID namespace alone. */
const pidNamespace = (): string => readlinkSync('/proc/self/ns/pid').replaceAll(/\D/g, '');
const BELOW_TREE = new RegExp(`/${NAME}[^/]*(?=/|$)`);
const O_CLOEXEC = 0o2000000;
const O_DIRECTORY = process.arch === 'arm64' ? 0o40000 : 0o200000;

/** What a path leads to in the tree. */
export interface TreeEntry {
  /** Where it is on tmpfs. */
  readonly real: string;
  readonly node: SysfsNode;
}

/** The path that a path into a tree stands for. */
export function fromTree(path: string): string {
  const match = BELOW_TREE.exec(path);
  return match === null ? path : path.slice(match.index + match[0].length);
}

/** Made when a program first asks for a path in it. */
export class SysfsTree {
  readonly #directory: string;
  readonly #contents: () => ReadonlyMap<string, SysfsNode>;
  #nodes: ReadonlyMap<string, SysfsNode> | null = null;
  #root = '';

  /** `directory`: where it is made, on tmpfs. */
  constructor(directory: string, contents: () => ReadonlyMap<string, SysfsNode>) {
    this.#directory = directory;
    this.#contents = contents;
  }

  /**
   * What an absolute path leads to; null where it is not in the tree, and the system's, if anybody's. `follow`: the last
   * component is not taken as a link.
   */
  find(path: string, follow: boolean): TreeEntry | null {
    const nodes = this.#made();
    const real = this.#resolve(path, follow);
    if (real === null) return null;
    const node = nodes.get(real.slice(this.#root.length));
    return node === undefined ? null : { real, node };
  }

  /** A descriptor of a directory, or -1. */
  openDirectory({ real }: TreeEntry): number {
    try {
      return openSync(real, O_DIRECTORY | O_CLOEXEC);
    } catch {
      return -1;
    }
  }

  /** Takes it away. */
  remove(): void {
    if (this.#root !== '') rmSync(this.#root, { recursive: true, force: true });
    this.#root = '';
    this.#nodes = null;
  }

  /** Where the path is on tmpfs; null where nothing is or where a link leads out. */
  #resolve(path: string, follow: boolean): string | null {
    const at = this.#root + path;
    try {
      const real = follow ? realpathSync(at) : join(realpathSync(dirname(at)), basename(at));
      return real.startsWith(`${this.#root}/`) ? real : null;
    } catch {
      return null;
    }
  }

  #made(): ReadonlyMap<string, SysfsNode> {
    if (this.#nodes !== null) return this.#nodes;
    sweep(this.#directory);
    const nodes = this.#contents();
    this.#root = realpathSync(mkdtempSync(`${this.#directory}/${NAME}${pidNamespace()}-${process.pid}-`));
    this.#nodes = nodes;
    // The program may have another user.
    chmodSync(this.#root, 0o755);
    for (const [path, node] of nodes) make(this.#root + path, node);
    for (const [path, node] of nodes) if (node.kind === 'directory') merge(this.#root + path, path);
    return nodes;
  }
}

function make(real: string, node: SysfsNode): void {
  if (node.kind === 'directory') mkdirSync(real, { recursive: true });
  else if (node.kind === 'link') symlinkSync(node.target, real);
  else writeFileSync(real, content(node), { mode: node.mode });
}

function content({ size, read }: SysfsFile): Uint8Array {
  return size === 0 ? new Uint8Array() : read();
}

/** Adds what the system has in the directory: its links as they are, the rest by links to it. */
function merge(real: string, path: string): void {
  const ours = new Set(readdirSync(real));
  for (const name of listing(path)) {
    if (ours.has(name)) continue;
    const at = `${path}/${name}`;
    const link = lstatSync(at, { throwIfNoEntry: false })?.isSymbolicLink() === true;
    symlinkSync(link ? readlinkSync(at) : at, `${real}/${name}`);
  }
}

function listing(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** Removes trees of supervisors that were killed. */
function sweep(directory: string): void {
  for (const name of listing(directory)) {
    const pid = new RegExp(`^${NAME}${pidNamespace()}-(\\d+)-`).exec(name)?.[1];
    if (pid === undefined || listing(`/proc/${pid}`).length > 0) continue;
    try {
      rmSync(`${directory}/${name}`, { recursive: true, force: true });
    } catch {
      // Somebody else's: theirs to remove.
    }
  }
}
