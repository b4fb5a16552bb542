// What each command does (chapter 4). A command that cannot be consumed answers with the error for CMDQ_CONS.ERR.

import { readField } from '../../../../base/bit-fields.ts';
import { type AddressRange, POW2, addressRange } from '../../../caches/cache.ts';
import {
  ATC_INV_ALL,
  CFGI_ALL,
  CMD,
  CMD_ATC_INV,
  CMD_CFGI,
  CMD_PRI_RESP,
  CMD_RESUME,
  CMD_SYNC,
  CMD_TLBI,
  PRI_RESP,
  SYNC_CS,
  TLBI_TG,
} from '../../spec/commands.ts';
import { PRG_RESPONSE } from '../../spec/queues.ts';
import { CERROR, CR0, CR2, OFFSET, STALL_MODEL } from '../../spec/registers.ts';
import type { SmmuV3Features } from '../registers/config.ts';
import type { ConfigTable } from '../configuration/config-table.ts';
import type { Endpoint } from '../endpoint.ts';
import type { Interrupts } from '../registers/interrupts.ts';
import type { Iotlb, TlbScope } from '../translation/iotlb.ts';
import type { RegisterFile } from '../registers/registers.ts';
import type { Stalls } from './stalls.ts';
import { WORLD, type World } from '../configuration/stream-config.ts';

/** What the commands act on. */
export interface CommandTarget {
  readonly features: SmmuV3Features;
  readonly registers: RegisterFile;
  readonly table: ConfigTable;
  readonly iotlb: Iotlb;
  readonly interrupts: Interrupts;
  readonly stalls: Stalls;
  readonly endpoints: ReadonlyMap<number, Endpoint>;
}

const RESPONSES: Readonly<Record<number, number>> = {
  [PRI_RESP.FAILURE]: PRG_RESPONSE.FAILURE,
  [PRI_RESP.INVALID]: PRG_RESPONSE.INVALID,
  [PRI_RESP.SUCCESS]: PRG_RESPONSE.SUCCESS,
};

export class Commands {
  readonly #target: CommandTarget;
  /** A CMD_ATC_INV since the last completed CMD_SYNC has timed out. */
  #invalidationLost = false;

  constructor(target: CommandTarget) {
    this.#target = target;
  }

  reset(): void {
    this.#invalidationLost = false;
  }

  /** Executes one command; CERROR.NONE where it is consumed. `words` are its four. */
  execute(words: Uint32Array): number {
    const { features, iotlb } = this.#target;
    iotlb.tidy();
    const opcode = words[0]! & 0xff;
    switch (opcode) {
      case CMD.PREFETCH_CONFIG:
      case CMD.PREFETCH_ADDR:
        // Not required to do anything (§4.2); caches of this model fill on use alone.
        return ssec(words) ? CERROR.ILL : CERROR.NONE;
      case CMD.CFGI_STE:
      case CMD.CFGI_STE_RANGE:
      case CMD.CFGI_CD:
      case CMD.CFGI_CD_ALL:
        return this.#invalidateConfig(opcode, words);
      case CMD.TLBI_NH_ALL:
      case CMD.TLBI_NH_ASID:
      case CMD.TLBI_NH_VA:
      case CMD.TLBI_NH_VAA:
        return features.s1p ? this.#invalidateNh(opcode, words) : CERROR.ILL;
      case CMD.TLBI_EL2_ALL:
      case CMD.TLBI_EL2_ASID:
      case CMD.TLBI_EL2_VA:
      case CMD.TLBI_EL2_VAA:
        return features.s1p && features.hyp ? this.#invalidateEl2(opcode, words) : CERROR.ILL;
      case CMD.TLBI_S12_VMALL:
        if (!features.s2p) return CERROR.ILL;
        iotlb.invalidateVmid(this.#vmid(words), this.#wildcard);
        return CERROR.NONE;
      case CMD.TLBI_S2_IPA:
        return features.s2p ? this.#invalidateIpa(words) : CERROR.ILL;
      case CMD.TLBI_NSNH_ALL:
        iotlb.invalidateNsEl1();
        return CERROR.NONE;
      case CMD.ATC_INV:
        return features.ats ? this.#invalidateAtc(words) : CERROR.ILL;
      case CMD.PRI_RESP:
        return features.pri ? this.#respond(words) : CERROR.ILL;
      case CMD.RESUME:
      case CMD.STALL_TERM:
        if (features.stallModel === STALL_MODEL.TERMINATE || ssec(words)) return CERROR.ILL;
        return this.#resolveStall(opcode, words);
      case CMD.SYNC:
        return this.#sync(words);
      default:
        // Reserved, Secure, Realm and IMPLEMENTATION DEFINED opcodes, and those of features that are not there.
        return CERROR.ILL;
    }
  }

  #invalidateConfig(opcode: number, words: Uint32Array): number {
    if (ssec(words)) return CERROR.ILL;
    const { table, features } = this.#target;
    const streamId = words[1]!;
    const leaf = (words[2]! & 1) !== 0;
    if (opcode === CMD.CFGI_STE) table.invalidateSte(streamId, leaf);
    else if (opcode === CMD.CFGI_STE_RANGE) {
      const range = readField(CMD_CFGI.Range, words);
      if (range === CFGI_ALL) table.invalidateAll();
      else table.invalidateRange(streamId, range);
    } else if (!features.s1p) return CERROR.ILL;
    else if (opcode === CMD.CFGI_CD_ALL) table.invalidateCds(streamId);
    else table.invalidateCd(streamId, readField(CMD_CFGI.SubstreamID, words), leaf);
    return CERROR.NONE;
  }

  /** VMIDs count where there is a stage 2 (§4.4.2). */
  #vmid(words: Uint32Array): number {
    return this.#target.features.s2p ? readField(CMD_TLBI.VMID, words) : 0;
  }

  /** CR0.VMW: how many low bits of a VMID do not count; reserved values are 0. */
  get #wildcard(): number {
    const { registers } = this.#target;
    const vmw = readField(CR0.VMW, [registers.get(OFFSET.CR0ACK)]);
    return vmw <= 4 ? vmw : 0;
  }

  #invalidateNh(opcode: number, words: Uint32Array): number {
    const { iotlb } = this.#target;
    const vmid = this.#vmid(words);
    if (opcode === CMD.TLBI_NH_ALL) {
      iotlb.invalidateVmidVa(vmid, this.#wildcard);
      return CERROR.NONE;
    }
    const asid = readField(CMD_TLBI.ASID, words);
    if (opcode === CMD.TLBI_NH_ASID) {
      iotlb.invalidateAsid(WORLD.NS_EL1, vmid, this.#wildcard, asid);
      return CERROR.NONE;
    }
    return this.#byAddress(words, WORLD.NS_EL1, vmid, opcode === CMD.TLBI_NH_VAA ? null : asid);
  }

  #invalidateEl2(opcode: number, words: Uint32Array): number {
    const { iotlb, registers } = this.#target;
    if (opcode === CMD.TLBI_EL2_ALL) {
      iotlb.invalidateEl2();
      return CERROR.NONE;
    }
    const asid = readField(CMD_TLBI.ASID, words);
    if (opcode === CMD.TLBI_EL2_ASID) {
      iotlb.invalidateAsid(WORLD.NS_EL2_E2H, 0, 0, asid);
      return CERROR.NONE;
    }
    // CR2.E2H says which of the two regimes is meant (§4.4.2.8).
    const e2h = (registers.get(OFFSET.CR2) & CR2.E2H.inPlace) !== 0;
    return this.#byAddress(
      words,
      e2h ? WORLD.NS_EL2_E2H : WORLD.NS_EL2,
      0,
      opcode === CMD.TLBI_EL2_VAA ? null : asid,
    );
  }

  #byAddress(words: Uint32Array, world: World, vmid: number, asid: number | null): number {
    const scope = this.#scope(words);
    if (scope === null) return CERROR.ILL;
    const range = this.#range(words, scope, words[3]!);
    this.#target.iotlb.invalidateVa(world, vmid, this.#wildcard, asid, range, scope);
    return CERROR.NONE;
  }

  #invalidateIpa(words: Uint32Array): number {
    const scope = this.#scope(words);
    if (scope === null) return CERROR.ILL;
    // Address[55:12], of which bits 55:52 are RES0.
    const range = this.#range(words, scope, words[3]! & 0xf_ffff);
    this.#target.iotlb.invalidateIpa(this.#vmid(words), this.#wildcard, range, scope);
    return CERROR.NONE;
  }

  /** TG, TTL and Leaf (§4.4.1.1); null where the combination is reserved. */
  #scope(words: Uint32Array): TlbScope | null {
    const { features } = this.#target;
    const leafOnly = (words[2]! & 1) !== 0;
    const tg = features.ril ? readField(CMD_TLBI.TG, words) : TLBI_TG.ANY;
    if (tg === TLBI_TG.ANY) return { leafOnly, tg, ttl: 0 };
    let ttl = readField(CMD_TLBI.TTL, words);
    if (tg === TLBI_TG.GRAN16K && ttl === 1 && !features.ds) ttl = 0;
    if (ttl === 0 && readField(CMD_TLBI.NUM, words) === 0 && this.#scale(words) === 0) return null;
    return { leafOnly, tg, ttl };
  }

  #scale(words: Uint32Array): number {
    const scale = readField(CMD_TLBI.SCALE, words);
    return this.#target.features.ds ? Math.min(scale, 39) : scale & 31;
  }

  /** Range = ((NUM + 1) * 2^SCALE) granules from the address on; one byte where TG is 0. */
  #range(words: Uint32Array, scope: TlbScope, hi: number): AddressRange {
    const lo = words[2]! & ~0xfff;
    if (scope.tg === TLBI_TG.ANY) return { startHi: hi | 0, startLo: lo, lastHi: hi | 0, lastLo: lo };
    const granule = 1 << (10 + 2 * scope.tg);
    const bytes = (readField(CMD_TLBI.NUM, words) + 1) * POW2[this.#scale(words)]! * granule;
    return addressRange(hi | 0, lo, bytes);
  }

  get #smmuEnabled(): boolean {
    return this.#target.registers.enabled(CR0.SMMUEN.inPlace);
  }

  #invalidateAtc(words: Uint32Array): number {
    const size = readField(CMD_ATC_INV.Size, words);
    if (size > ATC_INV_ALL) return CERROR.ILL;
    const endpoint = this.#target.endpoints.get(words[1]!);
    if (!this.#smmuEnabled || endpoint === undefined) return CERROR.NONE;
    const ssv = readField(CMD_ATC_INV.SSV, words) !== 0 && this.#target.features.ssidSize > 0;
    const done = endpoint.invalidate({
      hi: words[3]!,
      lo: words[2]! & ~0xfff,
      sizeBits: size + 12,
      pasid: ssv ? readField(CMD_ATC_INV.SubstreamID, words) : null,
      global: ssv && readField(CMD_ATC_INV.Global, words) !== 0,
    });
    if (!done) this.#invalidationLost = true;
    return CERROR.NONE;
  }

  #respond(words: Uint32Array): number {
    const code = RESPONSES[readField(CMD_PRI_RESP.Resp, words)];
    if (code === undefined) return CERROR.ILL;
    if (!this.#smmuEnabled) return CERROR.NONE;
    const ssv = readField(CMD_PRI_RESP.SSV, words) !== 0 && this.#target.features.ssidSize > 0;
    this.#target.endpoints.get(words[1]!)?.pageResponse({
      streamId: words[1]!,
      substreamId: ssv ? readField(CMD_PRI_RESP.SubstreamID, words) : null,
      prgIndex: readField(CMD_PRI_RESP.PRGIndex, words),
      code,
    });
    return CERROR.NONE;
  }

  #resolveStall(opcode: number, words: Uint32Array): number {
    const { stalls, features } = this.#target;
    if (opcode === CMD.STALL_TERM) stalls.terminateStream(words[1]!);
    else {
      const retry = readField(CMD_RESUME.Ac, words) !== 0;
      const abort = readField(CMD_RESUME.Ab, words) !== 0 || features.abortOnly;
      stalls.resume(words[1]!, readField(CMD_RESUME.STAG, words), retry, abort);
    }
    return CERROR.NONE;
  }

  /** Earlier commands are complete when this is reached; what is left is to say so (§4.7.3). */
  #sync(words: Uint32Array): number {
    if (readField(CMD_SYNC.CS, words) > SYNC_CS.SEV) return CERROR.ILL;
    if (this.#invalidationLost) {
      this.#invalidationLost = false;
      return CERROR.ATC_INV_SYNC;
    }
    return CERROR.NONE;
  }

  /** The completion signal of a CMD_SYNC, once CMDQ_CONS is past it. */
  completeSync(words: Uint32Array): void {
    const { interrupts } = this.#target;
    const cs = readField(CMD_SYNC.CS, words);
    if (cs === SYNC_CS.SEV) return interrupts.wakeUp();
    if (cs !== SYNC_CS.IRQ) return;
    // MSIAddress[55:2] at bits 119:66.
    const address = (words[3]! & 0xff_ffff) * 0x1_0000_0000 + ((words[2]! & ~3) >>> 0);
    interrupts.completeSync(address, words[1]!);
  }
}

/** SSec on the Non-secure Command queue is ILLEGAL (§4.1.6). */
function ssec(words: Uint32Array): boolean {
  return readField(CMD_CFGI.SSec, words) !== 0;
}
