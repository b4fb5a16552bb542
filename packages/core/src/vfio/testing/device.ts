import { BarMemory } from '../../pci/bar-memory.ts';
import { registers32 } from '../../pci/bar.ts';
import type { DeviceModel, FunctionDescription, PciFunction } from '../../pci/function.ts';

export const REGISTER_BAR = 0;
export const MEMORY_BAR = 2;
export const IO_BAR = 4;
export const MEMORY_BYTES = 0x4000;
/** Where the MSI-X table and its pending bits are in BAR 0. */
export const MSIX_TABLE = 0x800;
const MSIX_PBA = 0xc00;
export const MSIX_VECTORS = 4;
export const MSI_VECTORS = 4;

/** A function with what VFIO treats in a way of its own: registers, memory, ports, and interrupts of every kind. */
export class TestDevice implements DeviceModel {
  readonly memory = new BarMemory(MEMORY_BYTES);
  /** Loads and stores of the registers: `w4@10=ff`. */
  readonly log: string[] = [];
  readonly registers = new Uint32Array(0x1000 / 4);
  resets = 0;
  pci!: PciFunction;
  readonly description: FunctionDescription;

  constructor() {
    const words = registers32({
      read32: (offset) => this.registers[offset / 4]!,
      write32: (offset, value) => (this.registers[offset / 4] = value),
    });
    this.description = {
      identity: { vendor: 0x1234, device: 0x5678, classCode: 0x020000 },
      bars: [
        {
          index: REGISTER_BAR,
          size: 0x1000,
          kind: 'memory32',
          handler: {
            read: (offset, size) => {
              this.log.push(`r${size}@${offset.toString(16)}`);
              return words.read(offset, size);
            },
            write: (offset, size, value) => {
              this.log.push(`w${size}@${offset.toString(16)}=${value.toString(16)}`);
              words.write(offset, size, value);
            },
          },
        },
        {
          index: MEMORY_BAR,
          size: MEMORY_BYTES,
          kind: 'memory64',
          prefetchable: true,
          memory: this.memory,
          handler: this.memory.handler(() => {}),
        },
        { index: IO_BAR, size: 32, kind: 'io', handler: words },
      ],
      msix: { vectors: MSIX_VECTORS, bar: REGISTER_BAR, table: MSIX_TABLE, pba: MSIX_PBA },
      msi: MSI_VECTORS,
      intx: true,
      ats: {},
      pasid: { width: 10 },
    };
  }

  connect(pci: PciFunction): void {
    this.pci = pci;
  }

  reset(): void {
    this.resets++;
    this.registers.fill(0);
  }
}
