import { EBADF, EFAULT, EINVAL, ENODEV, ENOMEM, ENOMSG, ENOTTY } from '../../abi/errno.ts';
import { VFIO_MIG_GET_PRECOPY_INFO, VFIO_PRECOPY_INFO_REINIT, vfio_precopy_info } from '../../abi/vfio.ts';
import { big } from '../../base/u64.ts';
import type { OpenFile } from '../../memory/file.ts';
import type { Task } from '../../memory/process.ts';
import { writeRecord } from './stream.ts';

// The descriptors of a migration: include/uapi/linux/vfio.h VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE. Errnos are those of
// drivers/vfio/pci/mlx5/main.c.

/** More than any device here saves: a program that writes without end is told ENOMEM. */
const RESUME_BYTES_MAX = 64 << 20;

/** What a saving descriptor asks of the device. */
export interface SavedDevice {
  /** Names its kind. */
  readonly identity: number;
  save(): Uint8Array;
  /** PRE_COPY or PRE_COPY_P2P. */
  readonly preCopying: boolean;
  /** VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 was set. */
  readonly infoV2: boolean;
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}

/** The device's inside is read from it. */
export class SaveFile implements OpenFile {
  readonly type = 'migration-data';
  onReadableChange: (() => void) | undefined;
  readonly #device: SavedDevice;
  /** What is to be read next, and what of it was read. */
  #bytes: Uint8Array = new Uint8Array();
  #at = 0;
  /** The snapshot that was put in last. */
  #sent: Uint8Array | null = null;
  /** What is to be read is initial data, and not a change of it. */
  #initial = false;
  /** It is initial data that came because the device holds something of another size now. */
  #anew = false;
  #complete = false;
  #disabled = false;

  /** With `complete` the stream is what the device holds now, else it begins a pre-copy. */
  constructor(device: SavedDevice, complete: boolean) {
    this.#device = device;
    if (complete) this.finish();
    else this.#putSnapshot(true, false);
  }

  /** The device has stopped: the last snapshot is what it holds now. */
  finish(): void {
    if (this.#disabled) return;
    this.#append(writeRecord(this.#device.identity, this.#device.save(), true));
    this.#complete = true;
    this.onReadableChange?.();
  }

  /** The transfer has ended: nothing comes any more. */
  disable(): void {
    this.#disabled = true;
    this.#bytes = new Uint8Array();
    this.#at = 0;
    this.onReadableChange?.();
  }

  get #left(): number {
    return this.#bytes.length - this.#at;
  }

  #putSnapshot(initial: boolean, anew: boolean): void {
    this.#sent = this.#device.save();
    this.#initial = initial;
    this.#anew = anew;
    this.#append(writeRecord(this.#device.identity, this.#sent, false));
  }

  #append(more: Uint8Array): void {
    const bytes = new Uint8Array(this.#left + more.length);
    bytes.set(this.#bytes.subarray(this.#at));
    bytes.set(more, this.#left);
    this.#bytes = bytes;
    this.#at = 0;
  }

  /** Where the device changed since the last snapshot, another one: what it takes, and whether it is of another size. */
  #changed(): { readonly bytes: number; readonly resized: boolean } | null {
    const state = this.#device.save();
    if (this.#sent !== null && same(state, this.#sent)) return null;
    const { length } = writeRecord(this.#device.identity, state, false);
    return { bytes: length, resized: state.length !== this.#sent?.length };
  }

  #more(): void {
    const changed = this.#changed();
    if (changed === null) return;
    const anew = changed.resized && this.#device.infoV2;
    this.#putSnapshot(anew, anew);
  }

  get readable(): boolean {
    return this.#disabled || this.#complete || this.#left > 0 || this.#changed() !== null;
  }

  /** ENOMSG where a pre-copy has nothing at the moment. */
  read(task: Task, va: bigint, count: number): number {
    if (this.#disabled) return -ENODEV;
    if (this.#left === 0 && !this.#complete) this.#more();
    if (this.#left === 0) return this.#complete || count === 0 ? 0 : -ENOMSG;
    const part = this.#bytes.subarray(this.#at, this.#at + count);
    if (!task.process.memory.write(va, part)) return -EFAULT;
    this.#at += part.length;
    if (this.#left === 0) this.#initial = false;
    this.onReadableChange?.();
    return part.length;
  }

  /** It is open for reading alone. */
  write(): number {
    return -EBADF;
  }

  ioctl({ process }: Task, cmd: number, arg: bigint): number {
    if (cmd !== VFIO_MIG_GET_PRECOPY_INFO) return -ENOTTY;
    const bytes = new Uint8Array(vfio_precopy_info.size);
    if (!process.memory.read(arg, bytes)) return -EFAULT;
    const info = vfio_precopy_info.read(bytes);
    if (info.argsz < bytes.length || !this.#device.preCopying) return -EINVAL;
    if (this.#disabled) return -ENODEV;
    const { infoV2 } = this.#device;
    if (infoV2 && this.#left === 0) this.#more();
    // Before the second version the flags came back as they were.
    if (infoV2) info.flags = this.#anew && this.#initial ? VFIO_PRECOPY_INFO_REINIT : 0;
    const dirty = this.#changed()?.bytes ?? 0;
    info.initial_bytes = big(this.#initial ? this.#left : 0);
    info.dirty_bytes = big((this.#initial ? 0 : this.#left) + dirty);
    vfio_precopy_info.write(bytes, 0, info);
    return process.memory.write(arg, bytes) ? 0 : -EFAULT;
  }

  release(): void {
    this.disable();
  }
}

/** What another device saved is written to it. */
export class ResumeFile implements OpenFile {
  readonly type = 'migration-data';
  readonly readable = false;
  onReadableChange: (() => void) | undefined;
  #parts: Uint8Array[] = [];
  #bytes = 0;
  #disabled = false;

  /** Everything that came. */
  get stream(): Uint8Array {
    const stream = new Uint8Array(this.#bytes);
    let at = 0;
    for (const part of this.#parts) {
      stream.set(part, at);
      at += part.length;
    }
    return stream;
  }

  disable(): void {
    this.#disabled = true;
    this.#parts = [];
    this.#bytes = 0;
  }

  /** It is open for writing alone. */
  read(): number {
    return -EBADF;
  }

  write({ process }: Task, va: bigint, count: number): number {
    if (this.#bytes + count > RESUME_BYTES_MAX) return -ENOMEM;
    if (this.#disabled) return -ENODEV;
    const part = new Uint8Array(count);
    if (!process.memory.read(va, part)) return -EFAULT;
    this.#parts.push(part);
    this.#bytes += count;
    return count;
  }

  ioctl(): number {
    return -ENOTTY;
  }

  release(): void {}
}
