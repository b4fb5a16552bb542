// A device model of one's own, and a driver that uses it; device-model.test.ts runs them. docs/device-models.md

import { exact } from '@viommu/core/base/u64';
import type { DmaPort } from '@viommu/core/iommu/requests/dma-port';
import { registers32 } from '@viommu/core/pci/bar';
import { PciFunction, type DeviceModel, type FunctionDescription } from '@viommu/core/pci/function';

/** Adds up the bytes of a buffer: ADDRESS and LENGTH are stored, then SUM and ERROR are read. Vector 0 tells the end. */
export class Adder implements DeviceModel {
  readonly #registers = new Uint32Array(4);
  #pci!: PciFunction;

  readonly description: FunctionDescription = {
    identity: { vendor: 0x1209, device: 0x0001, classCode: 0xff0000 },
    bars: [
      {
        index: 0,
        size: 0x1000,
        kind: 'memory32',
        handler: registers32({
          read32: (offset) => this.#registers[offset / 4] ?? 0,
          write32: (offset, value) => this.#store(offset, value),
        }),
      },
    ],
    msix: { vectors: 1, bar: 0, table: 0x800, pba: 0xc00 },
  };

  connect(pci: PciFunction): void {
    this.#pci = pci;
  }

  reset(): void {
    this.#registers.fill(0);
  }

  #store(offset: number, value: number): void {
    if (offset === ADDRESS) this.#registers[ADDRESS / 4] = value;
    if (offset === LENGTH) this.#add(value % (LENGTH_MAX + 1));
  }

  #add(length: number): void {
    const bytes = new Uint8Array(length);
    const stopped = this.#pci.dma.read(BigInt(this.#registers[ADDRESS / 4]!), bytes);
    this.#registers[SUM / 4] = bytes.reduce((sum, byte) => sum + byte, 0);
    this.#registers[ERROR / 4] = stopped === null ? 0 : 1;
    this.#pci.signal(0);
  }
}

export const [ADDRESS, LENGTH, SUM, ERROR] = [0, 4, 8, 12] as const;
const LENGTH_MAX = 1 << 20;

/** What a driver does: it enables the function, stores an address and a length, and reads the sum. Null: an error. */
export function sumOf(port: DmaPort, address: bigint, length: number): number | null {
  const pci = new PciFunction('0000:01:00.0', new Adder());
  pci.dma.connect(port);
  pci.writeConfig(PCI_COMMAND, 2, MEMORY_AND_BUS_MASTER);
  pci.writeBar(0, ADDRESS, 4, address);
  pci.writeBar(0, LENGTH, 4, BigInt(length));
  return pci.readBar(0, ERROR, 4) === 0n ? exact(pci.readBar(0, SUM, 4)) : null;
}

const PCI_COMMAND = 4;
const MEMORY_AND_BUS_MASTER = 6;
