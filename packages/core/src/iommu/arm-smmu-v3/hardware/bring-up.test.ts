// The register writes with which known software starts an SMMUv3, in its order, and what must come of them.

import { describe, expect, test } from 'vitest';
import { CMD } from '../spec/commands.ts';
import { OFFSET } from '../spec/registers.ts';
import { STE_CONFIG } from '../spec/ste.ts';
import type { ConfigOverrides } from './registers/config.ts';
import { type Register, AT, Rig, SID, VA, command } from './rules/rig.ts';

const DATA = BigInt(AT.data);
const RA = 1n << 62n;

/** Software that polls registers, on hardware whose updates take their time. */
class Software extends Rig {
  constructor(config: ConfigOverrides = {}) {
    super({ off: true, config: { updates: 'later', ...config } });
  }

  /** Writes, and polls the acknowledgement. */
  sync(register: Register, ack: Register, value: number): void {
    this.write(register, value);
    for (let polls = 0; polls < 4; polls++) if (this.read(ack) === value) return;
    throw new Error(`${ack} never showed ${value}`);
  }

  /** Puts a command and a CMD_SYNC into the queue, and polls CMDQ_CONS. */
  issue(words: Uint32Array): void {
    this.run(words, command.sync());
    for (let polls = 0; polls < 4; polls++) if (this.read('CMDQ_CONS') === this.read('CMDQ_PROD')) return;
    throw new Error(`CMDQ_CONS stays at ${this.read('CMDQ_CONS')}`);
  }

  /** Sets Update with new bits, and polls it. */
  updateGbpa(set: number, clear: number): void {
    this.write('GBPA', ((this.read('GBPA') & ~clear) | set | 0x8000_0000) >>> 0);
    expect(this.read('GBPA') & 0x8000_0000).toBe(0);
  }
}

/** drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c: arm_smmu_device_reset(). */
function linux(smmu: Software, enabledBefore: boolean): void {
  if (enabledBefore) smmu.updateGbpa(1 << 20, 0);
  smmu.sync('CR0', 'CR0ACK', 0);
  // Inner Shareable, Write-Back: tables and queues.
  smmu.write('CR1', 0xd75);
  // PTM and RECINVSID, and E2H where there is a hypervisor.
  smmu.write('CR2', 0b111);
  smmu.write('STRTAB_BASE', BigInt(AT.strtab) | RA);
  smmu.write('STRTAB_BASE_CFG', (1 << 16) | (8 << 6) | 16);
  smmu.write('CMDQ_BASE', BigInt(AT.cmdq) | RA | 5n);
  smmu.write('CMDQ_PROD', 0);
  smmu.write('CMDQ_CONS', 0);
  smmu.sync('CR0', 'CR0ACK', 0b01000);
  smmu.issue(command.cfgiAll());
  smmu.issue(command.tlbi('TLBI_EL2_ALL'));
  smmu.issue(command.tlbi('TLBI_NSNH_ALL'));
  smmu.write('EVENTQ_BASE', BigInt(AT.eventq) | RA | 5n);
  smmu.write('EVENTQ_PROD', 0);
  smmu.write('EVENTQ_CONS', 0);
  smmu.sync('CR0', 'CR0ACK', 0b01100);
  smmu.write('PRIQ_BASE', BigInt(AT.priq) | RA | 5n);
  smmu.write('PRIQ_PROD', 0);
  smmu.write('PRIQ_CONS', 0);
  smmu.sync('CR0', 'CR0ACK', 0b01110);
  smmu.sync('CR0', 'CR0ACK', 0b11110);
  smmu.sync('IRQ_CTRL', 'IRQ_CTRLACK', 0);
  smmu.write('GERROR_IRQ_CFG0', 0);
  smmu.write('EVENTQ_IRQ_CFG0', 0);
  smmu.write('PRIQ_IRQ_CFG0', 0);
  smmu.sync('IRQ_CTRL', 'IRQ_CTRLACK', 0b111);
  smmu.sync('CR0', 'CR0ACK', 0b11111);
}

describe('Linux', () => {
  test('brings it up', () => {
    const smmu = new Software();
    linux(smmu, false);
    expect(smmu.gerrors()).toEqual([]);
    // A two-level Stream table, split at 8 bits.
    smmu.l1std(0, 9, AT.strtab2);
    const tables = smmu.tables();
    tables.map(VA, DATA);
    // The driver leaves ATSCHK on, STRW at EL2 and E2H.
    smmu.ste(
      SID,
      { Config: STE_CONFIG.S1_TRANS, S1ContextPtr: AT.cds, STRW: 2, EATS: 1, SHCFG: 1 },
      AT.strtab2,
    );
    smmu.cd(smmu.cdFor(tables));
    smmu.issue(command.cfgi('CFGI_STE', { Range: 1 }));
    expect(smmu.pa(VA)).toBe(AT.data);
    expect(smmu.type(VA, { streamId: 0x1_0000 })).toBe('C_BAD_STREAMID');
    expect(smmu.interrupts).toEqual(['eventq']);
  });

  test('brings it up where other software has left it on', () => {
    const smmu = new Software();
    linux(smmu, false);
    linux(smmu, true);
    smmu.l1std(0, 9, AT.strtab2);
    smmu.ste(SID, { Config: STE_CONFIG.BYPASS, SHCFG: 1 }, AT.strtab2);
    expect(smmu.pa(VA)).toBe(Number(VA));
    expect(smmu.read('GBPA') & (1 << 20)).toBe(1 << 20);
  });

  test('finds everything off again after it has disabled it', () => {
    const smmu = new Software();
    linux(smmu, false);
    smmu.sync('CR0', 'CR0ACK', 0);
    smmu.write('STRTAB_BASE', 0);
    expect(smmu.read('STRTAB_BASE')).toBe(0);
    expect(smmu.pa(VA)).toBe(Number(VA));
  });
});

describe('UEFI', () => {
  /** ArmPkg/Drivers/SmmuDxe: SmmuV3Configure() and what it calls. */
  function uefi(smmu: Software): void {
    const poll = (bits: number): void => expect(smmu.read('CR0ACK') & bits).toBe(bits);
    smmu.write('CR0', smmu.read('CR0') & ~1);
    expect(smmu.read('CR0ACK') & 1).toBe(0);
    smmu.write('IRQ_CTRL', 0);
    expect(smmu.read('IRQ_CTRLACK')).toBe(0);
    // Clears stale errors: GERRORN follows GERROR.
    smmu.write('GERRORN', smmu.read('GERROR'));
    smmu.write('STRTAB_BASE_CFG', 8);
    smmu.write('STRTAB_BASE', BigInt(AT.strtab) | RA);
    smmu.write('CMDQ_BASE', BigInt(AT.cmdq) | RA | 5n);
    smmu.write('CMDQ_PROD', 0);
    smmu.write('CMDQ_CONS', 0);
    smmu.write('EVENTQ_BASE', BigInt(AT.eventq) | RA | 5n);
    smmu.write('EVENTQ_PROD', 0);
    smmu.write('EVENTQ_CONS', 0);
    smmu.write('IRQ_CTRL', 0b101);
    expect(smmu.read('IRQ_CTRLACK')).toBe(0b101);
    smmu.write('CR1', smmu.read('CR1') & ~0xfff);
    smmu.write('CR1', 0x35);
    smmu.write('CR2', 0b010);
    smmu.write('CR0', smmu.read('CR0') | 0b1100);
    poll(0b1100);
    for (const words of [
      command.cfgiAll(),
      command.tlbi('TLBI_NSNH_ALL'),
      command.tlbi('TLBI_EL2_ALL'),
      command.sync(),
    ]) {
      smmu.run(words);
      expect(smmu.read('CMDQ_CONS')).toBe(smmu.read('CMDQ_PROD'));
    }
    smmu.write('CR0', 0b1101);
    poll(1);
    expect(smmu.read('GERROR')).toBe(0);
  }

  test('brings it up with stage 2 for every stream', () => {
    const smmu = new Software();
    const tables = smmu.tables({ stage: 2, inputBits: 48, startLevel: 0 });
    for (let sid = 0; sid < 256; sid++) {
      const shape = {
        S2T0SZ: 16,
        S2SL0: 2,
        S2PS: 5,
        S2VMID: 1,
        S2PTW: 1,
        S2SH0: 3,
        MTCFG: 1,
        MemAttr: 15,
        SHCFG: 3,
      };
      smmu.ste(sid, { Config: STE_CONFIG.S2_TRANS, ...smmu.steFor(tables, shape) });
    }
    uefi(smmu);
    expect(smmu.pa(VA)).toBe(null);
    tables.map(VA, DATA);
    expect([smmu.pa(VA), smmu.pa(VA, { streamId: 255 })]).toEqual([AT.data, AT.data]);
    smmu.issue(command.tlbi('TLBI_S12_VMALL', { VMID: 1 }));
  });

  test('hands it to the system in bypass', () => {
    const smmu = new Software();
    uefi(smmu);
    expect(smmu.pa(VA)).toBe(null);
    smmu.write('CR0', smmu.read('CR0') & ~1);
    expect(smmu.read('CR0ACK') & 1).toBe(0);
    smmu.updateGbpa(0x1000, 1 << 20);
    expect(smmu.pa(VA)).toBe(Number(VA));
  });
});

describe('Hafnium', () => {
  test('brings it up with every stream in bypass, and gives one stage 2', () => {
    // src/arch/aarch64/arm_smmuv3/arm_smmuv3.c: smmuv3_driver_init().
    const smmu = new Software({ GBPA: { ABORT: 1 } });
    const poll = (register: Register, bits: number, mask: number): void =>
      expect(smmu.read(register) & mask).toBe(bits);
    // Incoming attributes, no abort.
    smmu.write('GBPA', 0x8000_1000);
    poll('GBPA', 0, 0x8000_0000);
    smmu.write('CR0', smmu.read('CR0') & ~1);
    poll('CR0ACK', 0, 1);
    expect(smmu.read('AIDR') & 0xf0).toBe(0);
    smmu.write('CR1', 0xd75);
    smmu.write('CMDQ_BASE', BigInt(AT.cmdq) | RA | 5n);
    smmu.write('CMDQ_CONS', 0);
    smmu.write('CMDQ_PROD', 0);
    smmu.write('EVENTQ_BASE', BigInt(AT.eventq) | RA | 5n);
    smmu.write('EVENTQ_PROD', 0);
    smmu.write('EVENTQ_CONS', 0);
    smmu.write('STRTAB_BASE_CFG', 8);
    smmu.write('STRTAB_BASE', BigInt(AT.strtab) | RA);
    let cr0 = smmu.read('CR0') | 0b1000;
    smmu.write('CR0', cr0);
    poll('CR0ACK', 0b1000, 0b1000);
    cr0 |= 0b0100;
    smmu.write('CR0', cr0);
    poll('CR0ACK', 0b0100, 0b0100);
    smmu.issue(command.cfgiAll());
    smmu.run(command.tlbi('TLBI_EL2_ALL'));
    smmu.run(command.tlbi('TLBI_NSNH_ALL'));
    for (let sid = 0; sid < 256; sid++) smmu.ste(sid, { Config: STE_CONFIG.BYPASS, SHCFG: 1 });
    smmu.issue(command.cfgiAll());
    smmu.write('CR0', cr0 | 1);
    poll('CR0ACK', 1, 1);
    expect(smmu.pa(VA)).toBe(Number(VA));
    const tables = smmu.tables({ stage: 2 });
    tables.map(VA, DATA);
    smmu.ste(SID, { Config: STE_CONFIG.S2_TRANS, ...smmu.steFor(tables) });
    smmu.issue(command.cfgi('CFGI_STE', { Range: 1 }));
    expect([smmu.pa(VA), smmu.pa(VA, { streamId: SID + 1 })]).toEqual([AT.data, Number(VA)]);
    expect(smmu.gerrors()).toEqual([]);
  });
});

test('commands that software gives before it enables the queue run when it does', () => {
  const smmu = new Software();
  smmu.write('CMDQ_BASE', AT.cmdq + 5);
  smmu.run(command.opcode(CMD.SYNC));
  expect(smmu.smmu.readRegister(OFFSET.CMDQ_CONS, 4)).toBe(0n);
  smmu.sync('CR0', 'CR0ACK', 0b1000);
  expect(smmu.read('CMDQ_CONS')).toBe(1);
});
