// The PRI queue (chapter 8): page requests of devices on their way to software.

import { encode } from '../../../base/bit-fields.ts';
import type { PhysicalMemory } from '../../../memory/physical.ts';
import type { Trace } from '../../../trace/trace.ts';
import {
  PRG_RESPONSE,
  PRIQ_BYTES,
  PRIQ_RECORD,
  PRIQ_WORDS,
  queueEmpty,
  queueFull,
  queueMask,
  queueNext,
  queueSlot,
} from '../spec/queues.ts';
import { CR0, GERROR, OFFSET, OUTQ_PROD, PRIQ_IRQ_CFG2 } from '../spec/registers.ts';
import type { SmmuV3Features } from './config.ts';
import { type QueuePlace, queuePlace } from './event-queue.ts';
import type { Interrupts } from './interrupts.ts';
import type { RegisterFile } from './registers.ts';

const INDEX = OUTQ_PROD.WR.inPlace;
const OVERFLOW = OUTQ_PROD.OVFLG.inPlace;

/** A PCIe Page Request Message. Without a PASID, `execute` and `privileged` are false. */
export interface PageRequest {
  readonly streamId: number;
  readonly substreamId: number | null;
  /** The page address, as two u32; bits 11:0 are ignored. */
  readonly hi: number;
  readonly lo: number;
  readonly prgIndex: number;
  readonly read: boolean;
  readonly write: boolean;
  readonly execute: boolean;
  readonly privileged: boolean;
  readonly last: boolean;
}

/** A PRG Response Message to an endpoint: software's (CMD_PRI_RESP) or an automatic one. */
export interface PageResponse {
  readonly streamId: number;
  readonly substreamId: number | null;
  readonly prgIndex: number;
  /** PRG_RESPONSE */
  readonly code: number;
}

/** What the STE of a stream says about auto-responses: PPAR, or null where no valid STE is found (§8.1). */
export type PparLookup = (streamId: number) => boolean | null;

export class PriQueue {
  readonly #memory: PhysicalMemory;
  readonly #features: SmmuV3Features;
  readonly #registers: RegisterFile;
  readonly #interrupts: Interrupts;
  readonly #trace: Trace | null;
  #place: QueuePlace = { base: 0, log2: 0 };

  constructor(
    memory: PhysicalMemory,
    features: SmmuV3Features,
    registers: RegisterFile,
    interrupts: Interrupts,
    trace: Trace | null,
  ) {
    this.#memory = memory;
    this.#features = features;
    this.#registers = registers;
    this.#interrupts = interrupts;
    this.#trace = trace;
  }

  configure(): void {
    this.#place = queuePlace(this.#registers, OFFSET.PRIQ_BASE, this.#features.priqs, PRIQ_BYTES);
    this.normalize();
  }

  normalize(): void {
    const prod = this.#registers.get(OFFSET.PRIQ_PROD);
    this.#registers.set(OFFSET.PRIQ_PROD, (prod & (OVERFLOW | queueMask(this.#place.log2))) >>> 0);
  }

  /** PRIQEN counts while SMMUEN is 1 (§6.3.9.5). */
  get #enabled(): boolean {
    return this.#registers.enabled(CR0.PRIQEN.inPlace) && this.#registers.enabled(CR0.SMMUEN.inPlace);
  }

  get #overflowed(): boolean {
    const prod = this.#registers.get(OFFSET.PRIQ_PROD);
    return ((prod ^ this.#registers.get(OFFSET.PRIQ_CONS)) & OVERFLOW) !== 0;
  }

  /** Takes a request: into the queue (null), or answers it at once. */
  request(request: PageRequest, ppar: PparLookup): PageResponse | null {
    const stopMarker = request.substreamId !== null && request.last && !request.read && !request.write;
    if (!this.#enabled || this.#interrupts.active(GERROR.PRIQ_ABT_ERR.inPlace)) {
      return stopMarker ? null : respond(request, PRG_RESPONSE.FAILURE, null);
    }
    const prod = this.#registers.get(OFFSET.PRIQ_PROD);
    const cons = this.#registers.get(OFFSET.PRIQ_CONS);
    if (this.#overflowed || queueFull(prod & INDEX, cons & INDEX, this.#place.log2)) {
      if (!this.#overflowed) this.#registers.set(OFFSET.PRIQ_PROD, (prod ^ OVERFLOW) >>> 0);
      if (request.last && this.#lastOnly) this.#interrupts.raise('priq');
      return request.last && !stopMarker ? this.#overflowResponse(request, ppar) : null;
    }
    if (!this.#write(request, prod)) {
      this.#interrupts.error(GERROR.PRIQ_ABT_ERR.inPlace);
      return stopMarker ? null : respond(request, PRG_RESPONSE.FAILURE, null);
    }
    const wasEmpty = queueEmpty(prod & INDEX, cons & INDEX, this.#place.log2);
    const next = queueNext(prod & INDEX, this.#place.log2);
    this.#registers.set(OFFSET.PRIQ_PROD, ((prod & OVERFLOW) | next) >>> 0);
    if (this.#lastOnly ? request.last : wasEmpty) this.#interrupts.raise('priq');
    return null;
  }

  /** PRIQ_IRQ_CFG2.LO: interrupt for the last request of a group only. */
  get #lastOnly(): boolean {
    return (this.#registers.get(OFFSET.PRIQ_IRQ_CFG2) & PRIQ_IRQ_CFG2.LO.inPlace) !== 0;
  }

  #write(request: PageRequest, prod: number): boolean {
    const words = encode(PRIQ_RECORD, {
      StreamID: request.streamId,
      SubstreamID: request.substreamId ?? 0,
      SSV: request.substreamId !== null,
      Priv: request.substreamId !== null && request.privileged,
      X: request.substreamId !== null && request.execute,
      R: request.read,
      W: request.write,
      Last: request.last,
      PRGIndex: request.prgIndex,
    });
    words[2]! |= request.lo & ~0xfff;
    words[3] = request.hi;
    if (this.#trace !== null && this.#trace.active) {
      this.#trace.emit({ kind: 'page-request', unit: 'smmuv3', ...request });
    }
    const address = this.#place.base + queueSlot(prod & INDEX, this.#place.log2) * PRIQ_BYTES;
    for (let word = 0; word < PRIQ_WORDS; word += 2) {
      if (!this.#memory.store64(address + word * 4, words[word]!, words[word + 1]!)) return false;
    }
    return true;
  }

  /** §8.1: success, with the PASID where the endpoint wants it there; failure where nobody can say. */
  #overflowResponse(request: PageRequest, ppar: PparLookup): PageResponse {
    if (request.substreamId === null) return respond(request, PRG_RESPONSE.SUCCESS, null);
    if (this.#features.pps) return respond(request, PRG_RESPONSE.SUCCESS, request.substreamId);
    const withPasid = ppar(request.streamId);
    if (withPasid === null) return respond(request, PRG_RESPONSE.FAILURE, null);
    return respond(request, PRG_RESPONSE.SUCCESS, withPasid ? request.substreamId : null);
  }
}

function respond(request: PageRequest, code: number, substreamId: number | null): PageResponse {
  return { streamId: request.streamId, substreamId, prgIndex: request.prgIndex, code };
}
