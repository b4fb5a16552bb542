import { big, exact } from '../../base/u64.ts';
import { failed, type Result } from '../../base/result.ts';
import type { VirtualMachine } from '../virtual-machine.ts';
import type { GuestTable } from './wanted.ts';

// A second-stage table of the guest's, which the hardware cannot nest on the host's: the VMM keeps an IOAS that maps the
// same (as QEMU's hw/i386/intel_iommu.c does with caching-mode). The guest says when to look (§6.1, Caching Mode).

/** §9.9: what of an entry counts. */
const READ = 1n;
const WRITE = 2n;
const PAGE_SIZE = 1n << 7n;
const ADDRESS = 0xf_ffff_ffff_f000n;

const ENTRIES = 512;
const TABLE_BYTES = 4096;
/** Tables that are read at one look, and pages of any size that are mapped: where the guest has more, nothing is. */
const TABLES_MAX = 4096;
const PAGES_MAX = 1 << 16;

/** A page of any size; numbers are those of pages of 4 KiB. */
interface Leaf {
  readonly iova: number;
  readonly pages: number;
  readonly target: number;
  readonly permissions: bigint;
}

/** Guest second-stage tables as an IOAS. */
export class ShadowDomain {
  readonly table: GuestTable;
  readonly ioas: number;
  /** Devices that are attached. */
  users = 0;
  readonly #vm: VirtualMachine;
  /** What is mapped, by the first page. */
  readonly #mapped = new Map<number, Leaf>();

  static create(vm: VirtualMachine, table: GuestTable): Result<ShadowDomain> {
    const ioas = vm.allocIoas();
    if (failed(ioas)) return ioas;
    const domain = new ShadowDomain(vm, table, ioas);
    domain.sync();
    return domain;
  }

  private constructor(vm: VirtualMachine, table: GuestTable, ioas: number) {
    this.#vm = vm;
    this.table = table;
    this.ioas = ioas;
  }

  /** Takes over what the guest's table says of the pages `first` to `last`, and of all where they are left out. */
  sync(first = 0, last = Infinity): void {
    // A large page that is touched goes as a whole, and what has come in its place is looked for everywhere.
    const touched: Leaf[] = [];
    let [from, to] = [first, last];
    for (const leaf of this.#mapped.values()) {
      const end = leaf.iova + leaf.pages - 1;
      if (leaf.iova > last || end < first) continue;
      touched.push(leaf);
      from = Math.min(from, leaf.iova);
      to = Math.max(to, end);
    }
    const found = new Map<number, Leaf>();
    const complete = this.#walk(found, from, to);
    for (const leaf of touched) {
      const now = found.get(leaf.iova);
      if (complete && now !== undefined && same(leaf, now)) found.delete(leaf.iova);
      else this.#unmap(leaf);
    }
    if (complete) for (const leaf of found.values()) this.#map(leaf);
  }

  destroy(): void {
    this.#vm.destroy(this.ioas);
  }

  #unmap(leaf: Leaf): void {
    this.#mapped.delete(leaf.iova);
    this.#vm.unmap(this.ioas, bytes(leaf.iova), bytes(leaf.pages));
  }

  /** What is not the guest's memory stays unmapped. */
  #map(leaf: Leaf): void {
    if (this.#mapped.size >= PAGES_MAX) return;
    const shared = this.#vm.share(this.ioas, bytes(leaf.iova), bytes(leaf.target), bytes(leaf.pages), {
      read: (leaf.permissions & READ) !== 0n,
      write: (leaf.permissions & WRITE) !== 0n,
    });
    if (!failed(shared)) this.#mapped.set(leaf.iova, leaf);
  }

  /** Collects the leaves of a range of pages. False where the table is too large. */
  #walk(found: Map<number, Leaf>, first: number, last: number): boolean {
    const { root, levels } = this.table;
    const table = new Uint8Array(TABLE_BYTES);
    let budget = TABLES_MAX;
    const visit = (at: number, level: number, iova: number): boolean => {
      if (--budget < 0) return false;
      if (!this.#vm.memory.read(at, table)) return true;
      const span = ENTRIES ** level;
      const from = Math.max(0, Math.floor((first - iova) / span));
      const to = Math.min(ENTRIES - 1, Math.floor((last - iova) / span));
      const entries = new BigUint64Array(table.slice().buffer);
      for (let index = from; index <= to; index++) {
        const entry = entries[index]!;
        const permissions = entry & (READ | WRITE);
        if (permissions === 0n) continue;
        const page = iova + index * span;
        const target = exact((entry & ADDRESS) >> 12n);
        if (level > 0 && (entry & PAGE_SIZE) === 0n) {
          if (!visit(target * TABLE_BYTES, level - 1, page)) return false;
        } else if (found.size >= PAGES_MAX) return false;
        else if (level < 3) found.set(page, { iova: page, pages: span, target, permissions });
      }
      return true;
    };
    return visit(root, levels - 1, 0);
  }
}

function bytes(pages: number): bigint {
  return big(pages) << 12n;
}

function same(one: Leaf, other: Leaf): boolean {
  return one.pages === other.pages && one.target === other.target && one.permissions === other.permissions;
}
