import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { EADDRINUSE, EINVAL, ENOENT, ENOMEM, ENXIO, EOVERFLOW, ERANGE } from '@viommu/core/abi/errno';
import { readAddress, readField } from '@viommu/core/base/bit-fields';
import { failed, type Result } from '@viommu/core/base/result';
import { AmdPagingDomain } from '@viommu/core/iommu/amd/driver/domains/domain';
import { AmdIommuDriver } from '@viommu/core/iommu/amd/driver/driver';
import { amdIommuConfig } from '@viommu/core/iommu/amd/hardware/registers/config';
import { AmdUnit } from '@viommu/core/iommu/amd/platform';
import { DTE, DTE_WORDS } from '@viommu/core/iommu/amd/spec/dte';
import { IntelIommuDriver } from '@viommu/core/iommu/intel/driver/driver';
import { IntelPagingDomain } from '@viommu/core/iommu/intel/driver/domains/paging-domain';
import { intelConfig } from '@viommu/core/iommu/intel/hardware/registers/config';
import { IntelUnit } from '@viommu/core/iommu/intel/platform';
import { Kernel } from '@viommu/core/machine/kernel';
import { ENTRY, GRANULE_BITS, LEVEL_BITS } from '@viommu/core/pagetable/generic/format';
import type { TableGather } from '@viommu/core/pagetable/generic/gather';

// The tables of the AMD and Intel drivers against those that Linux's drivers/iommu/generic_pt built for the same
// requests: every answer, everything that has to be invalidated, and every entry. generic-pt.jsonl is what it said;
// record.mjs asks it again.

interface Case {
  readonly kind: 'amdV1' | 'amdV2' | 'vtdFirst' | 'vtdSecond';
  readonly hardware: Readonly<Record<string, number>>;
  readonly lines: readonly string[];
  readonly answers: readonly string[];
}

const path = fileURLToPath(new URL('generic-pt.jsonl', import.meta.url));
const cases = readFileSync(path, 'utf8')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line) as Case);

const KNOWN = [EADDRINUSE, EINVAL, ENOENT, ENOMEM, ENXIO, EOVERFLOW, ERANGE];
const ENTRIES = 1 << LEVEL_BITS;
const ADDRESS = 0xf_ffff_ffff_f000n;
const hex = (value: number | bigint): string => value.toString(16);

const WITHOUT_MORE = { NEST: 0, EAFS: 0, SSADS: 0, SSIRWS: 0 } as const;

type Domain = AmdPagingDomain | IntelPagingDomain;

function amdDomain(kernel: Kernel, { kind, hardware }: Case): AmdPagingDomain {
  const driver = new AmdIommuDriver(kernel, { vaSize: hardware['vaSize'] ?? 64 });
  const config = amdIommuConfig({
    EFR: { HATS: 2, GATS: (hardware['levels'] ?? 4) - 4 },
    capHeader: { NpCache: hardware['npCache']! },
  });
  expect(failed(AmdUnit.create(driver, { name: 'ivhd0', config, segmentOptions: { lastDevice: 1 } }))).toBe(
    false,
  );
  const mode = kind === 'amdV1' ? 'v1' : 'v2';
  return AmdPagingDomain.make(driver, { id: 1, mode, dirty: mode === 'v1' })!;
}

function intelDomain(kernel: Kernel, { kind, hardware }: Case): IntelPagingDomain {
  const { mgaw, sagaw, fs5lp, fs1gp, sslps, coherent, parent } = hardware;
  const stage = kind === 'vtdFirst' ? 1 : 2;
  const config = intelConfig({
    CAP: {
      MGAW: mgaw! - 1,
      ...(sagaw !== undefined && { SAGAW: sagaw }),
      ...(fs5lp !== undefined && { FS5LP: fs5lp }),
      ...(fs1gp !== undefined && { FS1GP: fs1gp }),
      ...(sslps !== undefined && { SSLPS: sslps }),
    },
    // Each with the one stage, and nothing that needs both or coherent walks.
    ECAP: { SMPWCS: coherent!, SC: 1, FSTS: 2 - stage, SSTS: stage - 1, ...WITHOUT_MORE },
  });
  const unit = IntelUnit.create(new IntelIommuDriver(kernel), { name: 'dmar0', config });
  if (failed(unit)) throw new Error(unit.reason);
  const options = { stage, nestParent: parent === 1, dirty: stage === 2 } as const;
  return IntelPagingDomain.make(unit.dmar, options) as IntelPagingDomain;
}

/** A table of a driver that says what generic-pt.c prints. */
class Player {
  readonly kernel = new Kernel();
  readonly #domain: Domain;
  readonly #pagesBefore: number;
  readonly #word = new Uint32Array(2);
  #heard: string[] = [];
  #budget = Infinity;

  constructor(each: Case) {
    const { kernel } = this;
    const domain = each.kind.startsWith('amd') ? amdDomain(kernel, each) : intelDomain(kernel, each);
    this.#domain = domain;
    // The top table is there.
    this.#pagesBefore = kernel.physical.ram.size - 1;
    kernel.failpoint = () => this.#budget-- <= 0;
    domain.sync = (gather: TableGather) => {
      const [start, end] = [BigInt(gather.start) << 12n, (BigInt(gather.last + 1) << 12n) - 1n];
      this.#heard.push(`sync:${hex(start)}:${hex(end)}:${gather.tables.length}`);
    };
    if (domain instanceof AmdPagingDomain)
      domain.changeTop = (_root, level) => void this.#heard.push(`top:${level}`);
  }

  play(line: string): string {
    const domain = this.#domain;
    const [letter, ...words] = line.split(' ');
    const [a, b, c] = words.map((word) => BigInt(`0x${word}`)) as [bigint, bigint, bigint];
    this.#heard = [];
    switch (letter) {
      case 'C': {
        const { pgsizeBitmap, aperture } = domain;
        return `0 ${hex(pgsizeBitmap)} ${hex(aperture.last)} ${this.#levels()}`;
      }
      case 'M':
        return this.#answer(this.#errno(domain.map(a, Number(b), c, Number.parseInt(words[3]!, 16))));
      case 'U':
        return this.#answer(hex(domain.unmap(a, b)));
      case 'W':
        return this.#answer(this.#markWritten(a));
      case 'D': {
        const rc = domain.readAndClearDirty(a, b, c === 1n, (iova, bytes) =>
          this.#heard.push(`dirty:${hex(iova)}:${hex(bytes)}`),
        );
        domain.iotlbSync();
        return this.#answer(this.#errno(rc));
      }
      case 'P':
        return hex(domain.iovaToPhys(a));
      case 'A':
        this.#budget = Number(a);
        return '';
      case 'F':
        expect(domain.enforceCacheCoherency()).toBe(true);
        return '';
      default:
        return this.#finish();
    }
  }

  /** DTE.Mode, AW of second-stage tables, and the levels of the others. */
  #levels(): number {
    const domain = this.#domain;
    if (domain instanceof IntelPagingDomain && domain.stage === 2) return domain.addressWidth;
    if (domain instanceof IntelPagingDomain || domain.mode === 'v2') return domain.table.topLevel + 1;
    const dte = new Uint32Array(DTE_WORDS);
    domain.setHostTables(dte, 1, false);
    expect(readAddress(DTE.HostPTRoot, dte)).toBe(domain.table.root);
    return readField(DTE.Mode, dte);
  }

  #errno(result: Result<void>): string {
    if (!failed(result)) return '0';
    expect(KNOWN).toContain(result.errno);
    return String(-result.errno);
  }

  #answer(text: string): string {
    return [...this.#heard, `= ${text}`].join(' ');
  }

  #load(at: number): bigint {
    this.kernel.physical.load64(at, this.#word);
    return (BigInt(this.#word[1]!) << 32n) | BigInt(this.#word[0]!);
  }

  #kind(level: number): number {
    return this.#domain.table.format.kind(this.#word[0]!, this.#word[1]!, level);
  }

  /** Sets the dirty bit of the one entry that translates an address, as hardware does. */
  #markWritten(iova: bigint): string {
    const { table } = this.#domain;
    if (iova >> BigInt(GRANULE_BITS + LEVEL_BITS * (table.topLevel + 1)) !== 0n) return `-${ERANGE}`;
    let at = table.root;
    for (let level = table.topLevel; ; level--) {
      const index = Number((iova >> BigInt(GRANULE_BITS + LEVEL_BITS * level)) & BigInt(ENTRIES - 1));
      const entry = this.#load(at + index * 8);
      const kind = this.#kind(level);
      if (kind === ENTRY.EMPTY) return `-${ENOENT}`;
      if (kind === ENTRY.LEAF) {
        const [lo, hi] = [this.#word[0]!, this.#word[1]!];
        this.kernel.physical.store64(at + index * 8, (lo | table.format.dirtyLo) >>> 0, hi);
        return '0';
      }
      at = Number(entry & ADDRESS);
    }
  }

  #finish(): string {
    const { table } = this.#domain;
    const dumped = this.#dump(table.root, table.topLevel, 0n);
    table.free();
    return [...dumped, `= ${hex(this.kernel.physical.ram.size - this.#pagesBefore)}`].join(' ');
  }

  /** Every entry that is not zero, read from memory; addresses of tables left out. */
  #dump(table: number, level: number, base: bigint): string[] {
    const out: string[] = [];
    const shift = BigInt(GRANULE_BITS + LEVEL_BITS * level);
    const entries = Array.from({ length: ENTRIES }, (_, index) => this.#load(table + index * 8));
    for (let index = 0, run = 1; index < ENTRIES; index += run) {
      const entry = entries[index]!;
      const iova = base + (BigInt(index) << shift);
      run = 1;
      if (entry === 0n) continue;
      this.#load(table + index * 8);
      if (this.#kind(level) === ENTRY.TABLE) {
        out.push(`${level}:${hex(iova)}:${hex(entry & ~ADDRESS)}`);
        out.push(...this.#dump(Number(entry & ADDRESS), level - 1, iova));
        continue;
      }
      const step = entries[index + 1] === entry ? 0n : 1n << shift;
      while (entries[index + run] === entry + BigInt(run) * step) run++;
      out.push(`${level}:${hex(iova)}:${hex(entry)}${step === 0n ? '*' : '+'}${hex(run)}`);
    }
    return out;
  }
}

describe('page tables of the AMD and Intel drivers', () => {
  it(`answer and build what drivers/iommu/generic_pt does, in ${cases.length} tables`, () => {
    let requests = 0;
    for (const each of cases) {
      const player = new Player(each);
      for (const [index, line] of each.lines.entries()) {
        const where = `${each.kind} ${JSON.stringify(each.hardware)} ${index}: ${line}`;
        expect(`${where}\n${player.play(line)}`).toBe(`${where}\n${each.answers[index]}`);
        requests++;
      }
    }
    expect(requests).toBeGreaterThan(6000);
  });
});
