import { big, exact } from '../base/u64.ts';
import type { MmioWindow } from '../memory/physical-space.ts';
import { widestAccess, type Bar, type BarAccessSize } from './bar.ts';
import type { PciFunction } from './function.ts';
import { barAddress } from './header.ts';

/** A device's access to a BAR can make that device access another BAR, and so on: no further than this. */
const NESTED_MAX = 4;

/** BARs as whoever masters the bus sees them: peer-to-peer DMA, of one device to another or to itself. */
export class BarWindows {
  #nested = 0;

  /** The memory BARs of a function, where firmware put them. */
  of(pci: PciFunction): MmioWindow[] {
    const windows: MmioWindow[] = [];
    for (const bar of pci.bars) if (bar !== null && bar.kind !== 'io') windows.push(this.#window(pci, bar));
    return windows;
  }

  #window(pci: PciFunction, bar: Bar): MmioWindow {
    return {
      start: exact(barAddress(pci.config, bar)),
      bytes: bar.size,
      read: (offset, into) =>
        this.#each(pci, bar, offset, into.length, (at, size, done) => {
          const value = pci.readBar(bar.index, at, size);
          for (let i = 0; i < size; i++) into[done + i] = exact((value >> big(8 * i)) & 0xffn);
        }),
      write: (offset, from) =>
        this.#each(pci, bar, offset, from.length, (at, size, done) => {
          let value = 0n;
          for (let i = size - 1; i >= 0; i--) value = (value << 8n) | big(from[done + i]!);
          pci.writeBar(bar.index, at, size, value);
        }),
    };
  }

  #each(
    pci: PciFunction,
    bar: Bar,
    offset: number,
    bytes: number,
    access: (at: number, size: BarAccessSize, done: number) => void,
  ): boolean {
    if (!pci.decodes(bar) || this.#nested >= NESTED_MAX) return false;
    this.#nested++;
    for (let done = 0; done < bytes;) {
      const size = widestAccess(offset + done, bytes - done);
      access(offset + done, size, done);
      done += size;
    }
    this.#nested--;
    return true;
  }
}
