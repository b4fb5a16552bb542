import { encode } from '../../../base/bit-fields.ts';
import { failed, type Result } from '../../../base/result.ts';
import { u64 } from '../../../base/u64.ts';
import { CMD } from '../spec/commands.ts';
import {
  CR0,
  CR1,
  CR2,
  GBPA,
  IRQ_CTRL,
  OFFSET,
  QUEUE_BASE,
  STRTAB_BASE,
  STRTAB_BASE_CFG,
  STRTAB_FMT,
} from '../spec/registers.ts';
import { cfgiAll, makeCommand } from './queues/commands.ts';
import { genmask } from './configuration/entry.ts';
import { STRTAB_SPLIT } from './limits.ts';
import type { ArmSmmu } from './smmu.ts';

// From reset to translating: arm-smmu-v3.c arm_smmu_device_reset(). The SMMU stays disabled until its queues work and
// its caches are empty.

const SH_ISH = 3;
const CACHE_WB = 1;
/** Q_BASE_ADDR_MASK, STRTAB_BASE_ADDR_MASK */
const QUEUE_ADDRESS = genmask(51, 5);
const STRTAB_ADDRESS = genmask(51, 6);

/** A 64-bit register with its address field. */
function withAddress(words: Uint32Array, address: number, mask: bigint): bigint {
  return u64(words[1]!, words[0]!) | (BigInt(address) & mask);
}

/** Runs steps until one fails. */
function inOrder(...steps: (() => Result<unknown>)[]): Result<void> {
  for (const step of steps) {
    const done = step();
    if (failed(done)) return done;
  }
}

export function resetSmmu(smmu: ArmSmmu): Result<void> {
  const { mmio, features } = smmu;
  let enables = 0;
  const enable = (bit: number): Result<void> => {
    enables |= bit;
    return mmio.writeAcknowledged(enables, OFFSET.CR0, OFFSET.CR0ACK);
  };
  return inOrder(
    () => abortWhileDisabled(smmu),
    () => disableSmmu(smmu),
    () => writeAttributes(smmu),
    () => writeStreamTable(smmu),
    () => writeCommandQueue(smmu),
    () => enable(CR0.CMDQEN.inPlace),
    () => emptyCaches(smmu),
    () => writeEventQueue(smmu),
    () => enable(CR0.EVENTQEN.inPlace),
    () => (smmu.priQueue === null ? undefined : writePriQueue(smmu)),
    () => (smmu.priQueue === null ? undefined : enable(CR0.PRIQEN.inPlace)),
    () => (features.ats ? enable(CR0.ATSCHK.inPlace) : undefined),
    () => setupInterrupts(smmu),
    () => enable(CR0.SMMUEN.inPlace),
    () => smmu.implementation?.reset?.(),
  );
}

/** arm_smmu_device_disable() */
export function disableSmmu(smmu: ArmSmmu): Result<void> {
  const done = smmu.mmio.writeAcknowledged(0, OFFSET.CR0, OFFSET.CR0ACK);
  if (failed(done)) smmu.log('failed to clear cr0');
  return done;
}

// An SMMU that somebody left enabled translates for devices that may be active: they are to abort, not to bypass.
function abortWhileDisabled(smmu: ArmSmmu): Result<void> {
  if ((smmu.mmio.read32(OFFSET.CR0) & CR0.SMMUEN.inPlace) === 0) return;
  smmu.log('SMMU currently enabled! Resetting...');
  const updated = updateGbpa(smmu, GBPA.ABORT.inPlace, 0);
  if (failed(updated)) smmu.log('GBPA not responding to update');
}

/** arm_smmu_update_gbpa() */
export function updateGbpa(smmu: ArmSmmu, set: number, clear: number): Result<void> {
  const { mmio } = smmu;
  const idle = (value: number): boolean => (value & GBPA.Update.inPlace) === 0;
  const value = mmio.poll(OFFSET.GBPA, idle);
  if (failed(value)) return value;
  mmio.write32(OFFSET.GBPA, (value & ~clear) | set | GBPA.Update.inPlace);
  const done = mmio.poll(OFFSET.GBPA, idle);
  return failed(done) ? done : undefined;
}

function writeAttributes(smmu: ArmSmmu): void {
  const cr1 = encode(CR1, {
    TABLE_SH: SH_ISH,
    TABLE_OC: CACHE_WB,
    TABLE_IC: CACHE_WB,
    QUEUE_SH: SH_ISH,
    QUEUE_OC: CACHE_WB,
    QUEUE_IC: CACHE_WB,
  });
  smmu.mmio.write32(OFFSET.CR1, cr1[0]!);
  const cr2 = encode(CR2, { PTM: 1, RECINVSID: 1, E2H: smmu.features.e2h });
  smmu.mmio.write32(OFFSET.CR2, cr2[0]!);
}

// arm_smmu_write_strtab()
function writeStreamTable(smmu: ArmSmmu): void {
  const { streamTable, mmio } = smmu;
  const log2 = Math.log2(streamTable.entries);
  const config = streamTable.twoLevel
    ? { FMT: STRTAB_FMT.TWO_LEVEL, LOG2SIZE: log2 + STRTAB_SPLIT, SPLIT: STRTAB_SPLIT }
    : { FMT: STRTAB_FMT.LINEAR, LOG2SIZE: smmu.features.sidBits };
  const base = withAddress(encode(STRTAB_BASE, { RA: 1 }), streamTable.base, STRTAB_ADDRESS);
  mmio.write64(OFFSET.STRTAB_BASE, base);
  mmio.write32(OFFSET.STRTAB_BASE_CFG, encode(STRTAB_BASE_CFG, config)[0]!);
}

function queueBase(queue: { readonly base: number; readonly log2: number }): bigint {
  return withAddress(encode(QUEUE_BASE, { LOG2SIZE: queue.log2, HINT: 1 }), queue.base, QUEUE_ADDRESS);
}

function writeCommandQueue(smmu: ArmSmmu): void {
  const { mmio, commandQueue } = smmu;
  mmio.write64(OFFSET.CMDQ_BASE, queueBase(commandQueue));
  mmio.write32(OFFSET.CMDQ_PROD, commandQueue.prod);
  mmio.write32(OFFSET.CMDQ_CONS, commandQueue.cons);
}

function emptyCaches(smmu: ArmSmmu): void {
  smmu.issueWithSync(cfgiAll());
  if (smmu.features.hyp) smmu.issueWithSync(makeCommand(CMD.TLBI_EL2_ALL));
  smmu.issueWithSync(makeCommand(CMD.TLBI_NSNH_ALL));
}

function writeEventQueue(smmu: ArmSmmu): void {
  smmu.mmio.write64(OFFSET.EVENTQ_BASE, queueBase(smmu.eventQueue));
  smmu.eventQueue.reset();
}

function writePriQueue(smmu: ArmSmmu): void {
  smmu.mmio.write64(OFFSET.PRIQ_BASE, queueBase(smmu.priQueue!));
  smmu.priQueue!.reset();
}

// arm_smmu_setup_irqs(): the lines are wired, as where the platform has no MSI domain for the SMMU itself.
function setupInterrupts(smmu: ArmSmmu): Result<void> {
  const { mmio, features } = smmu;
  const off = mmio.writeAcknowledged(0, OFFSET.IRQ_CTRL, OFFSET.IRQ_CTRLACK);
  if (failed(off)) {
    smmu.log('failed to disable irqs');
    return off;
  }
  mmio.write64(OFFSET.GERROR_IRQ_CFG0, 0n);
  mmio.write64(OFFSET.EVENTQ_IRQ_CFG0, 0n);
  if (features.pri) mmio.write64(OFFSET.PRIQ_IRQ_CFG0, 0n);
  const enables = encode(IRQ_CTRL, { EVENTQ_IRQEN: 1, GERROR_IRQEN: 1, PRIQ_IRQEN: features.pri })[0]!;
  const on = mmio.writeAcknowledged(enables, OFFSET.IRQ_CTRL, OFFSET.IRQ_CTRLACK);
  if (failed(on)) smmu.log('failed to enable irqs');
}
