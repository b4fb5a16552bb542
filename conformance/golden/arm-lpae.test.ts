import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { EEXIST, EINVAL, ENOMEM, ERANGE } from '@viommu/core/abi/errno';
import { failed, type Result } from '@viommu/core/base/result';
import { ArmPageTable } from '@viommu/core/iommu/arm-smmu-v3/driver/domains/page-table';
import { Kernel } from '@viommu/core/machine/kernel';

// Our tables against those that Linux's io-pgtable-arm.c built for the same requests: every answer, every TLB callback
// and every descriptor. arm-lpae.jsonl is what it said; record.mjs asks it again.

interface Case {
  readonly lines: readonly string[];
  readonly answers: readonly string[];
}

const path = fileURLToPath(new URL('arm-lpae.jsonl', import.meta.url));
const cases = readFileSync(path, 'utf8')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line) as Case);

const KNOWN = [EEXIST, EINVAL, ENOMEM, ERANGE];

/** A table that says what arm-lpae.c prints. */
class Player {
  readonly kernel = new Kernel();
  #table: ArmPageTable | null = null;
  #heard: string[] = [];

  play(line: string): string {
    const [letter, ...rest] = line.split(' ');
    const numbers = rest.map((word) => Number.parseInt(word, 16));
    const [a, b, c, d, e] = numbers as [number, number, number, number, number];
    this.#heard = [];
    switch (letter) {
      case 'C':
        return this.#make(rest);
      case 'M': {
        const mapped = this.#table!.map(a, b, Math.log2(c), d, e);
        return failed(mapped)
          ? this.#answer(`${-this.#known(mapped)} 0`)
          : this.#answer(`0 ${(mapped * c).toString(16)}`);
      }
      case 'U': {
        const gather = {
          addPages: (iova: number, bits: number, count: number): void => {
            const size = 2 ** bits;
            for (let i = 0; i < count; i++)
              this.#heard.push(`page:${(iova + i * size).toString(16)}:${size.toString(16)}`);
          },
        };
        return this.#answer(this.#table!.unmap(a, Math.log2(b), c, gather).toString(16));
      }
      case 'D': {
        const rc: Result<void> = this.#table!.readAndClearDirty(a, b, c === 1, (iova, bytes) =>
          this.#heard.push(`dirty:${iova.toString(16)}:${bytes.toString(16)}`),
        );
        return this.#answer(failed(rc) ? String(-this.#known(rc)) : '0');
      }
      case 'P':
        return this.#table!.iovaToPhys(a).toString(16);
      default:
        return this.#dump().join(' ');
    }
  }

  #known(failure: { readonly errno: number }): number {
    expect(KNOWN).toContain(failure.errno);
    return failure.errno;
  }

  #answer(text: string): string {
    return [...this.#heard, `= ${text}`].join(' ');
  }

  #make(words: readonly string[]): string {
    const [stage, ias, oas, , coherent, hd, fwb] = words.map((word) => Number.parseInt(word, 16));
    const sizes = BigInt(`0x${words[3]}`);
    const table = ArmPageTable.make(this.kernel, {
      stage: stage === 1 ? 1 : 2,
      pageSizes: [...Array(64).keys()].filter((bit) => (sizes >> BigInt(bit)) & 1n),
      ias: ias!,
      oas: oas!,
      coherentWalk: coherent === 1,
      dirty: hd === 1,
      fwb: fwb === 1,
      flushWalk: (iova, size, granule) =>
        this.#heard.push(`walk:${iova.toString(16)}:${size.toString(16)}:${granule.toString(16)}`),
    });
    this.#table = table;
    const made = table!;
    const { tcr, vtcr } = made;
    const registers =
      made.stage === 1
        ? [tcr.tsz, tcr.tg, tcr.irgn, tcr.orgn, tcr.sh, tcr.ips, 0]
        : [vtcr.tsz, vtcr.tg, vtcr.irgn, vtcr.orgn, vtcr.sh, vtcr.ps, vtcr.sl];
    const bitmap = made.pageSizes.reduce((sum, bits) => sum | (1n << BigInt(bits)), 0n);
    const shown = [...registers, bitmap, made.ias, made.oas];
    return shown.map((value) => value.toString(16)).join(' ');
  }

  /** Every entry that is not zero, read from memory; addresses of tables left out. */
  #dump(): string[] {
    const table = this.#table!;
    const out: string[] = [];
    const stride = table.granuleBits - 3;
    const word = new Uint32Array(2);
    const walk = (at: number, level: number, base: bigint): void => {
      const shift = BigInt(table.granuleBits + stride * (3 - level));
      const start = level === table.startLevel;
      const entries = start ? 2 ** (table.ias - Number(shift)) : 2 ** stride;
      for (let i = 0; i < entries; i++) {
        this.kernel.physical.load64(at + i * 8, word);
        const descriptor = (BigInt(word[1]!) << 32n) | BigInt(word[0]!);
        if (descriptor === 0n) continue;
        const iova = base + (BigInt(i) << shift);
        const isTable = level < 3 && (descriptor & 3n) === 3n;
        const shown = isTable ? descriptor & ~0xffff_ffff_f000n : descriptor;
        out.push(`${level}:${iova.toString(16)}:${shown.toString(16)}`);
        if (isTable) walk(Number(descriptor & 0xffff_ffff_f000n), level + 1, iova);
      }
    };
    walk(table.root, table.startLevel, 0n);
    table.free();
    expect(this.kernel.physical.ram.size).toBe(0);
    return out;
  }
}

describe('page tables', () => {
  it(`answer and build what io-pgtable-arm.c does, in ${cases.length} tables`, () => {
    let requests = 0;
    for (const { lines, answers } of cases) {
      const player = new Player();
      for (const [index, line] of lines.entries()) {
        expect(`${line}\n${player.play(line)}`).toBe(`${line}\n${answers[index]}`);
        requests++;
      }
    }
    expect(requests).toBeGreaterThan(1000);
  });
});
