// What Linux does, register by register: its bring-up, its log handlers and its invalidations, after
// drivers/iommu/amd/init.c, iommu.c and ppr.c. Positions are written out here, so that they are not this model's own.

import { describe, expect, it } from 'vitest';
import { hi32, lo32 } from '../../../base/u64.ts';
import { Rig, pte } from './testing/rig.ts';
import type { PageResponse } from './queues/ppr-log.ts';
import type { InterruptSource } from './transaction.ts';

const DEVICE = 0x00a1;
const STATUS = 0x2020;
const BIT = {
  IOMMU_EN: 0n,
  EVT_LOG_EN: 2n,
  EVT_INT_EN: 3n,
  INV_TIMEOUT: 5n,
  COHERENT_EN: 10n,
  CMDBUF_EN: 12n,
  PPRLOG_EN: 13n,
  PPRINT_EN: 14n,
  PPR_EN: 15n,
  GT_EN: 16n,
  GA_EN: 17n,
  GALOG_EN: 28n,
  GAINT_EN: 29n,
  NUM_INT_REMAP_MODE: 43n,
  EPH_EN: 45n,
  XT_EN: 50n,
  GCR3TRPMODE: 58n,
  IRTCACHEDIS: 59n,
} as const;

/** The driver's side: memory that it allocated, and what it remembers. */
class Driver {
  readonly rig = new Rig({}, 512);
  readonly iommu = this.rig.iommu;
  readonly commands = this.rig.pages(2);
  readonly events = this.rig.pages(2);
  readonly pprs = this.rig.pages(2);
  readonly semaphore = this.rig.page();
  readonly efr: bigint;
  readonly efr2: bigint;
  readonly found: { code: number; deviceId: number; low: bigint; high: bigint }[] = [];
  #tail = 0;
  #waits = 0n;

  constructor() {
    this.iommu.reset();
    this.efr = this.readq(0x30);
    this.efr2 = this.readq(0x1a0);
  }

  readl(offset: number): number {
    return Number(this.iommu.readRegister(offset, 4));
  }
  writel(value: number, offset: number): void {
    this.iommu.writeRegister(offset, 4, BigInt(value));
  }
  readq(offset: number): bigint {
    return this.iommu.readRegister(offset, 8);
  }
  writeq(value: bigint, offset: number): void {
    this.iommu.writeRegister(offset, 8, value);
  }

  /** iommu_feature_set() */
  feature(value: bigint, mask: bigint, shift: bigint): void {
    this.writeq((this.readq(0x18) & ~(mask << shift)) | ((value & mask) << shift), 0x18);
  }
  enable(bit: bigint): void {
    this.feature(1n, 1n, bit);
  }
  disable(bit: bigint): void {
    this.feature(0n, 1n, bit);
  }

  /** early_enable_iommu() */
  earlyEnable(): void {
    const { CMDBUF_EN, EVT_INT_EN, EVT_LOG_EN, GALOG_EN, GAINT_EN, PPRLOG_EN, PPRINT_EN } = BIT;
    for (const bit of [CMDBUF_EN, EVT_INT_EN, EVT_LOG_EN, GALOG_EN, GAINT_EN, PPRLOG_EN, PPRINT_EN]) {
      this.disable(bit);
    }
    this.disable(BIT.IOMMU_EN);
    this.disable(BIT.IRTCACHEDIS);
    this.enable(BIT.COHERENT_EN);
    this.feature(4n, 7n, BIT.INV_TIMEOUT);
    if ((this.efr >> 50n) & 1n) this.enable(BIT.EPH_EN);
    this.writeq(BigInt(this.rig.deviceTable) | 511n, 0x00);
    this.writeq(BigInt(this.commands) | (9n << 56n), 0x08);
    this.resetCommandBuffer();
    if ((this.efr >> 4n) & 1n) this.enable(BIT.GT_EN);
    if ((this.efr2 >> 3n) & 1n) this.enable(BIT.GCR3TRPMODE);
    if ((this.efr >> 7n) & 1n) this.enable(BIT.GA_EN);
    if ((this.efr >> 2n) & 1n) this.enable(BIT.XT_EN);
    this.enable(BIT.IRTCACHEDIS);
    if (((this.efr2 >> 8n) & 3n) === 1n) this.feature(1n, 3n, BIT.NUM_INT_REMAP_MODE);
    this.enable(BIT.IOMMU_EN);
    this.submit([0, 0x8000_0000, 0, 0]);
  }

  /** amd_iommu_reset_cmd_buffer() */
  resetCommandBuffer(): void {
    this.disable(BIT.CMDBUF_EN);
    this.writel(0, 0x2000);
    this.writel(0, 0x2008);
    this.#tail = 0;
    this.enable(BIT.CMDBUF_EN);
  }

  /** iommu_enable_event_buffer(), and the interrupt as init.c iommu_init_irq() ends */
  enableEvents(): void {
    this.writeq(BigInt(this.events) | (9n << 56n), 0x10);
    this.writel(0, 0x2010);
    this.writel(0, 0x2018);
    this.enable(BIT.EVT_LOG_EN);
    this.enable(BIT.EVT_INT_EN);
  }

  /** amd_iommu_enable_ppr_log() */
  enablePpr(): void {
    this.enable(BIT.PPR_EN);
    this.writeq(BigInt(this.pprs) | (9n << 56n), 0x38);
    this.writel(0, 0x2030);
    this.writel(0, 0x2038);
    this.enable(BIT.PPRINT_EN);
    this.enable(BIT.PPRLOG_EN);
  }

  /** __iommu_queue_command_sync() and iommu_completion_wait(): true when the semaphore has the value. */
  submit(...commands: readonly (readonly number[])[]): boolean {
    const data = ++this.#waits;
    const wait = [
      lo32(BigInt(this.semaphore)) | 1,
      hi32(BigInt(this.semaphore)) | 0x1000_0000,
      Number(data),
      0,
    ];
    for (const words of [...commands, wait]) {
      for (let i = 0; i < 4; i += 2) {
        const value = (BigInt(words[i + 1]! >>> 0) << 32n) | BigInt(words[i]! >>> 0);
        this.rig.put(this.commands + this.#tail + i * 4, value);
      }
      this.#tail = (this.#tail + 16) % 8192;
      this.writel(this.#tail, 0x2008);
    }
    return this.rig.at(this.semaphore) === data;
  }

  /** build_inv_iommu_pages() with build_inv_address() */
  flush(domain: number, address: bigint, last: bigint, pasid?: number): boolean {
    const size = (address ^ last).toString(2).length;
    let value = address & ~0xfffn;
    if (size > 52) value = 0x7fff_ffff_ffff_f001n;
    else if (size > 12) value = (size > 13 ? value | ((1n << BigInt(size - 1)) - 0x1000n) : value) | 1n;
    const low = (lo32(value) | 2 | (pasid === undefined ? 0 : 4)) >>> 0;
    return this.submit([pasid ?? 0, (0x3000_0000 | domain) >>> 0, low, hi32(value)]);
  }

  /** amd_iommu_handle_irq() for the event log */
  eventThread(): void {
    for (;;) {
      const status = this.readl(STATUS);
      if ((status & 0b11) === 0) return;
      this.writel(status & 0b11, STATUS);
      if (status & 0b10) this.#pollEvents();
      if (status & 0b01) this.restart(BIT.EVT_INT_EN, BIT.EVT_LOG_EN, 1 << 3, 1 << 0);
    }
  }

  #pollEvents(): void {
    const tail = this.readl(0x2018);
    for (let head = this.readl(0x2010); head !== tail;) {
      const [low, high] = [this.rig.at(this.events + head), this.rig.at(this.events + head + 8)];
      this.found.push({ code: Number(low >> 60n), deviceId: Number(low & 0xffffn), low, high });
      head = (head + 16) % 8192;
      this.writel(head, 0x2010);
    }
  }

  /** amd_iommu_restart_log() */
  restart(interrupt: bigint, log: bigint, run: number, overflow: number): void {
    if ((this.readl(STATUS) & run) !== 0) return;
    this.disable(log);
    this.disable(interrupt);
    this.writel(overflow, STATUS);
    this.enable(interrupt);
    this.enable(log);
  }

  /** Writes a DTE as two 128-bit halves, and flushes it: iommu_update_dte256(). */
  setDte(deviceId: number, words: readonly bigint[]): void {
    words.forEach((word, i) => this.rig.put(this.rig.deviceTable + deviceId * 32 + i * 8, word));
    expect(this.submit([deviceId, 0x2000_0000, 0, 0])).toBe(true);
  }
}

function up(): Driver {
  const driver = new Driver();
  driver.earlyEnable();
  driver.enableEvents();
  driver.enablePpr();
  return driver;
}

/** set_dte_v1(): V, TV, mode, IR, IW; a domain of 3. */
const v1Dte = (root: number, mode: bigint, low = 0n, high = 0n): bigint[] => [
  3n | (mode << 9n) | BigInt(root) | (3n << 61n) | low,
  3n | high,
  0n,
  0n,
];

describe('Linux', () => {
  it('finds everything enabled that it has enabled', () => {
    const driver = up();
    const on = (bit: bigint): bigint => (driver.readq(0x18) >> bit) & 1n;
    const bits = Object.entries(BIT).filter(
      ([name]) => !name.startsWith('GALOG') && !name.startsWith('GAINT'),
    );
    const off = ['INV_TIMEOUT'];
    expect(bits.filter(([name, bit]) => on(bit) === 0n && !off.includes(name))).toEqual([]);
    expect((driver.readq(0x18) >> 5n) & 7n).toBe(4n);
    expect([on(BIT.GALOG_EN), on(BIT.GAINT_EN)]).toEqual([0n, 0n]);
    expect(driver.readl(STATUS) & ~0x98).toBe(0);
    expect(driver.readl(STATUS) & 0x98).toBe(0x98);
  });

  it('reads its features', () => {
    const { efr, efr2 } = new Driver();
    const field = (value: bigint, high: bigint, low: bigint): bigint =>
      (value >> low) & ((1n << (high - low + 1n)) - 1n);
    const flags = [0n, 1n, 2n, 3n, 4n, 6n, 7n, 8n, 48n, 49n, 50n, 52n];
    expect(flags.map((bit) => field(efr, bit, bit))).toEqual(flags.map(() => 1n));
    expect([9n, 21n, 63n].map((bit) => field(efr, bit, bit))).toEqual([0n, 0n, 0n]);
    expect([field(efr, 11n, 10n), field(efr, 13n, 12n), field(efr, 15n, 14n)]).toEqual([2n, 1n, 2n]);
    expect(field(efr, 36n, 32n)).toBe(15n);
    expect([field(efr2, 3n, 3n), field(efr2, 9n, 8n), field(efr2, 11n, 11n)]).toEqual([1n, 1n, 1n]);
  });

  it('is told what it asked to wait for, more often than the buffer has entries', () => {
    const driver = up();
    for (let i = 0; i < 600; i++) expect(driver.submit([i, 0x2000_0000, 0, 0])).toBe(true);
  });

  it('maps, unmaps and flushes', () => {
    const driver = up();
    const { rig } = driver;
    const root = rig.page();
    driver.setDte(DEVICE, v1Dte(root, 3n));
    rig.map(root, 3, 0x7000n, pte(0x5_5000n));
    expect(rig.where(DEVICE, 0x7123n)).toBe(0x5_5123n);
    rig.map(root, 3, 0x7000n, 0n);
    expect(driver.flush(3, 0x7000n, 0x7fffn)).toBe(true);
    expect(rig.where(DEVICE, 0x7123n)).toBe('IO_PAGE_FAULT');
    rig.map(root, 3, 0x7000n, pte(0x6_6000n));
    expect(rig.where(DEVICE, 0x7123n)).toBe(0x6_6123n);
    rig.map(root, 3, 0x7000n, pte(0x7_7000n));
    expect(driver.flush(3, 0n, (1n << 64n) - 1n)).toBe(true);
    expect(rig.where(DEVICE, 0x7123n)).toBe(0x7_7123n);
  });

  it('flushes the ranges that build_inv_address() rounds to, whatever they are', () => {
    for (const [first, last] of [
      [0x7000n, 0x7fffn],
      [0x6000n, 0x7fffn],
      [0x7000n, 0x8fffn],
      [0x1000n, 0xf_ffffn],
      [0n, 0xffff_ffffn],
      [0x7000n, 0x10_0000_0000n],
    ] as const) {
      const driver = up();
      const { rig } = driver;
      const root = rig.page();
      driver.setDte(DEVICE, v1Dte(root, 4n));
      rig.map(root, 4, 0x7000n, pte(0x5_5000n));
      rig.where(DEVICE, 0x7000n);
      rig.map(root, 4, 0x7000n, pte(0x6_6000n));
      expect(driver.flush(3, first, last)).toBe(true);
      expect(rig.where(DEVICE, 0x7000n)).toBe(0x6_6000n);
    }
  });

  it('is interrupted for a fault, and prints it', () => {
    const driver = up();
    driver.setDte(DEVICE, v1Dte(driver.rig.page(), 3n));
    expect(driver.rig.where(DEVICE, 0xdead_b000n, { write: true })).toBe('IO_PAGE_FAULT');
    expect(driver.rig.interrupts).toEqual(['event-log']);
    driver.eventThread();
    expect(driver.found).toMatchObject([{ code: 2, deviceId: DEVICE, high: 0xdead_b000n }]);
    const { low } = driver.found[0]!;
    expect((low >> 32n) & 0xffffn).toBe(3n);
    // EVENT_FLAG_RW, and bits 27:16 of the second word as the driver prints them.
    expect((low >> 48n) & 0xfffn).toBe(0x020n);
    expect(driver.readl(0x2010)).toBe(driver.readl(0x2018));
  });

  it('has events again after an overflow', () => {
    const driver = up();
    driver.setDte(DEVICE, v1Dte(driver.rig.page(), 3n));
    for (let i = 0; i < 600; i++) driver.rig.where(DEVICE, 0x1000n);
    expect(driver.readl(STATUS) & 0b1001).toBe(1);
    driver.eventThread();
    expect(driver.found).toHaveLength(511);
    expect(driver.readl(STATUS) & 0b1001).toBe(8);
    driver.rig.where(DEVICE, 0x2000n);
    driver.eventThread();
    expect(driver.found).toHaveLength(512);
  });

  it('gets over a buffer that has stopped, by amd_iommu_reset_cmd_buffer()', () => {
    const driver = up();
    expect(driver.submit([0, 0, 0, 0])).toBe(false);
    driver.eventThread();
    expect(driver.found.map((event) => event.code)).toEqual([5]);
    driver.resetCommandBuffer();
    expect(driver.submit([DEVICE, 0x2000_0000, 0, 0])).toBe(true);
  });

  it('handles page requests: amd_iommu_poll_ppr_log() and build_complete_ppr()', () => {
    const driver = up();
    const responses: PageResponse[] = [];
    driver.iommu.attachEndpoint(DEVICE, {
      invalidate: () => true,
      pageResponse: (response) => void responses.push(response),
    });
    // set_dte_gcr3_table(): PPR (52), GV (55), IOTLB (96)
    driver.setDte(DEVICE, v1Dte(0, 0n, (1n << 52n) | (1n << 55n), 1n << 32n));
    driver.iommu.requestPage({
      deviceId: DEVICE,
      pasid: 0x1234,
      hi: 0,
      lo: 0x7000,
      prgIndex: 9,
      read: true,
      write: true,
      execute: false,
      privileged: false,
      last: true,
    });
    expect(driver.rig.interrupts).toEqual<InterruptSource[]>(['ppr-log']);
    expect(driver.readl(STATUS) & (1 << 6)).toBe(1 << 6);
    driver.writel(1 << 6, STATUS);
    const [low, high] = [driver.rig.at(driver.pprs), driver.rig.at(driver.pprs + 8)];
    expect([low >> 60n, low & 0xffffn, high]).toEqual([1n, BigInt(DEVICE), 0x7000n]);
    expect(((low >> 42n) & 0xfn) * 0x1_0000n + ((low >> 16n) & 0xffffn)).toBe(0x1234n);
    // PPR_FLAG_READ, PPR_FLAG_WRITE, PPR_FLAG_US, PPR_FLAG_GN
    expect((low >> 48n) & 0xfffn).toBe(0x164n);
    const tag = Number((low >> 32n) & 0x1ffn);
    expect([tag, (low >> 32n) & 0x200n]).toEqual([9, 0x200n]);
    expect(driver.submit([DEVICE, 0x7000_0000 | 0x1234, 4, tag | (1 << 12)])).toBe(true);
    expect(responses).toEqual([{ deviceId: DEVICE, pasid: 0x1234, prgIndex: 9, code: 1 }]);
  });

  it('sets up v2 tables for a device without PASIDs: set_dte_gcr3_table() with GIOV', () => {
    const driver = up();
    const { rig } = driver;
    const [gcr3, cr3] = [rig.page(), rig.page()];
    rig.put(gcr3, BigInt(cr3) | 1n);
    const at = BigInt(gcr3);
    // GIOV (54), GV (55), GLX 0; GCR3_14_12 (60:58), GCR3_30_15 (95:80), GCR3_51_31 (127:107); four levels
    const low = (3n << 54n) | (((at >> 12n) & 7n) << 58n);
    driver.setDte(DEVICE, v1Dte(0, 0n, low, (((at >> 15n) & 0xffffn) << 16n) | ((at >> 31n) << 43n)));
    rig.mapGuest(cr3, 4, 0x4000n, 0x5_5007n);
    expect(rig.where(DEVICE, 0x4000n, { write: true })).toBe(0x5_5000n);
    rig.mapGuest(cr3, 4, 0x4000n, 0x6_6007n);
    expect(driver.flush(3, 0x4000n, 0x4fffn)).toBe(true);
    expect(rig.where(DEVICE, 0x4000n)).toBe(0x5_5000n);
    expect(driver.flush(3, 0x4000n, 0x4fffn, 0)).toBe(true);
    expect(rig.where(DEVICE, 0x4000n)).toBe(0x6_6000n);
  });

  it('tracks dirty pages: amdv1pt_read_and_clear_dirty()', () => {
    const driver = up();
    const { rig } = driver;
    const root = rig.page();
    driver.setDte(DEVICE, v1Dte(root, 3n, 3n << 7n));
    const leaf = rig.map(root, 3, 0x7000n, pte(0x5_5000n));
    const dirty = (): boolean => {
      const value = rig.at(leaf);
      rig.put(leaf, value & ~(1n << 6n));
      expect(driver.flush(3, 0x7000n, 0x7fffn)).toBe(true);
      return ((value >> 6n) & 1n) === 1n;
    };
    rig.where(DEVICE, 0x7000n);
    expect(dirty()).toBe(false);
    rig.where(DEVICE, 0x7000n, { write: true });
    expect([dirty(), dirty()]).toEqual([true, false]);
    rig.where(DEVICE, 0x7000n, { write: true });
    expect(dirty()).toBe(true);
  });
});

describe('bugs that other implementations had', () => {
  it('EFR: HATS, GATS and GLXSup lie at 10, 12 and 14, and XTSup at 2', () => {
    const bit = (field: Record<string, number>): bigint =>
      new Rig({
        EFR: {
          PreFSup: 0,
          PPRSup: 0,
          EPHSup: 0,
          PPRAutoRspSup: 0,
          PprOvrflwEarlySup: 0,
          XTSup: 0,
          NXSup: 0,
          IASup: 0,
          GASup: 0,
          HESup: 0,
          HATS: 0,
          GATS: 0,
          GLXSup: 0,
          PASMax: 0,
          USSup: 0,
          DevTblSegSup: 0,
          MsiCapMmioSup: 0,
          GIoSup: 0,
          HASup: 0,
          HDSup: 0,
          V2_HDDisSup: 0,
          V2_HADDisSup: 0,
          GTSup: 0,
          ...field,
        },
      }).iommu.readRegister(0x30, 8);
    expect(bit({})).toBe(0n);
    const at: [string, number, bigint][] = [
      ['PreFSup', 1, 1n << 0n],
      ['XTSup', 1, 1n << 2n],
      ['NXSup', 1, 1n << 3n],
      ['GTSup', 1, 1n << 4n],
      ['IASup', 1, 1n << 6n],
      ['GASup', 1, 1n << 7n],
      ['HESup', 1, 1n << 8n],
      ['HATS', 1, 1n << 10n],
      ['GATS', 1, 1n << 12n],
      ['GLXSup', 1, 1n << 14n],
      ['PASMax', 1, 1n << 32n],
      ['USSup', 1, 1n << 37n],
      ['DevTblSegSup', 1, 1n << 38n],
      ['MsiCapMmioSup', 1, 1n << 46n],
      ['HASup', 1, 1n << 49n],
    ];
    for (const [name, value, expected] of at)
      expect([name, bit({ [name]: value })]).toEqual([name, expected]);
  });

  it.each([
    ['HAD 3 (8:7)', 3n << 7n, 0n, true],
    ['bits 9:8', 3n << 8n, 0n, false],
  ])('DTE.HAD: %s', (_name, low, high, legal) => {
    const driver = up();
    driver.setDte(DEVICE, v1Dte(driver.rig.page(), 2n, low, high));
    driver.rig.map(
      Number(driver.rig.at(driver.rig.deviceTable + DEVICE * 32) & 0xf_ffff_f000n),
      2,
      0n,
      pte(0n),
    );
    expect(driver.rig.where(DEVICE, 0n) === 0n).toBe(legal);
  });

  it('DTE.I is bit 96 and DTE.Cache bit 101', () => {
    const driver = up();
    const root = driver.rig.page();
    driver.rig.map(root, 3, 0n, pte(0x5000n));
    const ask = (): string =>
      driver.iommu.requestTranslation({ deviceId: DEVICE, hi: 0, lo: 0, write: false }).status;
    driver.setDte(DEVICE, v1Dte(root, 3n, 0n, 1n << 37n));
    expect(ask()).toBe('UR');
    driver.setDte(DEVICE, v1Dte(root, 3n, 0n, 1n << 32n));
    expect(ask()).toBe('success');
    driver.rig.map(root, 3, 0n, pte(0x6000n));
    expect(driver.rig.where(DEVICE, 0n)).toBe(0x6000n);
    driver.submit([0, 0x8000_0000, 0, 0]);
    driver.setDte(DEVICE, v1Dte(root, 3n, 0n, (1n << 32n) | (1n << 37n)));
    expect(ask()).toBe('success');
    driver.rig.map(root, 3, 0n, pte(0x7000n));
    expect(driver.rig.where(DEVICE, 0n)).toBe(0x6000n);
  });

  it('COMPLETION_WAIT interrupts for i, which is bit 1, and only with ComWaitIntEn', () => {
    const driver = up();
    driver.submit([2, 0x1000_0000, 0, 0]);
    expect(driver.rig.interrupts).toEqual([]);
    expect(driver.readl(STATUS) & 4).toBe(4);
    driver.writel(4, STATUS);
    driver.enable(4n);
    driver.submit([4, 0x1000_0000, 0, 0]);
    expect(driver.rig.interrupts).toEqual([]);
    driver.submit([2, 0x1000_0000, 0, 0]);
    expect(driver.rig.interrupts).toEqual(['completion-wait']);
  });

  it('an overflow of the event log loses the newest record, not the oldest, and is told once', () => {
    const driver = up();
    driver.setDte(DEVICE, v1Dte(driver.rig.page(), 3n));
    for (let i = 0; i < 520; i++) driver.rig.where(DEVICE, BigInt(i) << 12n);
    expect(driver.rig.interrupts).toEqual(['event-log', 'event-log']);
    driver.eventThread();
    expect(driver.found.map((event) => event.high)).toEqual(
      Array.from({ length: 511 }, (_, i) => BigInt(i) << 12n),
    );
  });

  it.each([1n, 2n, 3n, 4n, 5n])('an address above the width of Mode %i does not alias a low one', (mode) => {
    const driver = up();
    const root = driver.rig.page();
    driver.setDte(DEVICE, v1Dte(root, mode));
    driver.rig.map(root, Number(mode), 0x7000n, pte(0x5_5000n));
    expect(driver.rig.where(DEVICE, 0x7000n)).toBe(0x5_5000n);
    for (let bit = 12n + 9n * mode; bit < 64n; bit++) {
      expect(driver.rig.where(DEVICE, 0x7000n | (1n << bit))).toBe('IO_PAGE_FAULT');
    }
  });
});
