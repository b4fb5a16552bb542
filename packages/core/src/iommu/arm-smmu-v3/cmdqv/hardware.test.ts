import { describe, expect, it } from 'vitest';
import { encode } from '../../../base/bit-fields.ts';
import { PhysicalSpace } from '../../../memory/physical-space.ts';
import { commandOf } from '../driver/queues/commands.ts';
import { CMD } from '../spec/commands.ts';
import { CERROR } from '../spec/registers.ts';
import { Tegra241Cmdqv } from './hardware.ts';
import {
  CMDQ_ALLOC,
  lvcmdqPage0,
  lvcmdqPage1,
  OFFSET,
  PAGE_BYTES,
  SID_MATCH,
  VCMDQ,
  VCMDQ_PAGE0_BASE,
  VCMDQ_PAGE1,
  VINTF,
  VINTF_CONFIG,
  vintfBase,
} from './spec.ts';

const TLBI_VA = (asid: number): [bigint, bigint] => [
  BigInt(CMD.TLBI_NH_VA) | (0x77n << 32n) | (BigInt(asid) << 48n),
  0x1001n,
];
const ATC_INV = (sid: number): [bigint, bigint] => [BigInt(CMD.ATC_INV) | (BigInt(sid) << 32n), 52n];
const SYNC: [bigint, bigint] = [BigInt(CMD.SYNC), 0n];

/** A CMDQ-V with two interfaces of two queues, and a sink that remembers. */
class Bench {
  readonly memory = new PhysicalSpace();
  readonly executed: string[] = [];
  readonly pages = this.memory.allocate((2 * PAGE_BYTES) / 4096);
  readonly queue = this.memory.allocate(1);
  answer: number = CERROR.NONE;
  interrupts = 0;
  #prod = 0;
  readonly cmdqv = new Tegra241Cmdqv({
    memory: this.memory,
    page0: (vintf) => this.pages + vintf * PAGE_BYTES,
    vcmdqsLog2: 2,
    vintfsLog2: 1,
    sidsLog2: 1,
    onInterrupt: () => this.interrupts++,
    sink: {
      executeCommand: (words) => {
        this.executed.push([...words].map((word) => word.toString(16)).join(' '));
        return this.answer;
      },
    },
  });

  read(offset: number): number {
    return Number(this.cmdqv.readRegister(offset, 4));
  }

  write(offset: number, value: number, size = 4): void {
    this.cmdqv.writeRegister(offset, size, BigInt(value));
  }

  /** Enables interface `vintf` with queue 0 at `this.queue`, of 8 commands. */
  start(vintf: number, hypervisor = false): void {
    this.write(OFFSET.CONFIG, 1);
    const config = encode(VINTF_CONFIG, { EN: 1, VMID: 5, HYP_OWN: hypervisor })[0]!;
    this.write(vintfBase(vintf) + VINTF.CONFIG, config);
    this.write(
      OFFSET.CMDQ_ALLOC + 4 * 2 * vintf,
      encode(CMDQ_ALLOC, { ALLOCATED: 1, VINTF: vintf, LVCMDQ: 0 })[0]!,
    );
    this.write(lvcmdqPage1(vintf, 0) + VCMDQ_PAGE1.BASE, this.queue + 3, 8);
    this.write(lvcmdqPage0(vintf, 0) + VCMDQ.CONFIG, 1);
  }

  /** Puts commands into the queue, without telling the hardware. */
  put(...commands: [bigint, bigint][]): number {
    for (const [low, high] of commands) {
      const words = commandOf(low, high);
      const at = this.queue + (this.#prod & 7) * 16;
      this.memory.store64(at, words[0]!, words[1]!);
      this.memory.store64(at + 8, words[2]!, words[3]!);
      this.#prod = (this.#prod + 1) & 15;
    }
    return this.#prod;
  }

  /** Stores a page 0 register as a program does that has mapped the page. */
  store(vintf: number, offset: number, value: number): void {
    const at = this.pages + vintf * PAGE_BYTES + (offset & ~7);
    const word = new Uint32Array(2);
    this.memory.load64(at, word);
    word[(offset & 4) >>> 2] = value;
    this.memory.store64(at, word[0]!, word[1]!);
  }
}

describe('the CMDQ-V', () => {
  it('says how many queues, interfaces and StreamIDs there are', () => {
    const bench = new Bench();
    expect(bench.read(OFFSET.PARAM)).toBe(0x1121);
    expect(bench.read(OFFSET.STATUS)).toBe(0);
    bench.write(OFFSET.CONFIG, 1);
    expect(bench.read(OFFSET.STATUS)).toBe(1);
  });

  it('takes commands of a guest with the VMID of the interface, and replaces StreamIDs', () => {
    const bench = new Bench();
    bench.start(1);
    bench.write(vintfBase(1) + VINTF.SID_REPLACE + 4, 0x1234);
    bench.write(vintfBase(1) + VINTF.SID_MATCH + 4, encode(SID_MATCH, { ENABLE: 1, VIRT_SID: 0x20 })[0]!);
    bench.write(lvcmdqPage0(1, 0) + VCMDQ.PROD, bench.put(TLBI_VA(9), ATC_INV(0x20), SYNC));
    expect(bench.executed).toEqual(['12 90005 1001 0', '40 1234 34 0', '46 0 0 0']);
    expect(bench.read(lvcmdqPage0(1, 0) + VCMDQ.CONS)).toBe(3);
  });

  it('changes nothing in the commands of the hypervisor, and takes all of them', () => {
    const bench = new Bench();
    bench.start(0, true);
    bench.write(lvcmdqPage0(0, 0) + VCMDQ.PROD, bench.put(TLBI_VA(9), [0x3n | (8n << 32n), 1n]));
    expect(bench.executed).toEqual(['12 90077 1001 0', '3 8 1 0']);
  });

  it.each([
    ['CFGI_CD', [0x05n, 0n]],
    ['TLBI_NH_ALL', [0x10n, 0n]],
    ['an ATC_INV of a StreamID that nobody has', ATC_INV(0x99)],
    ['a CMD_SYNC with an interrupt', [0x46n | (1n << 12n), 0n]],
  ] as [string, [bigint, bigint]][])('stops at what a guest may not send: %s', (_, command) => {
    const bench = new Bench();
    bench.start(1);
    bench.write(lvcmdqPage0(1, 0) + VCMDQ.PROD, bench.put(SYNC, command, SYNC));
    expect(bench.executed).toHaveLength(1);
    expect(bench.read(lvcmdqPage0(1, 0) + VCMDQ.CONS)).toBe((CERROR.ILL << 24) | 1);
    expect(bench.read(vintfBase(1) + VINTF.LVCMDQ_ERR_MAP)).toBe(1);
    expect(bench.read(OFFSET.VINTF_ERR_MAP)).toBe(2);
    expect(bench.read(OFFSET.CMDQ_ERR_MAP)).toBe(1 << 2);
    expect(bench.interrupts).toBe(1);
  });

  it('goes on when the error is acknowledged, from the command that is there then', () => {
    const bench = new Bench();
    bench.start(1);
    bench.write(lvcmdqPage0(1, 0) + VCMDQ.PROD, bench.put([0x05n, 0n], SYNC));
    bench.memory.store64(bench.queue, CMD.SYNC, 0);
    bench.write(lvcmdqPage0(1, 0) + VCMDQ.GERRORN, bench.read(lvcmdqPage0(1, 0) + VCMDQ.GERROR));
    expect(bench.executed).toHaveLength(2);
    expect([bench.read(lvcmdqPage0(1, 0) + VCMDQ.CONS), bench.read(OFFSET.VINTF_ERR_MAP)]).toEqual([2, 0]);
  });

  it('sees what a program stores into its page when it looks, and not before', () => {
    const bench = new Bench();
    bench.start(1);
    bench.store(1, VCMDQ.PROD, bench.put(TLBI_VA(1), SYNC));
    expect(bench.executed).toEqual([]);
    expect(bench.cmdqv.poll()).toBe(false);
    expect(bench.executed).toHaveLength(2);
    const word = new Uint32Array(2);
    bench.memory.load64(bench.pages + PAGE_BYTES, word);
    expect([...word]).toEqual([2, 2]);
  });

  it('puts back what a program may not change', () => {
    const bench = new Bench();
    bench.start(1);
    for (const offset of [VCMDQ.CONS, VCMDQ.STATUS, VCMDQ.GERROR]) bench.store(1, offset, 0x7);
    bench.cmdqv.poll();
    const page0 = lvcmdqPage0(1, 0);
    expect([VCMDQ.CONS, VCMDQ.STATUS, VCMDQ.GERROR].map((offset) => bench.read(page0 + offset))).toEqual([
      0, 1, 0,
    ]);
  });

  it('lets a program disable its queue, reset it, and enable it again', () => {
    const bench = new Bench();
    bench.start(1);
    bench.write(lvcmdqPage0(1, 0) + VCMDQ.PROD, bench.put(SYNC));
    bench.store(1, VCMDQ.CONFIG, 0);
    bench.cmdqv.poll();
    expect(bench.read(lvcmdqPage0(1, 0) + VCMDQ.STATUS)).toBe(0);
    bench.store(1, VCMDQ.CONS, 0);
    bench.store(1, VCMDQ.PROD, 0);
    bench.store(1, VCMDQ.CONFIG, 1);
    bench.cmdqv.poll();
    expect([VCMDQ.CONS, VCMDQ.PROD].map((offset) => bench.read(lvcmdqPage0(1, 0) + offset))).toEqual([1, 0]);
  });

  it('shows a queue at its own number too', () => {
    const bench = new Bench();
    bench.start(1);
    bench.write(VCMDQ_PAGE0_BASE + 0x80 * 2 + VCMDQ.PROD, bench.put(SYNC));
    expect(bench.read(lvcmdqPage0(1, 0) + VCMDQ.CONS)).toBe(1);
  });

  it('maps logical queues in ascending order, and unmaps them in descending order', () => {
    const bench = new Bench();
    bench.write(OFFSET.CONFIG, 1);
    const alloc = (queue: number, lvcmdq: number, allocated: number): number => {
      const offset = OFFSET.CMDQ_ALLOC + 4 * queue;
      bench.write(offset, encode(CMDQ_ALLOC, { ALLOCATED: allocated, VINTF: 1, LVCMDQ: lvcmdq })[0]!);
      return bench.read(offset) & 1;
    };
    expect(alloc(3, 1, 1)).toBe(0);
    expect([alloc(2, 0, 1), alloc(3, 1, 1)]).toEqual([1, 1]);
    expect(alloc(2, 0, 0)).toBe(1);
    expect([alloc(3, 1, 0), alloc(2, 0, 0)]).toEqual([0, 0]);
  });

  it('stops where the queue lies in memory that is not there', () => {
    const bench = new Bench();
    bench.start(1);
    bench.write(lvcmdqPage0(1, 0) + VCMDQ.CONFIG, 0);
    bench.write(lvcmdqPage1(1, 0) + VCMDQ_PAGE1.BASE, 2 ** 40 + 3, 8);
    bench.write(lvcmdqPage0(1, 0) + VCMDQ.CONFIG, 1);
    bench.write(lvcmdqPage0(1, 0) + VCMDQ.PROD, 1);
    expect(bench.read(lvcmdqPage0(1, 0) + VCMDQ.CONS) >>> 24).toBe(CERROR.ABT);
  });
});
