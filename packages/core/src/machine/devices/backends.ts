import { fail, type Result } from '../../base/result.ts';
import { ENOSYS } from '../../abi/errno.ts';
import { MemoryDisk, type BlockBackend } from '../../pci/nvme/block.ts';
import type { ConsoleBackend } from '../../pci/virtio/console.ts';

// What devices of a machine have outside of it: disks and consoles. Whoever hosts the machine has the files.

/** The disk of a device: in memory, or a file as it is. */
export interface DiskSettings {
  /** How large a disk in memory is. */
  readonly bytes?: number | undefined;
  readonly file?: string | undefined;
  readonly readOnly?: boolean | undefined;
  /** 512 or 4096; 512 where this is left out. */
  readonly blockBytes?: number | undefined;
}

/** The files of a device's console. */
export interface ConsoleSettings {
  /** What the driver writes is added to it. */
  readonly output?: string | undefined;
  /** What the driver reads, once it has written something. */
  readonly input?: string | undefined;
}

export interface DeviceBackends {
  /** Opens a file as a disk. */
  openDisk(file: string, blockBytes: number, readOnly: boolean): Result<BlockBackend>;
  openConsole(settings: ConsoleSettings): Result<ConsoleBackend>;
}

class SilentConsole implements ConsoleBackend {
  readonly available = 0;

  write(): void {}

  read(): Uint8Array {
    return new Uint8Array(0);
  }
}

const NO_FILES = 'whoever hosts the machine has no files';

/** Disks in memory, and consoles that nobody listens to. */
export const NO_BACKENDS: DeviceBackends = {
  openDisk: () => fail(ENOSYS, NO_FILES),
  openConsole: ({ output, input }) =>
    output === undefined && input === undefined ? new SilentConsole() : fail(ENOSYS, NO_FILES),
};

const DISK_BYTES = 64 << 20;

export function openDisk(settings: DiskSettings, backends: DeviceBackends): Result<BlockBackend> {
  const { bytes = DISK_BYTES, file, readOnly = false, blockBytes = 512 } = settings;
  return file === undefined
    ? new MemoryDisk(bytes, blockBytes)
    : backends.openDisk(file, blockBytes, readOnly);
}
