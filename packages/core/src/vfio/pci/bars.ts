import { fail, type Result } from '../../base/result.ts';
import { big, exact, PAGE_SIZE, u64 } from '../../base/u64.ts';
import { EBUSY, EINVAL, EIO } from '../../abi/errno.ts';
import { VFIO_PCI_BAR5_REGION_INDEX } from '../../abi/vfio.ts';
import type { FileBacking } from '../../memory/file.ts';
import { widestAccess, type Bar, type BarAccessSize } from '../../pci/bar.ts';
import type { PciFunction } from '../../pci/function.ts';
import { regionOffset } from './regions.ts';

// drivers/vfio/pci/vfio_pci_rdwr.c and the mmap of vfio_pci_core.c: BARs as a program reaches them.

/** The Linux whose VFIO first moves 8 bytes at once: before it they are two times 4. */
const WIDE_SINCE = 611;

/** A part of a BAR that programs do not reach by read(2) and write(2): the MSI-X table. */
interface Excluded {
  readonly start: number;
  readonly end: number;
}

export class VfioBars {
  readonly #pci: PciFunction;
  readonly #memoryEnabled: () => boolean;
  /** Mappings show the function's memory. */
  #reachable = true;
  /** Bytes that one access can have. */
  readonly #widest: BarAccessSize;
  /** BARs whose memory some file of a program shows. */
  readonly #shared = new Map<number, FileBacking>();

  constructor(pci: PciFunction, memoryEnabled: () => boolean, version: number) {
    this.#pci = pci;
    this.#memoryEnabled = memoryEnabled;
    this.#widest = version >= WIDE_SINCE ? 8 : 4;
  }

  bar(index: number): Bar | null {
    return this.#pci.bars[index] ?? null;
  }

  /** vfio_pci_probe_mmaps(): only memory can be mapped. */
  mappable(index: number): boolean {
    const bar = this.bar(index);
    return bar?.memory !== undefined && bar.size >= PAGE_SIZE;
  }

  /** Where the MSI-X table is, in this BAR. */
  excluded(index: number): Excluded | null {
    const { msix } = this.#pci;
    if (msix === null || msix.description.bar !== index) return null;
    const start = msix.description.table;
    return { start, end: start + msix.tableBytes };
  }

  /** vfio_pci_bar_rw(): bytes that were moved. EIO while memory space is off. */
  read(index: number, at: number, into: Uint8Array): Result<number> {
    return this.#move(
      index,
      at,
      into.length,
      (bar, offset, size, done) => {
        const value = this.#pci.readBar(bar.index, offset, size);
        for (let i = 0; i < size; i++) into[done + i] = exact((value >> big(8 * i)) & 0xffn);
      },
      (from, to) => into.fill(0xff, from, to),
    );
  }

  write(index: number, at: number, from: Uint8Array): Result<number> {
    const word = new Uint8Array(8);
    const view = new DataView(word.buffer);
    return this.#move(
      index,
      at,
      from.length,
      (bar, offset, size, done) => {
        word.fill(0);
        word.set(from.subarray(done, done + size));
        this.#pci.writeBar(bar.index, offset, size, u64(view.getUint32(4, true), view.getUint32(0, true)));
      },
      () => {},
    );
  }

  // vfio_pci_core_do_io_rw(): naturally aligned accesses, the widest that fit.
  #move(
    index: number,
    at: number,
    bytes: number,
    access: (bar: Bar, offset: number, size: BarAccessSize, done: number) => void,
    skip: (from: number, to: number) => void,
  ): Result<number> {
    const bar = this.bar(index);
    if (bar === null || at >= bar.size) return fail(EINVAL, `beyond BAR ${index}`);
    const count = Math.min(bytes, bar.size - at);
    const hole = this.excluded(index) ?? { start: bar.size, end: bar.size };
    for (let done = 0; done < count;) {
      const offset = at + done;
      const left = count - done;
      if (offset >= hole.start && offset < hole.end) {
        const skipped = Math.min(left, hole.end - offset);
        skip(done, done + skipped);
        done += skipped;
        continue;
      }
      if (bar.kind !== 'io' && !this.#memoryEnabled()) return fail(EIO, 'memory space is off');
      const room = offset < hole.start ? Math.min(left, hole.start - offset) : left;
      const size = widestAccess(offset, room, this.#widest);
      access(bar, offset, size, done);
      done += size;
    }
    return count;
  }

  /** vfio_pci_core_mmap(): the file whose pages are mapped shows the function's memory from now on. */
  map(index: number, at: number, length: bigint, backing: FileBacking | undefined): Result<void> {
    const bar = this.bar(index);
    if (index > VFIO_PCI_BAR5_REGION_INDEX || bar === null || !this.mappable(index))
      return fail(EINVAL, `region ${index} cannot be mapped`);
    if (big(at) + length > big(bar.size)) return fail(EINVAL, `beyond BAR ${index}`);
    if (backing === undefined) return fail(EINVAL, 'there is no memory to share with the program');
    const before = this.#shared.get(index);
    if (before === backing) {
      // A mapping makes the file longer.
      if (!this.#reachable) backing.setReachable?.(false);
      return;
    }
    // DEVIATION: Linux shows the same pages by every file of a device; here each file has pages of its own.
    if (before !== undefined) return fail(EBUSY, `BAR ${index} is mapped by another open file of the device`);
    this.#shared.set(index, backing);
    if (this.#reachable) bar.memory!.share(backing, regionOffset(index));
    else backing.setReachable?.(false);
  }

  /** vfio_pci_zap_bars(), and the faults that bring pages back: whether mappings reach the function's memory. */
  setReachable(reachable: boolean): void {
    if (reachable === this.#reachable) return;
    this.#reachable = reachable;
    if (!reachable) for (const index of this.#shared.keys()) this.bar(index)?.memory?.unshare();
    for (const backing of new Set(this.#shared.values())) backing.setReachable?.(reachable);
    if (!reachable) return;
    for (const [index, backing] of this.#shared) this.bar(index)?.memory?.share(backing, regionOffset(index));
  }

  /** The file is going away, or every file where none is named. */
  unmap(backing?: FileBacking): void {
    for (const [index, shown] of this.#shared) {
      if (backing !== undefined && shown !== backing) continue;
      this.bar(index)?.memory?.unshare();
      this.#shared.delete(index);
    }
  }
}
