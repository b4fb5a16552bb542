import { assert } from '../../base/assert.ts';
import { big, exact, hi32, lo32, u64 } from '../../base/u64.ts';
import type { DeviceModel, FunctionUser } from '../function.ts';
import { PciFunction } from '../function.ts';
import type { BarAccessSize } from '../bar.ts';
import {
  PCI_BARS,
  PCI_BASE_ADDRESS_0,
  PCI_CAPABILITY_LIST,
  PCI_CAP_ID_MSIX,
  PCI_CFG_SPACE_BYTES,
  PCI_COMMAND,
  PCI_COMMAND_IO,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
} from '../spec.ts';

// What an operating system's PCI core does with a function, by its configuration space alone. For tests.

export interface FoundBar {
  readonly index: number;
  readonly size: bigint;
  readonly kind: 'memory32' | 'memory64' | 'io';
}

/** drivers/pci/pci.c pci_find_capability(): every offset of a capability, in order. */
export function findCapabilities(pci: PciFunction, id: number): number[] {
  const found: number[] = [];
  if ((pci.readConfig(PCI_STATUS, 2) & PCI_STATUS_CAP_LIST) === 0) return found;
  let steps = 0;
  for (let at = pci.readConfig(PCI_CAPABILITY_LIST, 1); at >= 0x40; at = pci.readConfig(at + 1, 1)) {
    assert(steps++ < 48, 'the list of capabilities ends');
    if (pci.readConfig(at, 1) === id) found.push(at);
  }
  return found;
}

/** pci_find_ext_capability(), or 0. */
export function findExtendedCapability(pci: PciFunction, id: number): number {
  let steps = 0;
  for (let at = PCI_CFG_SPACE_BYTES; at >= PCI_CFG_SPACE_BYTES; at = pci.readConfig(at, 4) >>> 20) {
    assert(steps++ < 480, 'the list of extended capabilities ends');
    if ((pci.readConfig(at, 4) & 0xffff) === id) return at;
  }
  return 0;
}

/** drivers/pci/probe.c __pci_size_bars(), and where each BAR is put: from `base` on. */
export function assignBars(pci: PciFunction, base = 0x1_0000_0000n): FoundBar[] {
  const found: FoundBar[] = [];
  let next = base;
  for (let index = 0; index < PCI_BARS; index++) {
    const at = PCI_BASE_ADDRESS_0 + 4 * index;
    pci.writeConfig(at, 4, 0xffff_ffff);
    const low = pci.readConfig(at, 4);
    if (low === 0) continue;
    const kind = (low & 1) !== 0 ? 'io' : (low & 6) === 4 ? 'memory64' : 'memory32';
    let high = 0xffff_ffff;
    if (kind === 'memory64') {
      pci.writeConfig(at + 4, 4, 0xffff_ffff);
      high = pci.readConfig(at + 4, 4);
    }
    const mask = u64(high, low & (kind === 'io' ? ~3 : ~15));
    const size = BigInt.asUintN(64, -mask);
    next = (next + size - 1n) & ~(size - 1n);
    pci.writeConfig(at, 4, lo32(next));
    if (kind === 'memory64') pci.writeConfig(at + 4, 4, hi32(next));
    next += size;
    found.push({ index, size, kind });
    if (kind === 'memory64') index++;
  }
  return found;
}

/** A function on a bus, enabled, with its interrupts counted. */
export class TestSlot {
  readonly pci: PciFunction;
  /** Vectors of messages, as they came. */
  readonly messages: number[] = [];
  readonly intx: boolean[] = [];
  wakes = 0;
  errors = 0;

  constructor(model: DeviceModel) {
    this.pci = new PciFunction('0000:0a:00.0', model);
    this.pci.user = this.user();
    assignBars(this.pci);
    this.pci.writeConfig(PCI_COMMAND, 2, PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY | PCI_COMMAND_IO);
  }

  user(): FunctionUser {
    return {
      message: (vector) => this.messages.push(vector),
      intx: (asserted) => this.intx.push(asserted),
      error: () => this.errors++,
      wake: () => this.wakes++,
    };
  }

  /** pci_alloc_irq_vectors() with PCI_IRQ_MSIX: enables every vector. */
  enableMsix(): void {
    const [at] = findCapabilities(this.pci, PCI_CAP_ID_MSIX);
    assert(at !== undefined, 'the function has MSI-X');
    const vectors = (this.pci.readConfig(at + PCI_MSIX_FLAGS, 2) & 0x7ff) + 1;
    for (let vector = 0; vector < vectors; vector++)
      this.pci.msix!.program(vector, { address: 0xfee0_0000n, data: 0x40 + vector });
    this.pci.writeConfig(at + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
  }

  /** Lets the device work until it has nothing left to do. */
  settle(): void {
    let rounds = 0;
    while (this.pci.poll()) assert(rounds++ < 100_000, 'the device comes to rest');
  }

  read(bar: number, offset: number, size: BarAccessSize = 4): number {
    return exact(this.pci.readBar(bar, offset, size));
  }

  write(bar: number, offset: number, value: number | bigint, size: BarAccessSize = 4): void {
    this.pci.writeBar(bar, offset, size, typeof value === 'bigint' ? value : big(value));
  }
}
