import { closeSync, fstatSync, fsyncSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { EINVAL, EIO } from '@viommu/core/abi/errno';
import { fail, type Result } from '@viommu/core/base/result';
import { big, exact } from '@viommu/core/base/u64';
import type { ConsoleSettings, DeviceBackends } from '@viommu/core/machine/devices/backends';
import type { BlockBackend } from '@viommu/core/pci/nvme/block';
import type { ConsoleBackend } from '@viommu/core/pci/virtio/console';

// Files of this machine behind the devices of the modelled one.

const ZEROS = new Uint8Array(64 << 10);

/** A file as a disk. */
class FileDisk implements BlockBackend {
  readonly blockBytes: number;
  readonly blocks: bigint;
  readonly readOnly: boolean;
  readonly #fd: number;

  constructor(fd: number, blockBytes: number, readOnly: boolean) {
    this.#fd = fd;
    this.blockBytes = blockBytes;
    this.readOnly = readOnly;
    this.blocks = fstatSync(fd, { bigint: true }).size / big(blockBytes);
  }

  read(block: bigint, into: Uint8Array): boolean {
    return this.#all(into.length, (at, left) => readSync(this.#fd, into, at, left, this.#place(block) + at));
  }

  write(block: bigint, from: Uint8Array): boolean {
    return this.#all(from.length, (at, left) => writeSync(this.#fd, from, at, left, this.#place(block) + at));
  }

  zero(block: bigint, blocks: number): boolean {
    return this.#all(blocks * this.blockBytes, (at, left) =>
      writeSync(this.#fd, ZEROS, 0, Math.min(left, ZEROS.length), this.#place(block) + at),
    );
  }

  flush(): boolean {
    return this.#all(1, () => {
      fsyncSync(this.#fd);
      return 1;
    });
  }

  #place(block: bigint): number {
    return exact(block) * this.blockBytes;
  }

  /** Goes on until all bytes are moved; false where the file fails or ends. */
  #all(length: number, move: (at: number, left: number) => number): boolean {
    try {
      for (let at = 0; at < length;) {
        const moved = move(at, length - at);
        if (moved === 0) return false;
        at += moved;
      }
      return true;
    } catch {
      return false;
    }
  }
}

/**
 * A console whose output is added to a file, and whose input is what a file holds. The input is there from the driver's
 * first output on: Linux drops what comes before it has a terminal for the console (drivers/char/virtio_console.c
 * in_intr()).
 */
class FileConsole implements ConsoleBackend {
  onInput?: () => void;
  readonly #output: number;
  #input: Uint8Array;
  #spoken = false;

  constructor(output: number, input: Uint8Array) {
    this.#output = output;
    this.#input = input;
  }

  write(bytes: Uint8Array): void {
    this.#append(bytes);
    if (this.#spoken) return;
    this.#spoken = true;
    this.onInput?.();
  }

  #append(bytes: Uint8Array): void {
    if (this.#output < 0) return;
    try {
      for (let at = 0; at < bytes.length;) at += writeSync(this.#output, bytes, at);
    } catch {
      // The file takes no more: what a terminal does not show is lost as well.
    }
  }

  get available(): number {
    return this.#spoken ? this.#input.length : 0;
  }

  read(max: number): Uint8Array {
    const part = this.#input.subarray(0, max);
    this.#input = this.#input.subarray(part.length);
    return part;
  }
}

function openDisk(file: string, blockBytes: number, readOnly: boolean): Result<BlockBackend> {
  try {
    const fd = openSync(file, readOnly ? 'r' : 'r+');
    const disk = new FileDisk(fd, blockBytes, readOnly);
    if (disk.blocks > 0n) return disk;
    closeSync(fd);
    return fail(EINVAL, `${file} is smaller than a block of ${blockBytes} bytes`);
  } catch (error) {
    return fail(EIO, (error as Error).message);
  }
}

function openConsole({ output, input }: ConsoleSettings): Result<ConsoleBackend> {
  try {
    const fd = output === undefined ? -1 : openSync(output, 'a');
    return new FileConsole(fd, input === undefined ? new Uint8Array(0) : readFileSync(input));
  } catch (error) {
    return fail(EIO, (error as Error).message);
  }
}

export const hostBackends: DeviceBackends = { openDisk, openConsole };
