// The PRI queue (chapter 8): page requests of devices on their way to software.

import { encode } from '../../../../base/bit-fields.ts';
import type { PhysicalMemory } from '../../../../memory/physical.ts';
import type { Trace } from '../../../../trace/trace.ts';
import { PRG_RESPONSE, PRIQ_BYTES, PRIQ_RECORD } from '../../spec/queues.ts';
import { CR0, GERROR, OFFSET, PRIQ_IRQ_CFG2 } from '../../spec/registers.ts';
import type { SmmuV3Features } from '../registers/config.ts';
import type { Interrupts } from '../registers/interrupts.ts';
import { OutputQueue } from './output-queue.ts';
import type { RegisterFile } from '../registers/registers.ts';

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
  readonly #queue: OutputQueue;
  readonly #features: SmmuV3Features;
  readonly #registers: RegisterFile;
  readonly #interrupts: Interrupts;
  readonly #trace: Trace | null;

  constructor(
    memory: PhysicalMemory,
    features: SmmuV3Features,
    registers: RegisterFile,
    interrupts: Interrupts,
    trace: Trace | null,
  ) {
    this.#queue = new OutputQueue(memory, registers, {
      base: OFFSET.PRIQ_BASE,
      prod: OFFSET.PRIQ_PROD,
      cons: OFFSET.PRIQ_CONS,
      log2Max: features.priqs,
      entryBytes: PRIQ_BYTES,
    });
    this.#features = features;
    this.#registers = registers;
    this.#interrupts = interrupts;
    this.#trace = trace;
  }

  /** The base register changed. */
  configure(): void {
    this.#queue.configure();
  }

  /** Software wrote PROD. */
  normalize(): void {
    this.#queue.normalize();
  }

  /** PRIQEN counts while SMMUEN is 1 (§6.3.9.5). */
  get #enabled(): boolean {
    return this.#registers.enabled(CR0.PRIQEN.inPlace) && this.#registers.enabled(CR0.SMMUEN.inPlace);
  }

  /** Takes a request: into the queue (null), or answers it at once. */
  request(request: PageRequest, ppar: PparLookup): PageResponse | null {
    const stopMarker = request.substreamId !== null && request.last && !request.read && !request.write;
    if (!this.#enabled || this.#interrupts.active(GERROR.PRIQ_ABT_ERR.inPlace)) {
      return stopMarker ? null : respond(request, PRG_RESPONSE.FAILURE, null);
    }
    const queue = this.#queue;
    if (queue.overflowed || queue.full) {
      queue.overflow();
      if (request.last && this.#lastOnly) this.#interrupts.raise('priq');
      return request.last && !stopMarker ? this.#overflowResponse(request, ppar) : null;
    }
    const wasEmpty = queue.empty;
    if (!this.#write(request)) {
      this.#interrupts.error(GERROR.PRIQ_ABT_ERR.inPlace);
      return stopMarker ? null : respond(request, PRG_RESPONSE.FAILURE, null);
    }
    if (this.#lastOnly ? request.last : wasEmpty) this.#interrupts.raise('priq');
    return null;
  }

  /** PRIQ_IRQ_CFG2.LO: interrupt for the last request of a group only. */
  get #lastOnly(): boolean {
    return (this.#registers.get(OFFSET.PRIQ_IRQ_CFG2) & PRIQ_IRQ_CFG2.LO.inPlace) !== 0;
  }

  #write(request: PageRequest): boolean {
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
    return this.#queue.write(words);
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
