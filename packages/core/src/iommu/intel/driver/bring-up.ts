import { failed, type Result } from '../../../base/result.ts';
import { GCMD, GSTS, OFFSET, RTADDR, TTM } from '../spec/registers.ts';
import { CONTEXT_GLOBAL, iotlbGlobal, PASID_CACHE_GLOBAL } from './queues/descriptors.ts';
import type { DmarUnit } from './dmar-unit.ts';
import { serveFaults } from './queues/faults.ts';

// From reset to translating: drivers/iommu/intel/iommu.c init_dmars(), and the end of intel_iommu_init(). Where Linux
// brings up several units step by step, here each goes through all of it; so do devices, which Linux looks at before it
// enables translation, where they were there at boot.

/** Where the messages of events go, as on x86: the interrupt address range. */
const MESSAGE_ADDRESS = 0xfee0_0000;
const VECTOR = { FAULT: 0x20, PAGE_REQUEST: 0x21 } as const;

/** Runs steps until one fails. */
function inOrder(...steps: (() => Result<void>)[]): Result<void> {
  for (const step of steps) {
    const done = step();
    if (failed(done)) return done;
  }
}

export function bringUp(unit: DmarUnit): Result<void> {
  return inOrder(
    () => takeOver(unit),
    () => enableQueue(unit),
    () => setRootTable(unit),
    () => enablePageRequests(unit),
    () => messageFor(unit, OFFSET.FECTL, VECTOR.FAULT),
    () => enableTranslation(unit),
  );
}

/** Writes GCMD, and waits until GSTS shows `bit` on or off: IOMMU_WAIT_OP(). */
function command(unit: DmarUnit, value: number, bit: number, on: boolean): Result<void> {
  unit.mmio.write32(OFFSET.GCMD, value);
  const done = unit.mmio.poll(OFFSET.GSTS, (status) => ((status & bit) !== 0) === on);
  if (failed(done)) {
    unit.log('DMAR hardware is malfunctioning');
    return done;
  }
}

// intel_iommu_init_qi() and what follows it: what firmware or a kernel before has left on goes off.
function takeOver(unit: DmarUnit): Result<void> {
  const { mmio } = unit;
  const status = mmio.read32(OFFSET.GSTS);
  unit.gcmd = status & (GSTS.TES.inPlace | GSTS.QIES.inPlace);
  serveFaults(unit);
  if ((mmio.read32(OFFSET.GSTS) & GSTS.QIES.inPlace) !== 0) {
    const idle = mmio.poll(OFFSET.IQT, (tail) => tail === mmio.read32(OFFSET.IQH));
    if (failed(idle)) unit.log('the invalidation queue was left with descriptors in it');
    unit.gcmd &= ~GCMD.QIE.inPlace;
    const off = command(unit, unit.gcmd, GSTS.QIES.inPlace, false);
    if (failed(off)) return off;
  }
  if ((unit.gcmd & GCMD.TE.inPlace) === 0) return;
  unit.log('Translation was enabled');
  return disableTranslation(unit);
}

// dmar_enable_qi()
function enableQueue(unit: DmarUnit): Result<void> {
  unit.queue.program();
  unit.gcmd |= GCMD.QIE.inPlace;
  return command(unit, unit.gcmd, GSTS.QIES.inPlace, true);
}

// iommu_set_root_entry(): hardware with ESRTPS empties its caches by itself.
function setRootTable(unit: DmarUnit): Result<void> {
  const { mmio, features, rootTable } = unit;
  mmio.write64(OFFSET.RTADDR, BigInt(rootTable.address) | (BigInt(TTM.SCALABLE) << BigInt(RTADDR.TTM.shift)));
  const set = command(unit, unit.gcmd | GCMD.SRTP.inPlace, GSTS.RTPS.inPlace, true);
  if (failed(set) || features.esrtps) return set;
  for (const descriptor of [CONTEXT_GLOBAL, PASID_CACHE_GLOBAL, iotlbGlobal(features)])
    unit.invalidate([descriptor]);
}

// intel_iommu_enable_prq()
function enablePageRequests(unit: DmarUnit): void {
  if (unit.pageRequests === null) return;
  messageFor(unit, OFFSET.PECTL, VECTOR.PAGE_REQUEST);
  unit.pageRequests.program();
}

// dmar_set_interrupt(): dmar_msi_write() and dmar_msi_unmask(), as request_irq() comes to them.
function messageFor({ mmio }: DmarUnit, control: number, vector: number): void {
  mmio.write32(control + 4, vector);
  mmio.write32(control + 8, MESSAGE_ADDRESS);
  mmio.write32(control + 12, 0);
  mmio.write32(control, 0);
  mmio.read32(control);
}

// iommu_enable_translation()
function enableTranslation(unit: DmarUnit): Result<void> {
  unit.gcmd |= GCMD.TE.inPlace;
  return command(unit, unit.gcmd, GSTS.TES.inPlace, true);
}

// iommu_disable_translation()
function disableTranslation(unit: DmarUnit): Result<void> {
  unit.gcmd &= ~GCMD.TE.inPlace;
  return command(unit, unit.gcmd, GSTS.TES.inPlace, false);
}

/** disable_dmar_iommu(), and the queues with it. */
export function shutDown(unit: DmarUnit): void {
  disableTranslation(unit);
  unit.pageRequests?.stop();
  unit.gcmd &= ~GCMD.QIE.inPlace;
  command(unit, unit.gcmd, GSTS.QIES.inPlace, false);
}
