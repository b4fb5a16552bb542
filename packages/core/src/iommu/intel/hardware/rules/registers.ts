// Chapter 11: the register file.

import { has, same, topic } from '../../../testing/rules.ts';
import { CAP, ECAP, GCMD, GSTS, OFFSET, TTM } from '../../spec/registers.ts';
import { decode } from '../../../../base/bit-fields.ts';
import type { ConfigOverrides } from '../registers/config.ts';
import { intelConfig } from '../registers/config.ts';
import { AT, DATA, RID, Rig, VA, descriptor } from './rig.ts';

const OFF = { off: true } as const;
const status = (rig: Rig): Record<string, unknown> => decode(GSTS, [rig.read('GSTS')]);
const refused = (config: ConfigOverrides): boolean => {
  try {
    intelConfig(config);
    return false;
  } catch {
    return true;
  }
};
const off = (rig: Rig): number[] => [rig.read('IECTL'), rig.read('IQA'), rig.read('IQT'), rig.read('ICS')];

export const REGISTERS = topic('REG', (rule) => {
  rule('§11.4.1', 'VER_REG has the major version in bits 7:4', () => {
    same(new Rig({ ...OFF, config: { VER: { MAX: 6, MIN: 1 } } }).read('VER'), 0x61);
  });
  rule('§11.4.2', 'CAP_REG and ECAP_REG read as configured and ignore writes', () => {
    const rig = new Rig(OFF);
    for (const register of ['CAP', 'ECAP'] as const) {
      const before = rig.read64(OFFSET[register]);
      rig.write(register, 0xffff_ffff_ffff_ffffn);
      same(rig.read64(OFFSET[register]), before);
    }
    has(decode(CAP, [Number(rig.read64(OFFSET.CAP) & 0xffff_ffffn), 0]), { ND: 6, SAGAW: 0b01110, CM: 0 });
  });
  rule('§11.4.3', 'what the model does not have cannot be advertised', () => {
    for (const name of ['IR', 'MTS', 'ERS', 'VCS', 'PMS', 'HPTS', 'TDXCS', 'RDTS'] as const) {
      same(refused({ ECAP: { [name]: 1 } }), true);
    }
    for (const name of ['PLMR', 'PHMR', 'PI', 'ECMDS'] as const) same(refused({ CAP: { [name]: 1 } }), true);
  });
  rule('§11.4.3', 'a capability whose precondition is clear cannot be advertised', () => {
    for (const [gone, broken] of [
      ['QI', 'DT'],
      ['SSTS', 'NEST'],
      ['SRS', 'RPRIVS'],
      ['DT', 'PRS'],
      ['SMPWCS', 'SSADS'],
    ] as const) {
      same([broken, refused({ ECAP: { [gone]: 0 } })], [broken, true]);
    }
    same(refused({ ECAP: { SSIRWS: 0, SMS: 0 } }), false);
  });
  rule('§11.4', 'what is no register reads as zero and ignores writes', () => {
    const rig = new Rig(OFF);
    for (const offset of [0x04, 0x30, 0x48, 0x60, 0x98, 0xd8, 0x100, 0x400, 0xdc0, 0xffc]) {
      rig.iommu.writeRegister(offset, 4, 0xffff_ffffn);
      same(rig.iommu.readRegister(offset, 4), 0n);
    }
  });
  rule('§11.2', 'accesses that are not aligned, or not of 4 or 8 bytes, reach no register', () => {
    const rig = new Rig(OFF);
    rig.iommu.writeRegister(OFFSET.RTADDR + 4, 8, 0xfn);
    rig.iommu.writeRegister(OFFSET.FEDATA, 2, 0xffn);
    same([rig.read('RTADDR'), rig.read('FEDATA')], [0, 0]);
    same(rig.iommu.readRegister(OFFSET.VER, 1), 0n);
  });
  rule('§11.2', 'a 64-bit register can be written in two halves', () => {
    const rig = new Rig(OFF);
    rig.iommu.writeRegister(OFFSET.IQA, 4, 0x1234_5003n);
    rig.iommu.writeRegister(OFFSET.IQA + 4, 4, 0x12n);
    same(rig.read64(OFFSET.IQA), 0x12_1234_5003n);
  });
  rule('§11.4.4.1', 'GCMD_REG is write-only: it reads as zero', () => {
    const rig = new Rig(OFF);
    rig.command(GCMD.TE.inPlace);
    same(rig.read('GCMD'), 0);
  });
  rule('§11.4.4.2', 'TE, QIE and SRTP show in TES, QIES and RTPS', () => {
    const rig = new Rig(OFF);
    has(status(rig), { TES: 0, QIES: 0, RTPS: 0 });
    rig.command(GCMD.SRTP.inPlace);
    has(status(rig), { TES: 0, QIES: 0, RTPS: 1 });
    rig.command(GCMD.QIE.inPlace);
    rig.command(GCMD.QIE.inPlace | GCMD.TE.inPlace);
    has(status(rig), { TES: 1, QIES: 1, RTPS: 1 });
    rig.command(0);
    has(status(rig), { TES: 0, QIES: 0, RTPS: 1 });
  });
  rule('§11.4.4.1', 'SRTP clears RTPS until it completes, and clearing the bit does nothing', () => {
    const rig = new Rig({ ...OFF, config: { updates: 'later' } });
    rig.command(GCMD.SRTP.inPlace);
    rig.iommu.step();
    has(status(rig), { RTPS: 1 });
    rig.command(GCMD.SRTP.inPlace);
    rig.command(0);
    has(status(rig), { RTPS: 1 });
  });
  rule('§11.4.4.2', 'slow hardware: a command takes effect by the next step or poll of the status', () => {
    const rig = new Rig({ ...OFF, config: { updates: 'later' } });
    rig.command(GCMD.TE.inPlace);
    same(rig.pa(VA) !== null, true);
    has(status(rig), { TES: 1 });
    same(rig.pa(VA), null);
  });
  rule(
    '§11.4.4.1',
    'IRE, SIRTP and CFI do nothing without interrupt remapping, WBF nothing without RWBF',
    () => {
      const rig = new Rig(OFF);
      rig.command(GCMD.IRE.inPlace | GCMD.SIRTP.inPlace | GCMD.CFI.inPlace | GCMD.WBF.inPlace);
      same(rig.read('GSTS'), 0);
    },
  );
  rule('§11.4.5', 'RTADDR_REG takes effect with SRTP alone', () => {
    const rig = new Rig();
    rig.passThrough();
    same(rig.pa(VA), Number(VA));
    rig.write('RTADDR', AT.upper);
    rig.run(descriptor.cc(), descriptor.pc(), descriptor.iotlb());
    same(rig.pa(VA), Number(VA));
    rig.command(GCMD.SRTP.inPlace | GCMD.QIE.inPlace | GCMD.TE.inPlace);
    same(rig.pa(VA), null);
  });
  rule('§11.4.5', 'RTADDR_REG: bits 9:8, 6:0 and those above HAW are not there', () => {
    const rig = new Rig({ ...OFF, config: { hostAddressWidth: 40 } });
    rig.write('RTADDR', 0xffff_ffff_ffff_ffffn);
    same(rig.read64(OFFSET.RTADDR), 0xff_ffff_fc80n);
  });
  rule('§11.4.5', 'SSIRWE is reserved without SSIRWS', () => {
    const rig = new Rig({ ...OFF, config: { ECAP: { SSIRWS: 0 } } });
    rig.write('RTADDR', 0x80);
    same(rig.read('RTADDR'), 0);
  });
  rule('§6.6', 'with ESRTPS, SRTP empties every translation cache', () => {
    const rig = new Rig();
    rig.first().map(VA, DATA);
    rig.pa(VA);
    rig.command(GCMD.SRTP.inPlace | GCMD.QIE.inPlace | GCMD.TE.inPlace);
    same([rig.iommu.iotlb.size, rig.iommu.cachedEntries], [0, { contexts: 0, pasids: 0 }]);
  });
  rule('§6.6', 'without ESRTPS, SRTP leaves the caches alone', () => {
    const rig = new Rig({ config: { CAP: { ESRTPS: 0 } } });
    rig.first().map(VA, DATA);
    rig.pa(VA);
    rig.command(GCMD.SRTP.inPlace | GCMD.QIE.inPlace | GCMD.TE.inPlace);
    same([rig.iommu.iotlb.size, rig.iommu.cachedEntries], [1, { contexts: 1, pasids: 1 }]);
  });
  rule('§11.4.4.1', 'with SMTS, disabling translation empties every translation cache', () => {
    const rig = new Rig();
    rig.first().map(VA, DATA);
    rig.pa(VA);
    rig.command(GCMD.QIE.inPlace);
    same(rig.iommu.iotlb.size, 0);
  });
  rule('§11.4.4.2', 'with TES clear, requests pass untranslated', () => {
    const rig = new Rig();
    rig.command(0);
    same(rig.pa(VA), Number(VA));
    same(rig.faults(), []);
  });
  rule('§11.4.7.2', 'event control registers reset with the interrupt masked', () => {
    const rig = new Rig(OFF);
    same(
      (['FECTL', 'IECTL', 'PECTL'] as const).map((name) => rig.read(name)),
      [0x8000_0000, 0x8000_0000, 0x8000_0000],
    );
  });
  rule('§11.4.7.3', 'event data has 16 bits, the address bits 31:2', () => {
    const rig = new Rig(OFF);
    for (const name of ['FEDATA', 'IEDATA', 'PEDATA', 'FEADDR', 'IEADDR', 'PEADDR'] as const) {
      rig.write(name, 0xffff_ffff);
      same(rig.read(name), name.endsWith('DATA') ? 0xffff : 0xffff_fffc);
    }
  });
  rule('§11.4.7.5', 'without Extended Interrupt Mode the upper address registers are reserved', () => {
    const rig = new Rig(OFF);
    for (const name of ['FEUADDR', 'IEUADDR', 'PEUADDR'] as const) {
      rig.write(name, 0xffff_ffff);
      same(rig.read(name), 0);
    }
  });
  rule(
    '§11.4.8.1',
    'protected memory registers are read-only zero where the regions are not supported',
    () => {
      const rig = new Rig(OFF);
      for (const name of ['PMEN', 'PLMBASE', 'PLMLIMIT', 'PHMBASE', 'PHMLIMIT'] as const) {
        rig.write(name, 0xffff_ffff);
        same(rig.read(name), 0);
      }
    },
  );
  rule('§11.4.9.1', 'the queue registers are reserved without queued invalidation', () => {
    const ECAP_OFF = Object.fromEntries(
      ECAP.$.fields.filter(({ name }) => name !== 'IRO').map(({ name }) => [name, 0]),
    );
    const rig = new Rig({ ...OFF, config: { ECAP: ECAP_OFF } });
    for (const name of ['IECTL', 'IQA', 'IQT', 'ICS'] as const) rig.write(name, 0xffff_ffff);
    same(off(rig), [0, 0, 0, 0]);
    rig.command(GCMD.QIE.inPlace);
    has(status(rig), { QIES: 0 });
  });
  rule('§11.4.9.1', 'IQH_REG is read-only, and is reset when the queue is disabled', () => {
    const rig = new Rig();
    rig.run(descriptor.wait());
    same(rig.read('IQH'), 32);
    rig.write('IQH', 0);
    same(rig.read('IQH'), 32);
    rig.command(GCMD.TE.inPlace);
    same(rig.read('IQH'), 0);
  });
  rule('§11.4.10', 'IRTA_REG is reserved without interrupt remapping', () => {
    const rig = new Rig(OFF);
    rig.write('IRTA', 0xffff_ffff_ffff_ffffn);
    same(rig.read('IRTA'), 0);
  });
  rule('§11.4.11.1', 'the page request registers are reserved without PRS', () => {
    const rig = new Rig({ ...OFF, config: { ECAP: { PRS: 0, SMS: 0 } } });
    for (const name of ['PQH', 'PQT', 'PQA', 'PRS', 'PECTL', 'PEDATA', 'PEADDR'] as const) {
      rig.write(name, 0xffff_ffff);
      same(rig.read(name), 0);
    }
  });
  rule('§11.4.2 FRO', 'fault recording registers lie where FRO says, as many as NFR says', () => {
    const rig = new Rig({ config: { CAP: { FRO: 0x40, NFR: 1 } } });
    rig.dma(VA);
    same(rig.iommu.readRegister(0x400 + 12, 4) >> 31n, 1n);
    same(rig.iommu.readRegister(0x220 + 12, 4), 0n);
  });
  rule('§11.4.3 IRO', 'the IOTLB registers lie where IRO says', () => {
    const rig = new Rig({ mode: 'legacy', config: { ECAP: { IRO: 0x20 } } });
    rig.command(GCMD.TE.inPlace);
    rig.iommu.writeRegister(0x208, 8, (1n << 63n) | (1n << 60n));
    same((rig.iommu.readRegister(0x208, 8) >> 57n) & 3n, 1n);
  });
  rule('§11.4', 'reset gives every register its reset value and forgets everything', () => {
    const rig = new Rig();
    rig.first().map(VA, DATA);
    rig.dma(VA);
    rig.dma(0n);
    rig.iommu.reset();
    same([rig.read('GSTS'), rig.read('FSTS'), rig.read('RTADDR'), rig.read('FECTL')], [0, 0, 0, 0x8000_0000]);
    same(rig.iommu.iotlb.size, 0);
    same(rig.pa(VA), Number(VA));
  });
  rule('§7.1.3 RTA.1.2', 'TTM 10b is a fault of every request', () => {
    const rig = new Rig();
    rig.write('RTADDR', AT.root + (TTM.RESERVED << 10));
    rig.command(GCMD.SRTP.inPlace | GCMD.TE.inPlace);
    same([rig.code(VA), rig.code(VA, { pasid: 1 })], ['RTA.1.2', 'RTA.1.2']);
  });
  rule('§7.1.3 RTA.1.1', 'TTM 11b without ADMS is a fault of every request', () => {
    const rig = new Rig({ config: { ECAP: { ADMS: 0 } } });
    rig.write('RTADDR', AT.root + (TTM.ABORT << 10));
    rig.command(GCMD.SRTP.inPlace | GCMD.TE.inPlace);
    has(rig.fault(VA), { FR: 0x30, SID: RID });
  });
  rule('§7.1.3 RTA.1.3', 'TTM 01b without scalable mode is a fault of every request', () => {
    const none = { SMTS: 0, FSTS: 0, NEST: 0, PASID: 0, PTRS: 0, PRS: 0, SMS: 0, SRS: 0, RPRIVS: 0 };
    const rig = new Rig({ config: { ECAP: { ...none, EAFS: 0, SMPWCS: 0, SSADS: 0, RPS: 0 } } });
    same(rig.code(VA), 'RTA.1.3');
  });
  rule('§7.1.3 RTA.1.4', 'SSIRWE in legacy mode is a fault of every request', () => {
    const rig = new Rig({ mode: 'legacy' });
    rig.write('RTADDR', AT.root + 0x80);
    rig.command(GCMD.SRTP.inPlace | GCMD.TE.inPlace);
    same(rig.code(VA), 'RTA.1.4');
  });
  rule('§7.1.3 RTA.2', 'legacy mode takes no request-with-PASID', () => {
    const rig = new Rig({ mode: 'legacy' });
    rig.passThrough();
    has(rig.fault(VA, { pasid: 3 }), { FR: 0x31, PP: 1, PV: 3 });
  });
  rule('§3.4.4', 'abort-dma mode blocks everything without tables', () => {
    const rig = new Rig();
    rig.write('RTADDR', TTM.ABORT << 10);
    rig.command(GCMD.SRTP.inPlace | GCMD.QIE.inPlace | GCMD.TE.inPlace);
    has(rig.fault(VA), { FR: 0x33 });
    same(rig.code(VA, { pasid: 1 }), 'RTA.4');
  });
  rule(
    '§7.1.3 RTA.5',
    'from major version 8 on, execute requests are a fault before any table is read',
    () => {
      const rig = new Rig({ config: { VER: { MAX: 8 } } });
      has(rig.fault(VA, { pasid: 1, execute: true }), { FR: 0x34, EXE: 1, PP: 1 });
    },
  );
  rule(
    '§7.1.3 SPT.5',
    'before major version 8, execute requests are a fault of the PASID table entry',
    () => {
      const rig = new Rig();
      rig.first({}, {}, 1).map(VA, DATA);
      has(rig.fault(VA, { pasid: 1, execute: true }), { FR: 0x5c });
    },
  );
});
