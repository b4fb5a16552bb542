// Fault reporting: §7.1 to §7.3, §11.4.7.

import { has, same, topic } from '../../../testing/rules.ts';
import { FAULT, FRCD_BYTES } from '../../spec/faults.ts';
import { FSTS, OFFSET } from '../../spec/registers.ts';
import { AT, DATA, RID, Rig, VA, descriptor } from './rig.ts';

const W = { write: true };
const status = (rig: Rig): { pfo: boolean; ppf: boolean; fri: number } => {
  const value = rig.read('FSTS');
  return {
    pfo: (value & FSTS.PFO.inPlace) !== 0,
    ppf: (value & FSTS.PPF.inPlace) !== 0,
    fri: (value & FSTS.FRI.inPlace) >>> FSTS.FRI.shift,
  };
};
const clear = (rig: Rig, index: number): void =>
  rig.iommu.writeRegister(rig.frcd + index * FRCD_BYTES + 12, 4, 0x8000_0000n);
/** A fault of each function in turn. */
const fault = (rig: Rig, rid = RID): void => void rig.dma(VA, { requesterId: rid });
const noDt = { DT: 0, PRS: 0, SMS: 0, NWFS: 0, DIT: 0, PDS: 0, PTRS: 0 };

export const FAULTS = topic('FLT', (rule) => {
  rule('§11.4.7.6', 'a record has the page address, the source-id and the reason', () => {
    const rig = new Rig();
    rig.dma(0x1234_5678_9abcn, W);
    const { T1, T2, AT: at, ...record } = rig.record();
    same(record, { FI: 0x1234_5678_9, SID: RID, PRIV: 0, EXE: 0, PP: 0, FR: 0x41, PV: 0, F: 1 });
    same([T1, T2, at], [0, 0, 0]);
  });
  rule('§11.4.7.6 T1, T2', 'the type tells writes, reads and atomics apart', () => {
    const rig = new Rig();
    const types = [W, {}, { atomic: true }].map((transaction) => {
      const record = rig.fault(VA, transaction)!;
      return [record['T1'], record['T2']];
    });
    same(types, [
      [0, 0],
      [1, 0],
      [1, 1],
    ]);
  });
  rule('§11.4.7.6', 'a request-with-PASID is recorded with its PASID and privilege', () => {
    const rig = new Rig();
    rig.smContext();
    has(rig.fault(VA, { pasid: 0x12345, privileged: true }), { PP: 1, PV: 0x12345, PRIV: 1 });
    has(rig.fault(VA), { PP: 0, PV: 0, PRIV: 0 });
  });
  rule('§11.4.7.6', 'without PASID support the fields of PASIDs stay zero', () => {
    const rig = new Rig({ config: { ECAP: { PASID: 0, PTRS: 0 } } });
    rig.smContext({ PASIDE: 0 });
    has(rig.fault(VA, { pasid: 5, privileged: true }), { FR: 0x45, PP: 0, PV: 0, PRIV: 0 });
  });
  rule('§11.4.7.6 AT', 'the address type is recorded, without Device-TLBs it is zero', () => {
    const rig = new Rig();
    rig.dma(VA, { translated: true });
    rig.iommu.requestTranslation({ requesterId: RID, hi: 0, lo: 0, write: false });
    same(
      rig.faults().map((record) => record['AT']),
      [2, 1],
    );
  });
  rule('§11.4.7.6 FI', 'address bits above the largest AGAW are zero', () => {
    const rig = new Rig({ config: { CAP: { SAGAW: 0b10, FS5LP: 0 } } });
    has(rig.fault(0xffff_ffff_ffff_f000n), { FI: 2 ** 36 - 1 });
  });
  rule('§11.4.7.6', 'fields of a record cannot be written, but F is cleared by writing one', () => {
    const rig = new Rig();
    fault(rig);
    for (let word = 0; word < 16; word += 4) rig.iommu.writeRegister(rig.frcd + word, 4, 0x7fff_ffffn);
    has(rig.record(), { F: 1, SID: RID, FR: 0x41 });
    clear(rig, 0);
    has(rig.record(), { F: 0, SID: RID, FR: 0x41 });
  });
  rule('§7.2.1', 'faults go into the registers in turn, from 0 on', () => {
    const rig = new Rig();
    for (let i = 0; i < 3; i++) fault(rig, RID + i);
    same(
      [0, 1, 2, 3].map((index) => [rig.record(index)['F'], rig.record(index)['SID']]),
      [
        [1, RID],
        [1, RID + 1],
        [1, RID + 2],
        [0, 0],
      ],
    );
  });
  rule('§7.2.1 FRI', 'FRI names the register of the first pending fault', () => {
    const rig = new Rig();
    fault(rig);
    same(status(rig), { pfo: false, ppf: true, fri: 0 });
    fault(rig);
    clear(rig, 0);
    clear(rig, 1);
    same(status(rig).ppf, false);
    fault(rig);
    same(status(rig), { pfo: false, ppf: true, fri: 2 });
  });
  rule('§7.2.1 PPF', 'PPF is the OR of every F', () => {
    const rig = new Rig();
    fault(rig);
    fault(rig);
    clear(rig, 0);
    same(status(rig).ppf, true);
    clear(rig, 1);
    same(status(rig).ppf, false);
  });
  rule('§7.2.1 PFO', 'a fault that meets a register with F set overflows and is lost', () => {
    const rig = new Rig({ config: { CAP: { NFR: 1 } } });
    for (let i = 0; i < 3; i++) fault(rig, RID + i);
    same(status(rig), { pfo: true, ppf: true, fri: 0 });
    same([rig.record(0)['SID'], rig.record(1)['SID']], [RID, RID + 1]);
  });
  rule('§7.2.1 PFO', 'nothing is recorded until the overflow is cleared; then at the current index', () => {
    const rig = new Rig({ config: { CAP: { NFR: 2 } } });
    for (let i = 0; i < 4; i++) fault(rig, RID + i);
    for (let i = 0; i < 3; i++) clear(rig, i);
    fault(rig, RID + 5);
    same(status(rig), { pfo: true, ppf: false, fri: 0 });
    rig.write('FSTS', FSTS.PFO.inPlace);
    fault(rig, RID + 6);
    same([status(rig), rig.record(0)['SID']], [{ pfo: false, ppf: true, fri: 0 }, RID + 6]);
  });
  rule('§7.2.1', 'the index starts over when translation is disabled', () => {
    const rig = new Rig();
    fault(rig);
    rig.faults();
    rig.command(0x0400_0000);
    rig.command(0x8400_0000);
    fault(rig, RID + 9);
    same([rig.record(0)['SID'], status(rig).fri], [RID + 9, 0]);
  });
  rule('§7.2.1', 'hardware that compresses faults drops more of a function with a pending one', () => {
    const rig = new Rig({ config: { collapseFaults: true } });
    fault(rig);
    fault(rig);
    fault(rig, RID + 1);
    same([rig.record(0)['SID'], rig.record(1)['SID'], rig.record(2)['F']], [RID, RID + 1, 0]);
  });
  rule('§7.3', 'the first pending fault interrupts, later ones do not', () => {
    const rig = new Rig();
    rig.write('FEDATA', 0x42);
    rig.write('FEADDR', 0xfee0_0000);
    rig.write('FECTL', 0);
    fault(rig);
    fault(rig);
    same(rig.interrupts, [{ event: 'fault', address: 0xfee0_0000n, data: 0x42 }]);
    rig.faults();
    fault(rig);
    same(rig.interrupts.length, 2);
  });
  rule('§7.3', 'a masked fault event is pending until it is unmasked', () => {
    const rig = new Rig();
    fault(rig);
    same([rig.read('FECTL') >>> 0, rig.interrupts.length], [0xc000_0000, 0]);
    rig.write('FECTL', 0);
    same([rig.read('FECTL'), rig.interrupts.length], [0, 1]);
  });
  rule('§7.3', 'servicing every status drops the pending interrupt', () => {
    const rig = new Rig();
    fault(rig);
    rig.faults();
    same(rig.read('FECTL') >>> 0, 0x8000_0000);
    rig.write('FECTL', 0);
    same(rig.interrupts, []);
  });
  rule('§7.3', 'a status that is pending keeps another one from interrupting', () => {
    const rig = new Rig();
    rig.write('FECTL', 0);
    fault(rig);
    rig.run(descriptor.type(0));
    same(rig.interrupts.length, 1);
  });
  rule('§7.3', 'an overflow that is not cleared keeps the interrupt pending', () => {
    const rig = new Rig({ config: { CAP: { NFR: 0 } } });
    fault(rig);
    fault(rig, RID + 1);
    clear(rig, 0);
    same([status(rig), rig.read('FECTL') >>> 0], [{ pfo: true, ppf: false, fri: 0 }, 0xc000_0000]);
    rig.write('FSTS', FSTS.PFO.inPlace);
    same(rig.read('FECTL') >>> 0, 0x8000_0000);
  });
  rule('§7.3', 'IP cannot be written', () => {
    const rig = new Rig({ off: true });
    rig.write('FECTL', 0x4000_0000);
    same([rig.read('FECTL'), rig.interrupts.length], [0, 0]);
  });
  rule('§11.4.7.1', 'PPF and FRI cannot be written', () => {
    const rig = new Rig();
    fault(rig);
    rig.write('FSTS', 0xff02);
    same(status(rig), { pfo: false, ppf: true, fri: 0 });
  });
  rule('§7.1.3', 'every reason code stands in Table 30 or Table 15', () => {
    const reasons = [...new Set(Object.values(FAULT).map(({ reason }) => reason))].toSorted((a, b) => a - b);
    const wanted = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0xa, 0xb, 0xc, 0xd, 0xe, 0x29];
    wanted.push(0x30, 0x31, 0x32, 0x33, 0x34, 0x38, 0x39, 0x3a);
    wanted.push(0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x50, 0x51, 0x52);
    wanted.push(0x58, 0x59, 0x5a, 0x5b, 0x5c, 0x5d, 0x60);
    for (let reason = 0x70; reason <= 0x7d; reason++) wanted.push(reason);
    wanted.push(0x80, 0x81, 0x83, 0x84, 0x85, 0x86, 0x87, 0x89, 0x90, 0x91);
    for (let reason = 0xa0; reason <= 0xa5; reason++) wanted.push(reason);
    same(reasons, wanted);
  });
  rule('§7.1.1', 'blocked requests reach no memory', () => {
    const rig = new Rig();
    rig.memory.put64(AT.data, 0x1122n);
    const data = new Uint8Array(8);
    const { done } = rig.iommu.access({ requesterId: RID, hi: 0, lo: AT.data >>> 0, write: true }, data);
    same([done, rig.memory.get64(AT.data)], [0, 0x1122n]);
  });
  rule('§4.2.1', 'with translation disabled, translated and translation requests are unsupported', () => {
    const rig = new Rig();
    rig.first().map(VA, DATA);
    rig.command(0);
    has(rig.dma(VA, { translated: true }), { kind: 'blocked', status: 'UR', recorded: false });
    has(rig.iommu.requestTranslation({ requesterId: RID, hi: 0, lo: Number(VA), write: false }), {
      status: 'UR',
    });
    same(rig.read('FSTS'), 0);
  });
  rule('§11.4.3 DT', 'without Device-TLBs translated and translation requests are unsupported', () => {
    const rig = new Rig({ config: { ECAP: noDt } });
    rig.smContext({ DTE: 0, PRE: 0 });
    has(rig.dma(VA, { translated: true }), { kind: 'blocked', status: 'UR', fault: null });
    has(rig.iommu.requestTranslation({ requesterId: RID, hi: 0, lo: 0, write: false }), { status: 'UR' });
    same(rig.iommu.readRegister(OFFSET.FSTS, 4), 0n);
  });
});
