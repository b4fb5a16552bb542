// The register writes with which Linux starts VT-d hardware, in its order, and what must come of them.

import { describe, expect, it } from 'vitest';
import { GSTS, OFFSET } from '../spec/registers.ts';
import { PGTT } from '../spec/pasid.ts';
import type { ConfigOverrides } from './registers/config.ts';
import { AT, DATA, type Register, Rig, VA, descriptor } from './rules/rig.ts';

const TE = 0x8000_0000;
const SRTP = 0x4000_0000;
const QIE = 0x0400_0000;
const NO_SCALABLE = {
  SMTS: 0,
  FSTS: 0,
  NEST: 0,
  PASID: 0,
  PTRS: 0,
  PRS: 0,
  SMS: 0,
  SRS: 0,
  RPRIVS: 0,
  EAFS: 0,
  SMPWCS: 0,
  SSADS: 0,
  RPS: 0,
} as const;

/** Software that polls status registers, on hardware whose commands take their time. */
class Linux extends Rig {
  #gcmd = 0;
  #tail = 0;

  constructor(mode: 'legacy' | 'scalable', config: ConfigOverrides = {}) {
    super({ off: true, mode, config: { updates: 'later', ...config } });
    this.roots();
  }

  /** IOMMU_WAIT_OP(): a few reads must do. */
  wait(register: Register, done: (value: number) => boolean): void {
    for (let polls = 0; polls < 4; polls++) if (done(this.read(register))) return;
    throw new Error(`${register} stays at ${this.read(register).toString(16)}`);
  }

  enable(bits: number, status: number): void {
    this.#gcmd |= bits;
    this.write('GCMD', this.#gcmd >>> 0);
    this.wait('GSTS', (value) => (value & status) !== 0);
  }

  /** drivers/iommu/intel/dmar.c __dmar_enable_qi(). */
  enableQueue(): void {
    this.write('IQT', 0);
    this.write('IQA', this.mode === 'scalable' ? AT.iq + 0x801 : AT.iq);
    this.enable(QIE, GSTS.QIES.inPlace);
  }

  /** drivers/iommu/intel/iommu.c iommu_set_root_entry(). */
  setRoot(): void {
    this.write('RTADDR', AT.root + (this.mode === 'scalable' ? 0x400 : 0));
    this.write('GCMD', (this.#gcmd | SRTP) >>> 0);
    this.wait('GSTS', (value) => (value & GSTS.RTPS.inPlace) !== 0);
  }

  /** drivers/iommu/intel/iommu.c iommu_enable_translation(). */
  enableTranslation(): void {
    this.enable(TE, GSTS.TES.inPlace);
  }

  /** drivers/iommu/intel/dmar.c qi_submit_sync(): a wait descriptor behind, and its status polled. */
  submit(words: Uint32Array): void {
    const bytes = this.mode === 'scalable' ? 32 : 16;
    const slot = AT.status + this.#tail;
    for (const each of [words, descriptor.wait({ SW: 1, FN: 1, STATUS_DATA: 2, status: slot })]) {
      const padded = new Uint32Array(bytes / 4);
      padded.set(each.subarray(0, bytes / 4));
      this.memory.put(AT.iq + this.#tail, padded);
      this.#tail = (this.#tail + bytes) & (this.mode === 'scalable' ? 0x1fff : 0xfff);
    }
    this.memory.put(slot, [1, 0]);
    this.write('IQT', this.#tail);
    for (let polls = 0; this.memory.words(slot, 2)[0] !== 2; polls++) {
      expect(polls).toBeLessThan(4);
      expect(this.read('FSTS') & 0x70).toBe(0);
    }
  }

  /** drivers/iommu/intel/dmar.c dmar_msi_write() and dmar_msi_unmask(). */
  interrupt(control: 'FECTL' | 'PECTL', data: number): void {
    const base = OFFSET[control];
    this.iommu.writeRegister(base + 4, 4, BigInt(data));
    this.iommu.writeRegister(base + 8, 4, 0xfee0_1000n);
    this.iommu.writeRegister(base + 12, 4, 0n);
    this.write(control, 0);
    expect(this.read(control)).toBe(0);
  }

  /** drivers/iommu/intel/prq.c intel_iommu_enable_prq(). */
  enablePageRequests(): void {
    this.interrupt('PECTL', 0x22);
    this.write('PQH', 0);
    this.write('PQT', 0);
    this.write('PQA', AT.prq + 4);
  }

  /** drivers/iommu/intel/dmar.c dmar_fault(): reads and clears records from FRI on. */
  takeFaults(): { reason: number; source: number; address: bigint }[] {
    const out = [];
    let status = this.read('FSTS');
    let index = (status >>> 8) & 0xff;
    const count = this.iommu.features.frcdCount;
    while ((status & 2) !== 0) {
      const at = this.frcd + index * 16;
      const last = Number(this.iommu.readRegister(at + 12, 4));
      if (last >= 0x8000_0000) {
        out.push({
          reason: last & 0xff,
          source: Number(this.iommu.readRegister(at + 8, 4)) & 0xffff,
          address: this.iommu.readRegister(at, 8) & ~0xfffn,
        });
        this.iommu.writeRegister(at + 12, 4, 0x8000_0000n);
      } else break;
      index = (index + 1) % count;
      status = this.read('FSTS');
    }
    this.write('FSTS', 0x83);
    return out;
  }
}

/** drivers/iommu/intel/iommu.c init_dmars(), then intel_iommu_init(). */
function boot(linux: Linux): Linux {
  linux.takeFaults();
  linux.enableQueue();
  linux.setRoot();
  if (!linux.iommu.features.esrtps) {
    linux.submit(descriptor.cc());
    if (linux.mode === 'scalable') linux.submit(descriptor.pc());
    linux.submit(descriptor.iotlb());
  }
  if (linux.iommu.features.prs) linux.enablePageRequests();
  linux.interrupt('FECTL', 0x21);
  linux.enableTranslation();
  return linux;
}

describe("Linux's bring-up", () => {
  it('starts scalable mode, maps, unmaps, and sees a fault', () => {
    const linux = boot(new Linux('scalable'));
    const tables = linux.second({ PGSNP: 1 });
    const place = tables.map(VA, DATA);
    expect(linux.pa(VA, { write: true })).toBe(AT.data);
    linux.memory.put64(place, 0n);
    linux.submit(descriptor.iotlb({ G: 3, DID: 7, address: VA, DR: 1, DW: 1 }));
    expect(linux.pa(VA, { write: true })).toBe(null);
    expect(linux.interrupts).toEqual([{ event: 'fault', address: 0xfee0_1000n, data: 0x21 }]);
    expect(linux.takeFaults()).toEqual([{ reason: 0x79, source: 0x20, address: VA }]);
    expect(linux.read('FSTS')).toBe(0);
  });

  it('flushes by descriptors where SRTP does not', () => {
    const linux = boot(new Linux('scalable', { CAP: { ESRTPS: 0 } }));
    expect(linux.read('IQH')).toBe(6 * 32);
    linux.first().map(VA, DATA);
    expect(linux.pa(VA)).toBe(AT.data);
  });

  it('starts legacy mode with 128-bit descriptors', () => {
    const linux = boot(new Linux('legacy', { ECAP: NO_SCALABLE, CAP: { ESRTPS: 0 } }));
    linux.second().map(VA, DATA);
    expect(linux.pa(VA)).toBe(AT.data);
    linux.context({ P: 0 });
    linux.submit(descriptor.cc({ G: 3, DID: 7, SID: 0x20 }));
    linux.submit(descriptor.iotlb({ G: 2, DID: 7 }));
    expect(linux.pa(VA)).toBe(null);
    expect(linux.takeFaults()).toEqual([{ reason: 2, source: 0x20, address: VA }]);
  });

  it('starts legacy mode without a queue, and invalidates by registers', () => {
    const none = { QI: 0, DT: 0, NWFS: 0, DIT: 0, PDS: 0, ADMS: 0 };
    const linux = new Linux('legacy', { ECAP: { ...NO_SCALABLE, ...none }, CAP: { ESRTPS: 0 } });
    linux.setRoot();
    linux.write('CCMD', (1n << 63n) | (1n << 61n));
    expect(linux.read64(OFFSET.CCMD) >> 63n).toBe(0n);
    const iotlb = linux.iommu.features.iotlbOffset + 8;
    linux.iommu.writeRegister(iotlb, 8, (1n << 63n) | (1n << 60n) | (3n << 48n));
    const value = linux.read64(iotlb);
    expect([value >> 63n, (value >> 57n) & 3n]).toEqual([0n, 1n]);
    linux.enableTranslation();
    linux.second().map(VA, DATA);
    expect(linux.pa(VA)).toBe(AT.data);
  });

  it('tears a PASID down as intel_pasid_tear_down_entry() does', () => {
    const linux = boot(new Linux('scalable'));
    linux.first({}, {}, 5).map(VA, DATA);
    expect(linux.pa(VA, { pasid: 5 })).toBe(AT.data);
    // P cleared, FPD set: what is in flight faults without a word.
    linux.pasid({ P: 0, FPD: 1 }, 5);
    linux.submit(descriptor.pc({ G: 1, DID: 7, PASID: 5 }));
    linux.submit(descriptor.pIotlb({ G: 2, DID: 7, PASID: 5 }));
    expect(linux.code(VA, { pasid: 5 })).toBe('SPT.2');
    expect(linux.takeFaults()).toEqual([]);
  });

  it('serves page requests', () => {
    const linux = boot(new Linux('scalable'));
    linux.first({}, {}, 5);
    linux.iommu.requestPage({
      requesterId: 0x20,
      pasid: 5,
      hi: 0,
      lo: Number(VA),
      prgIndex: 3,
      read: true,
      write: true,
      execute: false,
      privileged: false,
      last: true,
    });
    expect(linux.interrupts).toEqual([{ event: 'page-request', address: 0xfee0_1000n, data: 0x22 }]);
    expect(linux.read('PRS')).toBe(1);
    linux.write('PRS', 1);
    expect(linux.pageRequests()).toMatchObject([{ PASID: 5, PRGI: 3, RDR: 1, WRR: 1 }]);
    linux.submit(descriptor.pageGroupResponse({ PP: 1, PASID: 5, PRGI: 3, RC: 0 }));
  });

  it('recovers from an invalid descriptor as qi_check_fault() does', () => {
    const linux = boot(new Linux('scalable'));
    const head = linux.read('IQH');
    linux.memory.put(AT.iq + head, descriptor.type(0x3f));
    linux.write('IQT', head + 32);
    expect(linux.read('FSTS') & 0x10).toBe(0x10);
    expect(linux.read('IQH')).toBe(head);
    linux.memory.put(AT.iq + head, new Uint32Array([5, 0, 0, 0, 0, 0, 0, 0]));
    linux.write('FSTS', 0x10);
    expect(linux.read('IQH')).toBe(head + 32);
    expect(linux.read('FSTS') & 0x10).toBe(0);
  });

  it('leaves pass-through devices alone', () => {
    const linux = boot(new Linux('scalable'));
    linux.smContext();
    linux.directory();
    linux.pasid({ PGTT: PGTT.PASS_THROUGH, AW: 3 });
    expect(linux.pa(VA)).toBe(Number(VA));
  });
});
