import { big, hi32, lo32 } from '../../base/u64.ts';
import type { PciFunction } from '../../pci/function.ts';
import { PCI_BASE_ADDRESS_0 } from '../../pci/spec.ts';

// What firmware does: every BAR gets an address of its own, of its own alignment.

const MEMORY32_START = 0xc000_0000n;
/** Beyond what the machine has of memory and frames. */
const MEMORY64_START = 0x3800_0000_0000n;
const IO_START = 0x1000n;

/** Hands out addresses of a machine's BARs. */
export class BarAddresses {
  readonly #next = { memory32: MEMORY32_START, memory64: MEMORY64_START, io: IO_START };

  assign(pci: PciFunction): void {
    for (const bar of pci.bars) {
      if (bar === null) continue;
      const size = big(bar.size);
      const address = (this.#next[bar.kind] + size - 1n) & ~(size - 1n);
      this.#next[bar.kind] = address + size;
      const at = PCI_BASE_ADDRESS_0 + 4 * bar.index;
      pci.writeConfig(at, 4, lo32(address));
      if (bar.kind === 'memory64') pci.writeConfig(at + 4, 4, hi32(address));
    }
  }
}
