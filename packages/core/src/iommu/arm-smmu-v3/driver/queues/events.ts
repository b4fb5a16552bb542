import { failed, fail, type Result } from '../../../../base/result.ts';
import { nameOf, readField } from '../../../../base/bit-fields.ts';
import { hex, lo32, u64 } from '../../../../base/u64.ts';
import { EINVAL, EOPNOTSUPP } from '../../../../abi/errno.ts';
import { iommu_vevent_arm_smmuv3 } from '../../../../abi/iommufd-data.ts';
import {
  IOMMU_PGFAULT_PERM_EXEC,
  IOMMU_PGFAULT_PERM_PRIV,
  IOMMU_PGFAULT_PERM_READ,
  IOMMU_PGFAULT_PERM_WRITE,
  IOMMU_VEVENTQ_TYPE_ARM_SMMUV3,
} from '../../../../abi/iommufd.ts';
import { IOMMU_NO_PASID } from '../../../driver.ts';
import {
  IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE,
  IOMMU_FAULT_PAGE_REQUEST_PASID_VALID,
  reportDeviceFault,
} from '../../../iopf.ts';
import { PRI_RESP } from '../../spec/commands.ts';
import { EVENT, EVENT_RECORD } from '../../spec/events.ts';
import { PRIQ_RECORD, queueEmpty, queueMask, queueSlot } from '../../spec/queues.ts';
import { OUTQ_PROD } from '../../spec/registers.ts';
import type { Vmaster } from '../domains/attach.ts';
import { priResponse } from './commands.ts';
import { queuePages } from './command-queue.ts';
import { EVENTS_PER_INTERRUPT } from '../limits.ts';
import type { ArmSmmu } from '../smmu.ts';

// The queues that the SMMU fills, and what becomes of what it puts there: arm-smmu-v3.c arm_smmu_evtq_thread(),
// arm_smmu_handle_event() and arm_smmu_priq_thread().

const OVERFLOW = OUTQ_PROD.OVFLG.inPlace;

/** A queue that hardware fills: struct arm_smmu_queue of the event and the PRI queue. */
export class OutputQueue {
  readonly base: number;
  readonly log2: number;
  readonly #smmu: ArmSmmu;
  readonly #entryBytes: number;
  readonly #prodOffset: number;
  readonly #consOffset: number;
  #prod = 0;
  #cons = 0;

  constructor(smmu: ArmSmmu, log2: number, entryBytes: number, prodOffset: number, consOffset: number) {
    this.#smmu = smmu;
    this.log2 = log2;
    this.#entryBytes = entryBytes;
    this.#prodOffset = prodOffset;
    this.#consOffset = consOffset;
    this.base = smmu.kernel.physical.allocate(queuePages(log2, entryBytes));
  }

  free(): void {
    this.#smmu.kernel.physical.free(this.base, queuePages(this.log2, this.#entryBytes));
  }

  /** Puts both indexes to zero, in the registers too. */
  reset(): void {
    this.#prod = 0;
    this.#cons = 0;
    this.#smmu.mmio.write32(this.#prodOffset, 0);
    this.#smmu.mmio.write32(this.#consOffset, 0);
  }

  /** Hands every entry to `handle`, until the queue stays empty. `overflow` is called where entries were lost. */
  drain(handle: (words: Uint32Array) => void, overflow: () => void): void {
    const { mmio } = this.#smmu;
    let left = EVENTS_PER_INTERRUPT;
    do {
      while (left > 0 && !queueEmpty(this.#prod, this.#cons, this.log2)) {
        const words = this.#load();
        this.#cons = ((this.#cons & OVERFLOW) | ((this.#cons + 1) & queueMask(this.log2))) >>> 0;
        mmio.write32(this.#consOffset, this.#cons);
        handle(words);
        left--;
      }
      const prod = mmio.read32(this.#prodOffset);
      if (((prod ^ this.#prod) & OVERFLOW) !== 0) overflow();
      this.#prod = prod;
    } while (left > 0 && !queueEmpty(this.#prod, this.#cons, this.log2));
    // queue_sync_cons_ovf(): what was lost has been noticed.
    if (((this.#prod ^ this.#cons) & OVERFLOW) === 0) return;
    this.#cons = ((this.#prod & OVERFLOW) | (this.#cons & queueMask(this.log2))) >>> 0;
    mmio.write32(this.#consOffset, this.#cons);
  }

  #load(): Uint32Array {
    const at = this.base + queueSlot(this.#cons, this.log2) * this.#entryBytes;
    const words = new Uint32Array(this.#entryBytes / 4);
    const word = new Uint32Array(2);
    for (let i = 0; i < words.length; i += 2) {
      this.#smmu.kernel.physical.load64(at + i * 4, word);
      words.set(word, i);
    }
    return words;
  }
}

const HANDLED: ReadonlySet<number> = new Set([
  EVENT.C_BAD_STE,
  EVENT.F_STREAM_DISABLED,
  EVENT.C_BAD_SUBSTREAMID,
  EVENT.C_BAD_CD,
  EVENT.F_TRANSLATION,
  EVENT.F_ADDR_SIZE,
  EVENT.F_ACCESS,
  EVENT.F_PERMISSION,
]);

/** arm_smmu_handle_event(): what nobody takes is logged by the caller. */
function handleEvent(smmu: ArmSmmu, words: Uint32Array): Result<void> {
  const type = readField(EVENT_RECORD.Type, words);
  if (!HANDLED.has(type)) return fail(EOPNOTSUPP, 'an event of a type that nobody handles');
  const sid = readField(EVENT_RECORD.StreamID, words);
  const master = smmu.streams.get(sid);
  if (master === undefined) return fail(EINVAL, `there is no device with StreamID ${hex(sid)}`);
  if (readField(EVENT_RECORD.Stall, words) !== 0) return reportStall(smmu, words, sid);
  if (master.vmaster === null || readField(EVENT_RECORD.S2, words) !== 0)
    return fail(EOPNOTSUPP, 'no guest has the device, or the fault is one of stage 2');
  return reportVevent(master.vmaster, words);
}

function reportStall(smmu: ArmSmmu, words: Uint32Array, sid: number): Result<void> {
  const bit = (field: typeof EVENT_RECORD.RnW, value: number): number =>
    readField(field, words) !== 0 ? value : 0;
  const ssv = readField(EVENT_RECORD.SSV, words) !== 0;
  const access = bit(EVENT_RECORD.RnW, IOMMU_PGFAULT_PERM_READ) || IOMMU_PGFAULT_PERM_WRITE;
  const execute = bit(EVENT_RECORD.InD, IOMMU_PGFAULT_PERM_EXEC);
  return reportDeviceFault(smmu.kernel, smmu.streams.get(sid)!, {
    flags: IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE | (ssv ? IOMMU_FAULT_PAGE_REQUEST_PASID_VALID : 0),
    pasid: ssv ? readField(EVENT_RECORD.SubstreamID, words) : IOMMU_NO_PASID,
    grpid: readField(EVENT_RECORD.STAG, words),
    perm: access | execute | bit(EVENT_RECORD.PnU, IOMMU_PGFAULT_PERM_PRIV),
    addr: u64(words[5]!, words[4]!),
  });
}

/** arm-smmu-v3-iommufd.c arm_vmaster_report_event(): the record as it is, but for the StreamID. */
function reportVevent(vmaster: Vmaster, words: Uint32Array): Result<void> {
  const record = words.slice();
  record[1] = lo32(vmaster.vsid);
  const evt = [0, 2, 4, 6].map((i) => u64(record[i + 1]!, record[i]!));
  const bytes = new Uint8Array(iommu_vevent_arm_smmuv3.size);
  iommu_vevent_arm_smmuv3.write(bytes, 0, { evt });
  return vmaster.viommu.reportEvent(IOMMU_VEVENTQ_TYPE_ARM_SMMUV3, bytes);
}

/** arm_smmu_evtq_thread() */
export function serveEventQueue(smmu: ArmSmmu): void {
  const handle = (words: Uint32Array): void => {
    const handled = handleEvent(smmu, words);
    if (failed(handled)) smmu.log(`${eventText(smmu, words)} (${handled.reason})`);
  };
  smmu.eventQueue.drain(handle, () => smmu.log('EVTQ overflow detected -- events lost'));
}

/** What Linux logs of an event. */
function eventText(smmu: ArmSmmu, words: Uint32Array): string {
  const sid = readField(EVENT_RECORD.StreamID, words);
  const client = smmu.streams.get(sid)?.name ?? '(unassigned sid)';
  const name = nameOf(EVENT, readField(EVENT_RECORD.Type, words));
  const address = hex(u64(words[5]!, words[4]!));
  return `event: ${name} client: ${client} sid: ${hex(sid)} iova: ${address}`;
}

/** arm_smmu_priq_thread(): Linux serves no page requests of PCIe; each group is refused. */
export function servePriQueue(smmu: ArmSmmu): void {
  const handle = (words: Uint32Array): void => {
    const sid = readField(PRIQ_RECORD.StreamID, words);
    const ssv = readField(PRIQ_RECORD.SSV, words) !== 0;
    const ssid = ssv ? readField(PRIQ_RECORD.SubstreamID, words) : IOMMU_NO_PASID;
    const group = readField(PRIQ_RECORD.PRGIndex, words);
    const address = u64(words[3]!, words[2]! & 0xffff_f000);
    smmu.log(`unexpected PRI request received: sid ${hex(sid)}.${hex(ssid)} [${group}] iova ${hex(address)}`);
    if (readField(PRIQ_RECORD.Last, words) !== 0)
      smmu.issueOne(priResponse(sid, ssid, ssv, group, PRI_RESP.FAILURE));
  };
  smmu.priQueue!.drain(handle, () => smmu.log('PRIQ overflow detected -- requests lost'));
}
