// What invalidation descriptors and registers do (§6.5).

import { type Field, readField } from '../../../../base/bit-fields.ts';
import type { PhysicalMemory } from '../../../../memory/physical.ts';
import type { AtcInvalidation } from '../../../caches/cache-atc.ts';
import {
  CC_INV_DSC,
  DESC,
  DESCRIPTORS,
  DEV_TLB_INV_DSC,
  INV_WAIT_DSC,
  IOTLB_INV_DSC,
  PAGE_GRP_RESP_DSC,
  PASID_CACHE_GRANULARITY,
  PC_INV_DSC,
  P_DEV_TLB_INV_DSC,
  P_IOTLB_GRANULARITY,
  P_IOTLB_INV_DSC,
} from '../../spec/invalidation.ts';
import {
  CCMD,
  CONTEXT_GRANULARITY,
  GSTS,
  ICS,
  IOTLB,
  IOTLB_GRANULARITY,
  IQEI,
  IVA,
  type Iqei,
  OFFSET,
  TTM,
} from '../../spec/registers.ts';
import type { IntelFeatures } from '../registers/config.ts';
import type { ConfigTable } from '../configuration/config-table.ts';
import type { DeviceTlbs } from './device-tlbs.ts';
import type { Interrupts } from '../registers/interrupts.ts';
import { type Iotlb, regionOf } from '../translation/iotlb.ts';
import type { RegisterFile } from '../registers/registers.ts';
import { hasReserved, reservedMask } from '../configuration/reserved.ts';

export interface InvalidationParts {
  readonly memory: PhysicalMemory;
  readonly features: IntelFeatures;
  readonly registers: RegisterFile;
  readonly table: ConfigTable;
  readonly iotlb: Iotlb;
  readonly interrupts: Interrupts;
  readonly devices: DeviceTlbs;
}

/** Done, or an error; a wait descriptor may also have to wait for Device-TLBs. */
export type Execution = Iqei | 'waiting';

type DescriptorType = keyof typeof DESCRIPTORS;
/** Reserved bits by type; null where there is no such type. */
const RESERVED: (Uint32Array | null)[] = Array.from({ length: 128 }, (_, type) =>
  type in DESCRIPTORS ? reservedMask(DESCRIPTORS[type as DescriptorType].$) : null,
);

export class Invalidations {
  readonly #parts: InvalidationParts;

  constructor(parts: InvalidationParts) {
    this.#parts = parts;
  }

  /** Whether this implementation has a type at all; modes are the queue's business (Table 26). */
  knows(type: number): boolean {
    const { features } = this.#parts;
    if (type === DESC.DEV_TLB_INV || type === DESC.P_DEV_TLB_INV) return features.dt;
    if (type === DESC.PAGE_GRP_RESP) return features.prs;
    return RESERVED[type] !== null;
  }

  /** Executes a descriptor of a known type. `words` has 8 words, the upper four zero for a 128-bit descriptor. */
  execute(type: number, words: Uint32Array): Execution {
    if (this.#hasReserved(type, words)) return IQEI.RESERVED;
    switch (type) {
      case DESC.CC_INV:
        return this.#contextCache(words);
      case DESC.PC_INV:
        return this.#pasidCache(words);
      case DESC.IOTLB_INV:
        return this.#iotlbInvalidate(words);
      case DESC.P_IOTLB_INV:
        return this.#pasidIotlb(words);
      case DESC.DEV_TLB_INV:
        return this.#deviceTlb(words);
      case DESC.P_DEV_TLB_INV:
        return this.#pasidDeviceTlb(words);
      case DESC.PAGE_GRP_RESP:
        return this.#pageGroupResponse(words);
      case DESC.INV_WAIT:
        return this.#wait(words);
      default:
        // iec_inv_dsc: without interrupt remapping there is no Interrupt Entry Cache.
        return IQEI.NONE;
    }
  }

  /** Reserved bits, the padding of 128-bit descriptors, and fields that need a feature. */
  #hasReserved(type: number, words: Uint32Array): boolean {
    const mask = RESERVED[type]!;
    if (hasReserved(words, mask)) return true;
    for (let word = mask.length; word < 8; word++) if (words[word] !== 0) return true;
    const { features } = this.#parts;
    if (type === DESC.INV_WAIT) return !features.pds && readField(INV_WAIT_DSC.PD, words) !== 0;
    const throttle =
      type === DESC.DEV_TLB_INV ? DEV_TLB_INV_DSC : type === DESC.P_DEV_TLB_INV ? P_DEV_TLB_INV_DSC : null;
    if (throttle === null || features.dit) return false;
    return readField(throttle.PFSID_LO, words) !== 0 || readField(throttle.PFSID_HI, words) !== 0;
  }

  /** Domain-ids above the implemented width are ignored bits. */
  #did(field: Field, words: Uint32Array): number {
    return readField(field, words) & ((1 << this.#parts.features.domainIdBits) - 1);
  }

  #contextCache(words: Uint32Array): Execution {
    const did = this.#did(CC_INV_DSC.DID, words);
    const sid = readField(CC_INV_DSC.SID, words);
    const mask = readField(CC_INV_DSC.FM, words);
    return this.#contexts(readField(CC_INV_DSC.G, words), did, sid, mask) ? IQEI.NONE : IQEI.RESERVED;
  }

  #contexts(granularity: number, did: number, sid: number, functionMask: number): boolean {
    const { table } = this.#parts;
    switch (granularity) {
      case CONTEXT_GRANULARITY.GLOBAL:
        table.invalidateAllContexts();
        return true;
      case CONTEXT_GRANULARITY.DOMAIN:
        table.invalidateContextsOfDomain(did);
        return true;
      case CONTEXT_GRANULARITY.DEVICE:
        table.invalidateContextsOfDevice(did, sid, functionMask);
        return true;
      default:
        return false;
    }
  }

  #pasidCache(words: Uint32Array): Execution {
    const { table } = this.#parts;
    const did = this.#did(PC_INV_DSC.DID, words);
    const granularity = readField(PC_INV_DSC.G, words);
    if (granularity === PASID_CACHE_GRANULARITY.RESERVED) return IQEI.RESERVED;
    if (granularity === PASID_CACHE_GRANULARITY.GLOBAL) table.invalidateAllPasids();
    else if (granularity === PASID_CACHE_GRANULARITY.DOMAIN) table.invalidatePasids(did, null);
    else table.invalidatePasids(did, readField(PC_INV_DSC.PASID, words));
    return IQEI.NONE;
  }

  #iotlbInvalidate(words: Uint32Array): Execution {
    const { features, iotlb } = this.#parts;
    const did = this.#did(IOTLB_INV_DSC.DID, words);
    switch (readField(IOTLB_INV_DSC.G, words)) {
      case IOTLB_GRANULARITY.GLOBAL:
        iotlb.invalidateAll();
        return IQEI.NONE;
      case IOTLB_GRANULARITY.DOMAIN:
        iotlb.invalidateDomain(did);
        return IQEI.NONE;
      case IOTLB_GRANULARITY.PAGE: {
        if (!features.psi) return IQEI.RESERVED;
        const am = readField(IOTLB_INV_DSC.AM, words);
        if (am > features.mamv) return IQEI.RESERVED;
        const range = regionOf(words[3]!, words[2]! & ~0xfff, am, features.mgaw);
        iotlb.invalidatePages(did, range, readField(IOTLB_INV_DSC.IH, words) !== 0);
        return IQEI.NONE;
      }
      default:
        return IQEI.RESERVED;
    }
  }

  #pasidIotlb(words: Uint32Array): Execution {
    const { iotlb } = this.#parts;
    const did = this.#did(P_IOTLB_INV_DSC.DID, words);
    const pasid = readField(P_IOTLB_INV_DSC.PASID, words);
    const granularity = readField(P_IOTLB_INV_DSC.G, words);
    if (granularity === P_IOTLB_GRANULARITY.PASID) iotlb.invalidatePasid(did, pasid);
    else if (granularity === P_IOTLB_GRANULARITY.PAGE) {
      const am = readField(P_IOTLB_INV_DSC.AM, words);
      const hint = readField(P_IOTLB_INV_DSC.IH, words) !== 0;
      iotlb.invalidatePasidPages(did, pasid, words[3]!, words[2]! & ~0xfff, am, hint);
    } else return IQEI.RESERVED;
    return IQEI.NONE;
  }

  #deviceTlb(words: Uint32Array): Execution {
    const sid = readField(DEV_TLB_INV_DSC.SID, words);
    const region = atsRegion(words, readField(DEV_TLB_INV_DSC.S, words) !== 0);
    return this.#sendToDevice(sid, { ...region, pasid: null, global: false });
  }

  #pasidDeviceTlb(words: Uint32Array): Execution {
    const sid = readField(P_DEV_TLB_INV_DSC.SID, words);
    const region = atsRegion(words, readField(P_DEV_TLB_INV_DSC.S, words) !== 0);
    return this.#sendToDevice(sid, {
      ...region,
      pasid: readField(P_DEV_TLB_INV_DSC.PASID, words),
      global: readField(P_DEV_TLB_INV_DSC.GI, words) !== 0,
    });
  }

  /** Without a free ITag the request is deferred (§4.3). */
  #sendToDevice(requesterId: number, request: AtcInvalidation): Execution {
    const { devices } = this.#parts;
    if (devices.exhausted) return 'waiting';
    devices.invalidate(requesterId, request);
    return IQEI.NONE;
  }

  #pageGroupResponse(words: Uint32Array): Execution {
    const requesterId = readField(PAGE_GRP_RESP_DSC.RID, words);
    const withPasid = readField(PAGE_GRP_RESP_DSC.PP, words) !== 0;
    this.#parts.devices.respond({
      requesterId,
      pasid: withPasid ? readField(PAGE_GRP_RESP_DSC.PASID, words) : null,
      prgIndex: readField(PAGE_GRP_RESP_DSC.PRGI, words),
      code: readField(PAGE_GRP_RESP_DSC.RC, words),
    });
    return IQEI.NONE;
  }

  /** Completes when no Device-TLB invalidation ahead of it is pending (§6.5.2.9, §6.5.2.12). */
  #wait(words: Uint32Array): Execution {
    const { memory, devices, features } = this.#parts;
    if (devices.pending > 0) return 'waiting';
    if (readField(INV_WAIT_DSC.SW, words) !== 0) {
      const data = words[1]!;
      const bytes = new Uint8Array([data, data >>> 8, data >>> 16, data >>> 24]);
      const hi = words[3]! & (2 ** (features.haw - 32) - 1);
      // Where no memory is, the behaviour is undefined: nothing is written.
      memory.write(hi * 0x1_0000_0000 + ((words[2]! & ~3) >>> 0), bytes);
    }
    return IQEI.NONE;
  }

  /** The interrupt of a wait descriptor, once the head has moved past it (§6.5.2.10). */
  completeWait(words: Uint32Array): void {
    if (readField(INV_WAIT_DSC.IF, words) === 0) return;
    const { registers, interrupts } = this.#parts;
    const before = registers.get(OFFSET.ICS);
    registers.set(OFFSET.ICS, before | ICS.IWC.inPlace);
    if ((before & ICS.IWC.inPlace) === 0) interrupts.raise('invalidation');
  }

  // --- register-based invalidation (§6.5.1) ---

  /** Not from Major Version 6 on, in legacy mode alone, and not while the queue is enabled. */
  get #byRegister(): boolean {
    const { features, table, registers } = this.#parts;
    return (
      features.registerInvalidation && table.root.ttm === TTM.LEGACY && !registers.enabled(GSTS.QIES.inPlace)
    );
  }

  /** CCMD_REG was written with ICC: it is clear when this returns, and CAIG tells what was done. */
  contextCommand(): void {
    const { registers } = this.#parts;
    const words = new Uint32Array([registers.get(OFFSET.CCMD), registers.get(OFFSET.CCMD + 4)]);
    let done: number = CONTEXT_GRANULARITY.ERROR;
    if (this.#byRegister) {
      const granularity = readField(CCMD.CIRG, words);
      const sid = readField(CCMD.SID, words);
      if (this.#contexts(granularity, this.#did(CCMD.DID, words), sid, readField(CCMD.FM, words))) {
        done = granularity;
      }
    }
    const kept = words[1]! & ~(0x8000_0000 | CCMD.CAIG.inPlace);
    registers.set(OFFSET.CCMD + 4, (kept | (done << CCMD.CAIG.shift)) >>> 0);
  }

  /** IOTLB_REG was written with IVT. */
  iotlbCommand(): void {
    const { registers } = this.#parts;
    const at = registers.iotlb;
    const words = new Uint32Array([registers.get(at), registers.get(at + 4)]);
    const done = this.#byRegister ? this.#iotlbByRegister(words) : IOTLB_GRANULARITY.ERROR;
    const kept = words[1]! & ~(0x8000_0000 | IOTLB.IAIG.inPlace);
    registers.set(at + 4, (kept | (done << IOTLB.IAIG.shift)) >>> 0);
  }

  /** Answers the granularity at which it was done. */
  #iotlbByRegister(words: Uint32Array): number {
    const { registers, iotlb, features } = this.#parts;
    const did = this.#did(IOTLB.DID, words);
    switch (readField(IOTLB.IIRG, words)) {
      case IOTLB_GRANULARITY.GLOBAL:
        iotlb.invalidateAll();
        return IOTLB_GRANULARITY.GLOBAL;
      case IOTLB_GRANULARITY.DOMAIN:
        iotlb.invalidateDomain(did);
        return IOTLB_GRANULARITY.DOMAIN;
      case IOTLB_GRANULARITY.PAGE: {
        if (!features.psi) {
          iotlb.invalidateDomain(did);
          return IOTLB_GRANULARITY.DOMAIN;
        }
        const iva = [registers.get(features.iotlbOffset), registers.get(features.iotlbOffset + 4)];
        const am = readField(IVA.AM, iva);
        if (am > features.mamv) return IOTLB_GRANULARITY.ERROR;
        const range = regionOf(iva[1]!, iva[0]! & ~0xfff, am, features.mgaw);
        iotlb.invalidatePages(did, range, readField(IVA.IH, iva) !== 0);
        return IOTLB_GRANULARITY.PAGE;
      }
      default:
        return IOTLB_GRANULARITY.ERROR;
    }
  }
}

/** The region of an ATS Invalidate Request: with S the lowest zero bit from 12 on tells the size (§6.5.2.5). */
function atsRegion(words: Uint32Array, size: boolean): { hi: number; lo: number; sizeBits: number } {
  const hi = words[3]!;
  const lo = words[2]! & ~0xfff;
  if (!size) return { hi, lo: lo >>> 0, sizeBits: 12 };
  let bit = 12;
  while (bit < 64 && ((bit < 32 ? lo >>> bit : hi >>> (bit - 32)) & 1) !== 0) bit++;
  // Bits 62:12 set and 63 clear name everything.
  return { hi, lo: lo >>> 0, sizeBits: Math.min(64, bit + 1) };
}
