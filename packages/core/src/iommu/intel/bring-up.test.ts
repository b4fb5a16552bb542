import { describe, expect, it } from 'vitest';
import { failed } from '../../base/result.ts';
import { ENXIO } from '../../abi/errno.ts';
import { Kernel } from '../../machine/kernel.ts';
import { IntelIommuDriver } from './driver/driver.ts';
import { intelConfig, type ConfigOverrides } from './hardware/registers/config.ts';
import { IntelUnit } from './platform.ts';

/** Registers written and descriptors consumed, in order. */
function bringUp(overrides: ConfigOverrides = {}): { kernel: Kernel; unit: IntelUnit; seen: string[] } {
  const kernel = new Kernel();
  const seen: string[] = [];
  kernel.trace.subscribe((event) => {
    if (event.kind === 'register' && event['write'] === true)
      seen.push(`${String(event['name'])}=0x${(event['value'] as number).toString(16)}`);
    if (event.kind === 'command') seen.push(String(event['name']));
    if (event.kind === 'log') seen.push(String(event['text']));
  });
  const driver = new IntelIommuDriver(kernel);
  const unit = IntelUnit.create(driver, { name: 'dmar0', config: intelConfig(overrides) });
  if (failed(unit)) throw new Error(unit.reason);
  return { kernel, unit, seen };
}

/** Without the addresses that allocation decides. */
const shape = (seen: readonly string[]): string[] =>
  seen.map((each) => each.replace(/(RTADDR_REG|PQA_REG)=.*/, '$1'));

describe('bringing a unit up', () => {
  it('writes the registers in the order of init_dmars()', () => {
    const { seen, unit } = bringUp();
    expect(shape(seen)).toEqual([
      // dmar_enable_qi()
      'IQT_REG=0x0',
      `IQA_REG=0x${(unit.dmar.queue.base + 0x801).toString(16)}`,
      'IQA_REG=0x0',
      'GCMD_REG=0x4000000',
      // iommu_set_root_entry(), TTM 01b
      'RTADDR_REG',
      'RTADDR_REG',
      'GCMD_REG=0x44000000',
      // intel_iommu_enable_prq(): its interrupt, then the queue of 2^4 pages
      'PEDATA_REG=0x21',
      'PEADDR_REG=0xfee00000',
      'null=0x0',
      'PECTL_REG=0x0',
      'PQH_REG=0x0',
      'PQH_REG=0x0',
      'PQT_REG=0x0',
      'PQT_REG=0x0',
      'PQA_REG',
      'PQA_REG',
      // dmar_set_interrupt()
      'FEDATA_REG=0x20',
      'FEADDR_REG=0xfee00000',
      'null=0x0',
      'FECTL_REG=0x0',
      // iommu_enable_translation()
      'GCMD_REG=0x84000000',
    ]);
  });

  it('empties the caches itself where the hardware does not with SRTP', () => {
    const { seen } = bringUp({ CAP: { ESRTPS: 0 } });
    const at = seen.indexOf('GCMD_REG=0x44000000');
    expect(seen.slice(at + 1, at + 10)).toEqual([
      'IQT_REG=0x40',
      'CC_INV',
      'INV_WAIT',
      'IQT_REG=0x80',
      'PC_INV',
      'INV_WAIT',
      'IQT_REG=0xc0',
      'IOTLB_INV',
      'INV_WAIT',
    ]);
  });

  it('waits for hardware that takes its time', () => {
    const { unit } = bringUp({ updates: 'later' });
    // TES, RTPS and QIES
    expect(unit.hardware.readRegister(0x1c, 4)).toBe(0xc400_0000n);
  });

  it('takes over what was left enabled', () => {
    const { kernel, unit } = bringUp();
    const seen: number[] = [];
    kernel.trace.subscribe((event) => {
      if (event.kind === 'register' && event['write'] === true && event['name'] === 'GCMD_REG')
        seen.push(event['value'] as number);
    });
    const again = new IntelIommuDriver(kernel).probe({ name: 'dmar0', registers: unit.hardware });
    expect(failed(again)).toBe(false);
    // QIE off, TE off, then as ever.
    expect(seen).toEqual([0x8000_0000, 0, 0x400_0000, 0x4400_0000, 0x8400_0000]);
  });

  it('has no page request queue where the hardware has none', () => {
    const { seen, unit } = bringUp({ ECAP: { PRS: 0, SMS: 0 } });
    expect(unit.dmar.pageRequests).toBeNull();
    expect(seen.some((each) => each.startsWith('PQ') || each.startsWith('PE'))).toBe(false);
  });

  it('leaves hardware alone that it cannot run, with ENXIO', () => {
    const kernel = new Kernel();
    const legacy = intelConfig({
      ECAP: {
        ...{ SMTS: 0, EAFS: 0, FSTS: 0, NEST: 0, PASID: 0, PRS: 0, PTRS: 0, RPRIVS: 0, RPS: 0 },
        ...{ SMPWCS: 0, SMS: 0, SRS: 0, SSADS: 0 },
      },
    });
    const refused = IntelUnit.create(new IntelIommuDriver(kernel), { name: 'dmar0', config: legacy });
    expect(failed(refused) && refused.errno).toBe(ENXIO);
  });

  it('gives everything back when it is removed', () => {
    const { kernel, unit } = bringUp();
    const before = kernel.physical.ram.size;
    unit.dmar.remove();
    // Two pages of queue, one of its status, the root table, and 16 of page requests.
    expect(before - kernel.physical.ram.size).toBe(20);
    expect(unit.hardware.readRegister(0x1c, 4)).toBe(0x4000_0000n);
  });
});
