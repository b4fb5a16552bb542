import { assert } from '../../base/assert.ts';
import { big, exact } from '../../base/u64.ts';
import type { SimulatedProcess } from '../../memory/simulated-process.ts';
import { GuestPageTable, type TableFormat } from '../../vmm/guests/guest-pages.ts';
import { bytesOf, textOf } from '../../base/testing/ascii.ts';

// For tests: a guest's memory in a program, and its tables of stage 1 there.

const PAGE = 0x1000n;
/** A page of stage 1: valid, Attr 0, not privileged, Inner Shareable, accessed, not global. */
const LEAF = 0b11n | (1n << 6n) | (3n << 8n) | (1n << 10n) | (1n << 11n);
const READ_ONLY = 1n << 7n;
const TABLE = 0b11n;

/** A program that has a guest. */
export interface GuestHost {
  readonly process: SimulatedProcess;
  write(va: bigint, bytes: Uint8Array): void;
  read(va: bigint, length: number): Uint8Array;
}

/** A guest's physical memory: a part of the program, mapped at `ipa` in the nest parent. */
export class GuestMemory {
  readonly program: GuestHost;
  readonly va: bigint;
  readonly ipa: bigint;
  readonly bytes: bigint;
  #next: bigint;

  constructor(program: GuestHost, va: bigint, ipa: bigint, bytes: bigint) {
    this.program = program;
    this.va = va;
    this.ipa = ipa;
    this.bytes = bytes;
    this.#next = ipa;
    program.process.memory.map(va, bytes);
  }

  /** A zeroed page of the guest; its physical address there. */
  page(): bigint {
    const ipa = this.#next;
    this.#next += PAGE;
    assert(ipa + PAGE <= this.ipa + this.bytes, 'the guest has memory left');
    return ipa;
  }

  vaOf(ipa: bigint): bigint {
    return this.va + (ipa - this.ipa);
  }

  write64(ipa: bigint, value: bigint): void {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, value, true);
    this.program.write(this.vaOf(ipa), bytes);
  }

  read64(ipa: bigint): bigint {
    const bytes = this.program.read(this.vaOf(ipa), 8);
    return new DataView(bytes.buffer).getBigUint64(0, true);
  }

  write(ipa: bigint, text: string): void {
    this.program.write(this.vaOf(ipa), bytesOf(text));
  }

  text(ipa: bigint, length: number): string {
    return textOf(this.program.read(this.vaOf(ipa), length));
  }
}

/** What entries of four levels of 4 KiB tables say beside an address. */
export interface EntryFormat extends TableFormat {
  readonly readOnlyPageBits: bigint;
}

const VMSA: EntryFormat = {
  levels: 4,
  tableBits: TABLE,
  pageBits: LEAF,
  readOnlyPageBits: LEAF | READ_ONLY,
};
/** Tables of x86 and of AMD's guests: present, writable, user, accessed; pages dirty as well. */
export const X86: EntryFormat = { levels: 4, tableBits: 0x27n, pageBits: 0x67n, readOnlyPageBits: 0x65n };

/** Stage 1 tables of a guest: 4 KiB pages, 48 bits, four levels; VMSAv8-64 where `format` says nothing else. */
export class GuestTables {
  readonly memory: GuestMemory;
  readonly root: bigint;
  readonly #table: GuestPageTable;
  readonly #format: EntryFormat;

  constructor(memory: GuestMemory, format: EntryFormat = VMSA) {
    this.memory = memory;
    this.#format = format;
    this.#table = new GuestPageTable(
      {
        take: () => exact(memory.page()),
        load: (at) => memory.read64(big(at)),
        store: (at, value) => memory.write64(big(at), value),
      },
      format,
    );
    this.root = big(this.#table.root);
  }

  map(iova: bigint, ipa: bigint, writable = true): void {
    const { pageBits, readOnlyPageBits } = this.#format;
    this.#table.map(iova, exact(ipa), writable ? pageBits : readOnlyPageBits);
  }

  unmap(iova: bigint): void {
    this.#table.unmap(iova);
  }
}
