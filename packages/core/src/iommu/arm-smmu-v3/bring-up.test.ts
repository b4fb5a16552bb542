import { describe, expect, it } from 'vitest';
import { failed } from '../../base/result.ts';
import { ENXIO } from '../../abi/errno.ts';
import { Kernel } from '../../machine/kernel.ts';
import { ArmSmmuDriver } from './driver/driver.ts';
import { smmuV3Config, type ConfigOverrides } from './hardware/registers/config.ts';
import { SmmuUnit } from './platform.ts';

const SMALL = { CMDQS: 8, EVENTQS: 8, PRIQS: 8 } as const;

/** Registers written and commands consumed, in order, as `SMMU_X=value` and `CMD_X`. */
function watch(kernel: Kernel): string[] {
  const seen: string[] = [];
  kernel.trace.subscribe((event) => {
    if (event.kind === 'register' && event['write'] === true)
      seen.push(`${String(event['name'])}=0x${(event['value'] as number).toString(16)}`);
    if (event.kind === 'command') seen.push(String(event['name']));
    if (event.kind === 'log') seen.push(String(event['text']));
  });
  return seen;
}

function bringUp(overrides: ConfigOverrides = {}): { kernel: Kernel; unit: SmmuUnit; seen: string[] } {
  const kernel = new Kernel();
  const seen = watch(kernel);
  const config = smmuV3Config({ ...overrides, IDR1: { ...SMALL, ...overrides.IDR1 } });
  const unit = SmmuUnit.create(new ArmSmmuDriver(kernel), { name: 'smmu0', config });
  if (failed(unit)) throw new Error(unit.reason);
  return { kernel, unit, seen };
}

/** Without the addresses that allocation decides. */
const shape = (seen: readonly string[]): string[] => seen.map((each) => each.replace(/(BASE)=.*/, '$1'));

describe('bringing an SMMU up', () => {
  it('writes the registers in the order of arm_smmu_device_reset()', () => {
    const { seen } = bringUp();
    expect(shape(seen)).toEqual([
      'SMMU_CR0=0x0',
      'SMMU_CR1=0xd75',
      'SMMU_CR2=0x7',
      'SMMU_STRTAB_BASE',
      'SMMU_STRTAB_BASE',
      'SMMU_STRTAB_BASE_CFG=0x10210',
      'SMMU_CMDQ_BASE',
      'SMMU_CMDQ_BASE',
      'SMMU_CMDQ_PROD=0x0',
      'SMMU_CMDQ_CONS=0x0',
      'SMMU_CR0=0x8',
      'SMMU_CMDQ_PROD=0x2',
      'CMD_CFGI_STE_RANGE',
      'CMD_SYNC',
      'SMMU_CMDQ_PROD=0x4',
      'CMD_TLBI_EL2_ALL',
      'CMD_SYNC',
      'SMMU_CMDQ_PROD=0x6',
      'CMD_TLBI_NSNH_ALL',
      'CMD_SYNC',
      'SMMU_EVENTQ_BASE',
      'SMMU_EVENTQ_BASE',
      'SMMU_EVENTQ_PROD=0x0',
      'SMMU_EVENTQ_CONS=0x0',
      'SMMU_CR0=0xc',
      'SMMU_PRIQ_BASE',
      'SMMU_PRIQ_BASE',
      'SMMU_PRIQ_PROD=0x0',
      'SMMU_PRIQ_CONS=0x0',
      'SMMU_CR0=0xe',
      'SMMU_CR0=0x1e',
      'SMMU_IRQ_CTRL=0x0',
      'SMMU_GERROR_IRQ_CFG0=0x0',
      'SMMU_GERROR_IRQ_CFG0=0x0',
      'SMMU_EVENTQ_IRQ_CFG0=0x0',
      'SMMU_EVENTQ_IRQ_CFG0=0x0',
      'SMMU_PRIQ_IRQ_CFG0=0x0',
      'SMMU_PRIQ_IRQ_CFG0=0x0',
      'SMMU_IRQ_CTRL=0x7',
      'SMMU_CR0=0x1f',
    ]);
  });

  it('waits for updates that take their time', () => {
    const { unit } = bringUp({ updates: 'later', commandsPerStep: 1 });
    expect(unit.hardware.readRegister(0x24, 4)).toBe(0x1fn);
  });

  it('leaves out what the SMMU does not have', () => {
    const { seen } = bringUp({
      IDR0: { PRI: 0, ATS: 0, Hyp: 0, ST_LEVEL: 0, SEV: 0, MSI: 0 },
      IDR1: { SIDSIZE: 7 },
    });
    expect(seen.some((each) => each.startsWith('SMMU_PRIQ'))).toBe(false);
    expect(seen).not.toContain('CMD_TLBI_EL2_ALL');
    expect(seen.at(-1)).toBe('SMMU_CR0=0xd');
    expect(seen).toContain('SMMU_STRTAB_BASE_CFG=0x7');
  });

  it('makes an SMMU abort that was left enabled, before it disables it', () => {
    const { kernel, unit, seen } = bringUp();
    seen.length = 0;
    const driver = new ArmSmmuDriver(kernel);
    const again = driver.probe({ name: 'smmu0', registers: unit.hardware });
    expect(failed(again)).toBe(false);
    expect(seen.slice(0, 3)).toEqual([
      'SMMU currently enabled! Resetting...',
      'SMMU_GBPA=0x80101000',
      'SMMU_CR0=0x0',
    ]);
    unit.hardware.writeRegister(0x20, 4, 0n);
    const outcome = unit.hardware.translate({ streamId: 1, hi: 0, lo: 0x1000 });
    expect(outcome).toMatchObject({ kind: 'terminated', abort: true });
  });

  it.each([
    ['a command queue that a batch does not fit in', { IDR1: { CMDQS: 6 } }],
    ['big-endian tables only', { IDR0: { TTENDIAN: 3 } }],
  ] as [string, ConfigOverrides][])('refuses %s', (_, overrides) => {
    const kernel = new Kernel();
    const config = smmuV3Config(overrides);
    const unit = SmmuUnit.create(new ArmSmmuDriver(kernel), { name: 'smmu0', config });
    expect(failed(unit) && unit.errno).toBe(ENXIO);
  });
});
