import { describe, expect, it } from 'vitest';
import { failed } from '../../base/result.ts';
import { EIO } from '../../abi/errno.ts';
import { Kernel } from '../../machine/kernel.ts';
import { AmdIommuDriver } from './driver/driver.ts';
import { amdIommuConfig } from './hardware/registers/config.ts';
import { AmdIommu } from './hardware/amd-iommu.ts';
import { AmdUnit } from './platform.ts';
import { Rig, type RigOptions } from './testing/rig.ts';

/** Registers written and commands consumed, in order; addresses left out. */
function bringUp(options: RigOptions = {}): string[] {
  const kernel = new Kernel();
  const seen: string[] = [];
  kernel.trace.subscribe((event) => {
    if (event.kind === 'command') seen.push(String(event['name']));
    if (event.kind !== 'register' || event['write'] !== true) return;
    const value = (event['value'] as number).toString(16).padStart(8, '0');
    seen.push(`${String(event['name'])} ${value}`.replace(/(Base) .*/, '$1'));
  });
  expect(new Rig(kernel, options).logs).toEqual([]);
  // A 64-bit register is two words: the upper one follows the lower one.
  const out: string[] = [];
  for (const each of seen) {
    const [name, value] = each.split(' ');
    const last = out.at(-1);
    if (value !== undefined && last?.startsWith(`${name} `) === true && last.split(' ')[1]!.length === 8)
      out[out.length - 1] = `${name} ${value}${last.split(' ')[1]}`;
    else out.push(each);
  }
  return out;
}

const control = (seen: readonly string[]): string[] =>
  seen.filter((each) => each.startsWith('Control')).map((each) => each.split(' ')[1]!);

describe('bringing an AMD IOMMU up', () => {
  it('writes the registers in the order of early_enable_iommu() and enable_iommus_ppr()', () => {
    const seen = bringUp();
    // Without what disables an IOMMU, twice nine writes.
    expect(seen.slice(18)).toEqual([
      'Control 0000000000000400',
      'Control 0000000000000400',
      'Control 0000000000000400',
      'Control 0000000000000400',
      'Control 0000000000000400',
      'Control 0000000000000480',
      'Control 0000200000000480',
      'DevTabBase',
      'DevTabBase',
      'ComBase',
      'ComBase',
      'Control 0000200000000480',
      'CmdHeadPtr 00000000',
      'CmdTailPtr 00000000',
      'Control 0000200000001480',
      'Control 0000200000011480',
      'Control 0400200000011480',
      'Control 0400280000011480',
      'Control 0400280000011481',
      'CmdTailPtr 00000010',
      'INVALIDATE_IOMMU_ALL',
      'CmdTailPtr 00000020',
      'COMPLETION_WAIT',
      'EventBase',
      'EventBase',
      'EventHeadPtr 00000000',
      'EventTailPtr 00000000',
      'Control 0400280000011485',
      'Control 0400280000011485',
      'Control 0400280000011485',
      'CmdTailPtr 00000030',
      'INVALIDATE_IOMMU_ALL',
      'CmdTailPtr 00000040',
      'COMPLETION_WAIT',
      'Control 040028000001148d',
      'Control 040028000001948d',
      'PPRLogBase',
      'PPRLogBase',
      'PPRHeadPtr 00000000',
      'PPRTailPtr 00000000',
      'Control 040028000001d48d',
      'Control 040028000001f48d',
    ]);
  });

  it('leaves out what the hardware does not have', () => {
    const absent = { PPRSup: 0, GTSup: 0, GIoSup: 0, EPHSup: 0, PprOvrflwEarlySup: 0, PPRAutoRspSup: 0 };
    const seen = bringUp({ config: { EFR: absent, EFR2: { GCR3TRPMode: 0, NumIntRemapSup: 0 } } });
    expect(control(seen).at(-1)).toBe('000000000000148d');
    expect(seen).not.toContain('PPRLogBase');
  });

  it('flushes entry by entry where there is no INVALIDATE_IOMMU_ALL', () => {
    const seen = bringUp({ config: { EFR: { IASup: 0 } }, segmentOptions: { lastDevice: 0x7f } });
    const count = (name: string): number => seen.filter((each) => each === name).length;
    expect(count('INVALIDATE_DEVTAB_ENTRY')).toBe(2 * 128);
    expect(count('INVALIDATE_INTERRUPT_TABLE')).toBe(2 * 128);
    expect(count('INVALIDATE_IOMMU_PAGES')).toBe(2 * 128);
    expect(count('INVALIDATE_IOMMU_ALL')).toBe(0);
  });

  it('does what firmware asks for in IVHD', () => {
    const kernel = new Kernel();
    const driver = new AmdIommuDriver(kernel);
    const unit = AmdUnit.create(driver, {
      name: 'ivhd0',
      config: amdIommuConfig(),
      acpiFlags: { passPW: true, resPassPW: true, isoc: true, htTunnel: true },
      segmentOptions: {
        lastDevice: 0xff,
        deviceFlags: [
          { firstDevice: 0, lastDevice: 0xff, nmiPass: true },
          { firstDevice: 8, lastDevice: 9, lint0Pass: true, sysMgt: 1 },
        ],
      },
    });
    if (failed(unit)) throw new Error(unit.reason);
    expect(unit.hardware.readRegister(0x18, 8) & 0xb02n).toBe(0xb02n);
    const { segment } = unit.ivhd;
    const word = new Uint32Array(2);
    kernel.physical.load64(segment.dteAddress(7) + 16, word);
    expect([...word]).toEqual([0, 1 << 26]);
    // Erratum 63: IW with it.
    kernel.physical.load64(segment.dteAddress(8), word);
    expect([...word]).toEqual([3, 1 << 30]);
    kernel.physical.load64(segment.dteAddress(8) + 16, word);
    // The range that comes last counts in the table.
    expect(word[1]! >>> 26).toBe(1 << 4);
  });

  it('gives up where commands do not complete', () => {
    const kernel = new Kernel();
    const hardware = new AmdIommu({ memory: kernel.physical, config: amdIommuConfig() });
    const registers = {
      readRegister: (offset: number, size: number) =>
        offset === 0x2000 ? 0n : hardware.readRegister(offset, size),
      // A command buffer that nobody reads.
      writeRegister: (offset: number, size: number, value: bigint) =>
        offset === 0x2008 ? undefined : hardware.writeRegister(offset, size, value),
      readCapability: (offset: number) => hardware.readCapability(offset),
    };
    const logs: string[] = [];
    kernel.trace.subscribe((event) => {
      if (event.kind === 'log') logs.push(String(event['text']));
    });
    const probed = new AmdIommuDriver(kernel).probe({ name: 'ivhd0', registers });
    expect(failed(probed) && probed.errno).toBe(EIO);
    expect(logs).toEqual(['Completion-Wait loop timed out']);
    expect(hardware.readRegister(0x18, 8) & 1n).toBe(0n);
  });

  it('blocks every device that nobody has set up', () => {
    const rig = new Rig(new Kernel());
    const device = rig.device(8);
    expect(rig.dte(8)[0]).toBe('0000000000000003');
    expect(rig.read(device, 0x1000n)).toBe('fault');
  });

  it('uses of several IOMMUs what all have', () => {
    const kernel = new Kernel();
    const driver = new AmdIommuDriver(kernel);
    const make = (name: string, HDSup: number): void => {
      const unit = AmdUnit.create(driver, {
        name,
        config: amdIommuConfig({ EFR: { HDSup } }),
        segmentOptions: { lastDevice: 0xff },
      });
      if (failed(unit)) throw new Error(unit.reason);
    };
    const logs: string[] = [];
    kernel.trace.subscribe((event) => {
      if (event.kind === 'log') logs.push(String(event['text']));
    });
    make('ivhd0', 1);
    const first = driver.efr;
    make('ivhd1', 0);
    expect(first & ~driver.efr).toBe(1n << 52n);
    expect(logs[0]).toContain('Found inconsistent EFR/EFR2');
    expect(driver.dirtySupported(driver.ivhds[0]!)).toBe(true);
    expect(driver.dirtySupported(driver.ivhds[1]!)).toBe(false);
  });
});
