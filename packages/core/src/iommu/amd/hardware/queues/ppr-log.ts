// Peripheral page requests (§2.6): devices' PRI requests on their way to software.

import { encode } from '../../../../base/bit-fields.ts';
import type { Trace } from '../../../../trace/trace.ts';
import { PAGE_SERVICE_REQUEST, PPR_RECORD } from '../../spec/events.ts';
import { CONTROL, OFFSET, PPR_AUTO_RESPONSE, PPR_OVERFLOW_EARLY, STATUS } from '../../spec/registers.ts';
import type { Interrupts } from '../registers/interrupts.ts';
import type { Log } from './log.ts';
import type { RegisterFile } from '../registers/registers.ts';

/** A PCIe Page Request Message. Without a PASID, `execute` and `privileged` are false. */
export interface PageRequest {
  readonly deviceId: number;
  readonly pasid: number | null;
  /** The page address, as two u32; bits 11:0 are ignored. */
  readonly hi: number;
  readonly lo: number;
  /** 9 bits. */
  readonly prgIndex: number;
  readonly read: boolean;
  readonly write: boolean;
  readonly execute: boolean;
  readonly privileged: boolean;
  readonly last: boolean;
}

/** A PRG Response Message to an endpoint: software's (COMPLETE_PPR_REQUEST) or an automatic one. */
export interface PageResponse {
  readonly deviceId: number;
  readonly pasid: number | null;
  readonly prgIndex: number;
  /** PPR_RESPONSE */
  readonly code: number;
}

/** A request as it stands in a log (§2.6.1). */
export function pprRecord(request: PageRequest): Uint32Array {
  const withPasid = request.pasid !== null;
  const words = encode(PPR_RECORD, {
    DeviceID: request.deviceId,
    PASID_15_0: (request.pasid ?? 0) & 0xffff,
    PRGIndex: request.prgIndex,
    Last: request.last,
    PASID_19_16: (request.pasid ?? 0) >>> 16,
    EXE: withPasid && request.execute,
    READ: request.read,
    WRITE: request.write,
    US: !(withPasid && request.privileged),
    GN: withPasid,
    PPRCode: PAGE_SERVICE_REQUEST,
  });
  words[2] = (request.lo & ~0xfff) >>> 0;
  words[3] = request.hi >>> 0;
  return words;
}

export class PprLog {
  readonly #registers: RegisterFile;
  readonly #interrupts: Interrupts;
  readonly #log: Log;
  readonly #trace: Trace | null;

  constructor(registers: RegisterFile, interrupts: Interrupts, log: Log, trace: Trace | null) {
    this.#registers = registers;
    this.#interrupts = interrupts;
    this.#log = log;
    this.#trace = trace;
  }

  /** Logs a request; answers the automatic response where one is sent. */
  request(request: PageRequest): PageResponse | null {
    if (this.#trace !== null && this.#trace.active) {
      this.#trace.emit({ kind: 'page-request', unit: 'amd-iommu', ...request });
    }
    const words = pprRecord(request);
    const result = this.#log.write(words);
    if (result === 'written') this.#warnEarly();
    const always = this.#registers.control(CONTROL.PprAutoRspAon) !== 0;
    const lost = result !== 'written';
    if (!request.last || this.#registers.control(CONTROL.PprAutoRspEn) === 0 || !(lost || always))
      return null;
    return this.#automatic(request);
  }

  /** 2080h: MaskGn keeps the PASID out of the response. */
  #automatic(request: PageRequest): PageResponse {
    const register = this.#registers.get(OFFSET.PPR_AUTO_RESPONSE);
    const masked = (register & PPR_AUTO_RESPONSE.PprAutoRespMaskGn.inPlace) !== 0;
    return {
      deviceId: request.deviceId,
      pasid: masked ? null : request.pasid,
      prgIndex: request.prgIndex,
      code: register & PPR_AUTO_RESPONSE.PprAutoRespCode.inPlace,
    };
  }

  /** 2088h: as many entries as the threshold says. */
  #warnEarly(): void {
    const register = this.#registers.get(OFFSET.PPR_OVERFLOW_EARLY);
    if ((register & PPR_OVERFLOW_EARLY.PprOvrflwEarlyEn.inPlace) === 0) return;
    if (this.#log.length < (register & PPR_OVERFLOW_EARLY.PprOvrflwEarlyThreshold.inPlace)) return;
    this.#interrupts.raise(STATUS.PprOverflowEarly.inPlace);
  }
}
