import { CMD, CMD_TLBI } from '../../spec/commands.ts';
import { atcInv, atcInvAll, makeCommand, tlbi, type Command } from '../queues/commands.ts';
import { INV_TYPE, isAts, type Invalidation } from './invalidation-list.ts';
import { IOMMU_NO_PASID } from '../../../driver.ts';

// Commands for what changed in a domain: arm-smmu-v3.c __arm_smmu_domain_inv_range() and its kin.

/** CMDQ_TLBI_RANGE_NUM_MAX: NUM + 1 is at most this. */
const RANGE_NUM_MAX = 31;
const ATC_PAGE_BITS = 12;

/** A part of a domain that changed; a `size` of 0 is all of it. */
export interface InvRange {
  readonly iova: number;
  /** Bytes. */
  readonly size: number;
  /** Bytes of the pages; the smallest page where `leaf` is false. */
  readonly granule: number;
  /** False where tables went too. */
  readonly leaf: boolean;
}

export const INV_ALL: InvRange = { iova: 0, size: 0, granule: 0, leaf: false };

function log2(value: number): number {
  return Math.floor(Math.log2(value));
}

/** __ffs() of a number below 2^53. */
function lowestSetBit(value: number): number {
  let bit = 0;
  while (value % 2 ** (bit + 1) === 0) bit++;
  return bit;
}

/**
 * arm_smmu_cmdq_batch_add_range(): by range where the SMMU has it (IDR3.RIL), else page by page. `pageBits` is the
 * domain's smallest page. `emit` takes each command.
 */
export function rangeCommands(
  base: Command,
  range: InvRange,
  rangeInv: boolean,
  pageBits: number,
  emit: (command: Command) => void,
): void {
  const { granule, leaf } = range;
  const end = range.iova + range.size;
  if (!rangeInv) {
    for (let iova = range.iova; iova < end; iova += granule) emit(withAddress(base, iova, leaf, 0, 0));
    return;
  }
  let pages = Math.floor(range.size / 2 ** pageBits);
  // TG is 1, 2, 3 for 4K, 16K, 64K.
  const tg = (pageBits - 10) / 2;
  let ttl = 0;
  if (leaf) ttl = 4 - Math.floor((log2(granule) - 3) / (pageBits - 3));
  // One page at no known level would have NUM, SCALE and TTL all zero, which is reserved.
  else if (pages % (RANGE_NUM_MAX + 1) === 1) pages++;
  let iova = range.iova;
  while (iova < end) {
    const scale = lowestSetBit(pages);
    const num = Math.floor(pages / 2 ** scale) % (RANGE_NUM_MAX + 1);
    const command = withAddress(base, iova, leaf, ttl, tg);
    command[0]! |= ((num - 1) << CMD_TLBI.NUM.shift) | ((scale & 0x1f) << CMD_TLBI.SCALE.shift);
    emit(command);
    iova += num * 2 ** (scale + pageBits);
    pages -= num * 2 ** scale;
  }
}

function withAddress(base: Command, iova: number, leaf: boolean, ttl: number, tg: number): Command {
  const command = base.slice();
  command[2] =
    ((iova >>> 0) & 0xffff_f000) | (tg << CMD_TLBI.TG.shift) | (ttl << CMD_TLBI.TTL.shift) | (leaf ? 1 : 0);
  command[3] = Math.floor(iova / 2 ** 32);
  return command;
}

/** arm_smmu_inv_size_too_big(): one command for everything does less harm than very many. */
function tooBig(range: InvRange, rangeInv: boolean): boolean {
  if (range.size === 0) return true;
  if (rangeInv) return false;
  return range.size >= 2 ** (log2(range.granule) - 3) * range.granule;
}

/**
 * arm_smmu_atc_inv_to_cmd(): the smallest aligned power of two that covers the range. The one without a PASID also takes
 * entries that have one.
 */
export function atcCommand(sid: number, ssid: number, iova: number, size: number): Command {
  // A size of 0 wraps in Linux's arithmetic: from page 0 to the last page there is.
  if (size === 0) return atcInvAll(sid, ssid);
  const first = Math.floor(iova / 2 ** ATC_PAGE_BITS);
  const last = Math.floor((iova + size - 1) / 2 ** ATC_PAGE_BITS);
  let span = 0;
  while (Math.floor(first / 2 ** span) !== Math.floor(last / 2 ** span)) span++;
  const start = Math.floor(first / 2 ** span) * 2 ** span;
  return atcInv(sid, ssid, start * 2 ** ATC_PAGE_BITS, span);
}

/** Puts the commands for one entry of a domain's list into `emit`. */
export function commandsFor(
  inv: Invalidation,
  range: InvRange,
  rangeInv: boolean,
  emit: (command: Command) => void,
): void {
  switch (inv.type) {
    case INV_TYPE.S1_ASID:
    case INV_TYPE.S2_VMID: {
      const asid = inv.type === INV_TYPE.S1_ASID ? inv.id : 0;
      const vmid = inv.type === INV_TYPE.S2_VMID ? inv.id : 0;
      if (tooBig(range, rangeInv)) emit(tlbi(inv.nsizeOpcode, asid, vmid));
      else rangeCommands(tlbi(inv.sizeOpcode, asid, vmid), range, rangeInv, inv.pageBits, emit);
      return;
    }
    case INV_TYPE.S2_VMID_S1_CLEAR:
      // CMD_TLBI_S12_VMALL, sent for the whole VMID, has taken stage 1 with it.
      if (!tooBig(range, rangeInv)) emit(tlbi(inv.sizeOpcode, 0, inv.id));
      return;
    case INV_TYPE.ATS:
      emit(atcCommand(inv.id, inv.ssid, range.iova, range.size));
      return;
    case INV_TYPE.ATS_FULL:
      emit(atcInvAll(inv.id, IOMMU_NO_PASID));
  }
}

/** arm_smmu_invs_end_batch(): the commands so far must complete before `next`'s are sent. */
export function endsBatch(current: Invalidation, next: Invalidation): boolean {
  if (current.smmu !== next.smmu) return true;
  const clear = INV_TYPE.S2_VMID_S1_CLEAR;
  if (current.type !== clear && next.type === clear) return true;
  return !isAts(current) && isAts(next);
}

/** The opcodes of an entry of each type. */
export function opcodesOf(type: Invalidation['type'], e2h: boolean): readonly [size: number, nsize: number] {
  switch (type) {
    case INV_TYPE.S1_ASID:
      return e2h ? [CMD.TLBI_EL2_VA, CMD.TLBI_EL2_ASID] : [CMD.TLBI_NH_VA, CMD.TLBI_NH_ASID];
    case INV_TYPE.S2_VMID:
      return [CMD.TLBI_S2_IPA, CMD.TLBI_S12_VMALL];
    case INV_TYPE.S2_VMID_S1_CLEAR:
      return [CMD.TLBI_NH_ALL, CMD.TLBI_NH_ALL];
    default:
      return [CMD.ATC_INV, CMD.ATC_INV];
  }
}

/** What chooses the queue of a batch that starts with `inv`. */
export function batchSelector(inv: Invalidation): Command {
  return makeCommand(inv.sizeOpcode);
}
