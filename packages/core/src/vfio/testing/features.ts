import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_PCI_CONFIG_REGION_INDEX,
  vfio_device_feature_mig_state,
} from '../../abi/vfio.ts';
import { big } from '../../base/u64.ts';
import { PCI_COMMAND } from '../../pci/spec.ts';
import { regionOffset } from '../pci/regions.ts';
import { BUFFER, type Program } from './program.ts';

/** A device of a program, by its registers and its features. */
export class TestDeviceFile {
  readonly program: Program;
  readonly fd: number;

  constructor(program: Program, path: string) {
    this.program = program;
    this.fd = program.open(path);
  }

  setCommand(command: number): number {
    const at = regionOffset(VFIO_PCI_CONFIG_REGION_INDEX) + big(PCI_COMMAND);
    return this.program.pwrite(this.fd, at, [command & 0xff, command >> 8]);
  }

  /** Stores to BAR 0. */
  set(offset: number, value: bigint | number, bytes = 4): number {
    const wide = BigInt(value);
    const data = Array.from({ length: bytes }, (_, n) => Number((wide >> BigInt(8 * n)) & 0xffn));
    return this.program.pwrite(this.fd, regionOffset(0) + big(offset), data);
  }

  /** Loads from BAR 0; -1 where that fails. */
  get(offset: number): number {
    if (this.program.pread(this.fd, regionOffset(0) + big(offset), 4) !== 4) return -1;
    const bytes = new Uint8Array(4);
    this.program.process.memory.read(BUFFER, bytes);
    return new DataView(bytes.buffer).getUint32(0, true);
  }

  /** VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: SET. */
  setState(device_state: number): { rc: number; fd: number } {
    const { rc, fd } = this.#state(VFIO_DEVICE_FEATURE_SET, device_state);
    return { rc, fd };
  }

  /** GET, or a negative errno. */
  get state(): number {
    const { rc, state } = this.#state(VFIO_DEVICE_FEATURE_GET, 0);
    return rc < 0 ? rc : state;
  }

  #state(way: number, device_state: number): { rc: number; fd: number; state: number } {
    const layout = vfio_device_feature_mig_state;
    const bytes = new Uint8Array(layout.size);
    layout.write(bytes, 0, { device_state, data_fd: 77 });
    const { rc, more } = this.program.feature(this.fd, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | way, bytes);
    const told = layout.read(more);
    return { rc, fd: told.data_fd, state: told.device_state };
  }
}
