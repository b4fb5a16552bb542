import type { GuestPages } from './guest-pages.ts';
import { GuestPageTable } from './guest-pages.ts';
import type { RegisterBus } from './register-bus.ts';
import { VtdUnit } from './vtd-unit.ts';

// A guest with a VT-d in legacy mode, as every driver had it before scalable mode: context entries with second-stage
// tables. Its unit has CAP.CM, so it also says what it has mapped (VT-d §6.1).

/** Second-stage tables of 4 KiB pages, 4 levels (§9.9): readable and writable. */
const FORMAT = { levels: 4, tableBits: 3n, pageBits: 3n };
/** AW of four levels, in place (§9.3). */
const LEVELS_4 = 2n;
/** TT, in place. */
const PASS_THROUGH = 2n << 2n;

export class VtdLegacyGuest {
  readonly pages: GuestPages;
  readonly unit: VtdUnit;

  constructor(pages: GuestPages, registers: RegisterBus) {
    this.pages = pages;
    this.unit = new VtdUnit(pages, registers, 'legacy');
    this.#contextChanged();
    this.unit.enable();
  }

  table(): GuestPageTable {
    return new GuestPageTable(this.pages, FORMAT);
  }

  /** Lets a device translate by a second-stage table, under a domain id. */
  attach(requesterId: number, tables: GuestPageTable, domain: number): void {
    this.#store(requesterId, 1n | BigInt(tables.root), LEVELS_4 | (BigInt(domain) << 8n));
  }

  detach(requesterId: number): void {
    this.#store(requesterId, 0n, 0n);
  }

  bypass(requesterId: number): void {
    this.#store(requesterId, 1n | PASS_THROUGH, LEVELS_4 | (1n << 8n));
  }

  #store(requesterId: number, low: bigint, high: bigint): void {
    const entry = this.unit.table(this.unit.root + (requesterId >>> 8) * 16) + (requesterId & 0xff) * 16;
    this.pages.store(entry, 0n);
    this.pages.store(entry + 8, high);
    this.pages.store(entry, low);
    this.#contextChanged();
  }

  #contextChanged(): void {
    this.unit.submit(0x1n | (1n << 4n)); // cc_inv_dsc, global
    this.unit.submit(0x2n | (1n << 4n)); // iotlb_inv_dsc, global
    this.unit.wait();
  }

  /** Entries of 2^order pages have changed: iotlb_inv_dsc of them (§6.5.2.3). */
  changed(domain: number, iova: bigint, order = 0): void {
    this.unit.submit(0x2n | (3n << 4n) | (BigInt(domain) << 16n), iova | BigInt(order));
    this.unit.wait();
  }
}
