import type { Task } from './process.ts';

/**
 * An open file that we answer for: Linux's struct file. Whoever hosts it calls `release()` once, when the last
 * descriptor and the last mapping of it are gone. Results are Linux's: zero or more, or a negative errno.
 */
export interface OpenFile {
  /** What it is: it decides how the host presents it. */
  readonly type:
    | 'iommufd'
    | 'vfio-device'
    | 'vfio-group'
    | 'migration-data'
    | 'fault-queue'
    | 'veventq'
    | 'access'
    | 'dma-buf';
  ioctl(task: Task, cmd: number, arg: bigint): number;
  release(): void;
  /** Event queues and migration data: read(2) with the program's buffer at `va`. */
  read?(task: Task, va: bigint, count: number): number;
  /** Event queues and migration data: write(2). */
  write?(task: Task, va: bigint, count: number): number;
  /** Devices: pread(2) with the program's buffer at `va`. */
  pread?(task: Task, va: bigint, count: number, offset: bigint): number;
  /** Devices: pwrite(2). */
  pwrite?(task: Task, va: bigint, count: number, offset: bigint): number;
  /** Where poll(2) works: what it says now. */
  readonly readable?: boolean;
  /** Called by core whenever `readable` may have changed; set by the host. */
  onReadableChange?: (() => void) | undefined;
  /** mmap(2) with MAP_SHARED: 0 where the mapping is right, else a negative errno. `offset` and `length` in bytes. */
  mmap?(task: Task, offset: bigint, length: bigint, prot: number): number;
  /** What fstat(2) and lseek(2) say of its length, in bytes; nothing where that is absent. */
  readonly size?: number;
  /**
   * The pages that mmap(2) of the file shows, by the offset of the mapping: shared by the programs that map it and by
   * core. Set by the host where it can share memory.
   */
  backing?: FileBacking | undefined;
}

/** Pages behind an open file that programs map. Offsets and lengths in bytes. */
export interface FileBacking {
  read(offset: bigint, into: Uint8Array): boolean;
  write(offset: bigint, from: Uint8Array): boolean;
  /** Takes the pages from every mapping, whose accesses are SIGBUS then, or gives fresh ones back. Their bytes are lost. */
  setReachable?(reachable: boolean): void;
  /** True while some program has a mapping that touches the range. */
  mapped(offset: bigint, length: bigint): boolean;
}
