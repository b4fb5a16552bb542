import { dirname, relative } from 'node:path/posix';

// What can stand in the part of sysfs that is ours.

const encoder = new TextEncoder();

/** What a path below /sys, or a directory below /dev, holds. Absolute paths without a slash at the end. */
export type SysfsNode =
  { readonly kind: 'directory' } | { readonly kind: 'link'; readonly target: string } | SysfsFile;

/** An attribute. */
export interface SysfsFile {
  readonly kind: 'file';
  /** Permission bits. */
  readonly mode: number;
  /** What stat(2) says: a page for attributes of text, whatever they hold. */
  readonly size: number;
  /** What is read now. */
  read(): Uint8Array;
  /** Takes what was written at once: null, or the errno that refuses it. Without it nobody may write. */
  readonly write?: (text: string) => number | null;
}

const TEXT_BYTES = 4096;

/** Gathers nodes. Directories above them come of themselves. */
export class SysfsNodes {
  readonly nodes = new Map<string, SysfsNode>();

  directory(path: string): void {
    if (path === '/' || this.nodes.has(path)) return;
    this.directory(dirname(path));
    this.nodes.set(path, { kind: 'directory' });
  }

  /** An attribute of text; a newline is added. */
  text(path: string, value: string | (() => string), mode = 0o444, write?: SysfsFile['write']): void {
    const read = (): Uint8Array => encoder.encode(`${typeof value === 'string' ? value : value()}\n`);
    this.#add(path, {
      kind: 'file',
      mode,
      size: TEXT_BYTES,
      read,
      ...(write === undefined ? {} : { write }),
    });
  }

  /** An attribute of bytes. */
  bytes(path: string, size: number, read: () => Uint8Array, mode = 0o444): void {
    this.#add(path, { kind: 'file', mode, size, read });
  }

  /** A relative link, as those of sysfs are. */
  link(path: string, to: string): void {
    this.#add(path, { kind: 'link', target: relative(dirname(path), to) });
  }

  #add(path: string, node: SysfsNode): void {
    this.directory(dirname(path));
    this.nodes.set(path, node);
  }
}
