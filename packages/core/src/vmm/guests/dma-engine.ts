import { lo32 } from '../../base/u64.ts';
import { VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX } from '../../abi/vfio.ts';
import { COMMAND, FLAG, REGISTER, STATUS } from '../../pci/dma-engine/registers.ts';
import { PCI_COMMAND, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY } from '../../pci/spec.ts';

/** The guest's way to a device: loads and stores of its configuration space and its BARs. */
export interface DeviceBus {
  load(region: number, offset: number, bytes: number): bigint;
  store(region: number, offset: number, bytes: number, value: bigint): void;
}

/** An address of the device's, in the address space of a PASID; of 0 without one. */
export interface DmaPlace {
  readonly iova: bigint;
  readonly pasid?: number;
}

/** What became of a command. */
export type DmaState = 'done' | 'error' | 'waiting';

/** A guest's driver of the DMA engine (docs/dma-engine.md). */
export class DmaEngineGuest {
  readonly #device: DeviceBus;

  /** Lets the device answer and do DMA. */
  constructor(device: DeviceBus) {
    this.#device = device;
    const command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
    device.store(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, 2, BigInt(command));
  }

  #set(register: number, value: number): void {
    this.#device.store(VFIO_PCI_BAR0_REGION_INDEX, register, 4, BigInt(value));
  }

  #get(register: number): number {
    return lo32(this.#device.load(VFIO_PCI_BAR0_REGION_INDEX, register, 4));
  }

  #setAddress(register: number, address: bigint): void {
    this.#device.store(VFIO_PCI_BAR0_REGION_INDEX, register, 8, address);
  }

  /** Fills `bytes` of memory by DMA. */
  store(to: DmaPlace, bytes: number, pattern: number): DmaState {
    this.#set(REGISTER.PATTERN, pattern);
    return this.#start(COMMAND.FILL, { iova: 0n }, to, bytes);
  }

  /** Copies by DMA. The device has one register for a PASID: `from` and `to` have the same, or one of them none. */
  copy(from: DmaPlace, to: DmaPlace, bytes: number): DmaState {
    return this.#start(COMMAND.COPY, from, to, bytes);
  }

  #start(command: number, from: DmaPlace, to: DmaPlace, bytes: number): DmaState {
    const [source, destination] = [from.pasid ?? 0, to.pasid ?? 0];
    this.#setAddress(REGISTER.SOURCE, from.iova);
    this.#setAddress(REGISTER.DESTINATION, to.iova);
    this.#set(REGISTER.LENGTH, bytes);
    this.#set(REGISTER.PASID, Math.max(source, destination));
    this.#set(
      REGISTER.FLAGS,
      FLAG.PAGE_REQUESTS |
        (source === 0 ? 0 : FLAG.SOURCE_PASID) |
        (destination === 0 ? 0 : FLAG.DESTINATION_PASID),
    );
    this.#set(REGISTER.COMMAND, command);
    return this.state;
  }

  /** A command that waits for a page is still under way. */
  get state(): DmaState {
    const status = this.#get(REGISTER.STATUS);
    return status === STATUS.DONE ? 'done' : status === STATUS.ERROR ? 'error' : 'waiting';
  }

  /** Bytes that the command has moved. */
  get moved(): number {
    return this.#get(REGISTER.DONE);
  }

  /** Ends a command that waits. */
  abort(): void {
    this.#set(REGISTER.COMMAND, COMMAND.ABORT);
  }
}
