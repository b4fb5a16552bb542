import { lo32 } from '../../base/u64.ts';
import { VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX } from '../../abi/vfio.ts';
import { COMMAND, ERROR, REGISTER } from '../../pci/dma-engine/registers.ts';
import { PCI_COMMAND, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY } from '../../pci/spec.ts';

/** The guest's way to a device: loads and stores of its configuration space and its BARs. */
export interface DeviceBus {
  load(region: number, offset: number, bytes: number): bigint;
  store(region: number, offset: number, bytes: number, value: bigint): void;
}

/** A guest's driver of the DMA engine (docs/dma-engine.md). */
export class DmaEngineGuest {
  readonly #device: DeviceBus;

  /** Lets the device answer and do DMA. */
  constructor(device: DeviceBus) {
    this.#device = device;
    device.store(
      VFIO_PCI_CONFIG_REGION_INDEX,
      PCI_COMMAND,
      2,
      BigInt(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER),
    );
  }

  #set(register: number, value: number): void {
    this.#device.store(VFIO_PCI_BAR0_REGION_INDEX, register, 4, BigInt(value));
  }

  #setAddress(register: number, address: bigint): void {
    this.#device.store(VFIO_PCI_BAR0_REGION_INDEX, register, 8, address);
  }

  /** Copies by DMA. False where the IOMMU stopped it. */
  copy(from: bigint, to: bigint, bytes: number): boolean {
    this.#setAddress(REGISTER.SOURCE, from);
    this.#setAddress(REGISTER.DESTINATION, to);
    this.#set(REGISTER.LENGTH, bytes);
    this.#set(REGISTER.COMMAND, COMMAND.COPY);
    return lo32(this.#device.load(VFIO_PCI_BAR0_REGION_INDEX, REGISTER.ERROR, 4)) === ERROR.NONE;
  }
}
