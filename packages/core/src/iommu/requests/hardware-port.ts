import { hex, hi32, lo32 } from '../../base/u64.ts';
import type { AtcInvalidation } from '../caches/cache-atc.ts';
import type {
  DmaAbort,
  DmaAddress,
  DmaEndpoint,
  DmaPort,
  DmaResult,
  MemoryRequest,
  PageRequestMessage,
  PageResponseMessage,
  TranslationCompletion,
  TranslationRequest,
} from './dma-port.ts';

/** An address as hardware takes it: in two u32. What counts with a PASID alone is false without one. */
export interface Packet {
  readonly pasid: number | null;
  readonly hi: number;
  readonly lo: number;
  readonly execute: boolean;
  readonly privileged: boolean;
}

export interface MemoryPacket extends Packet {
  readonly write: boolean;
  readonly translated: boolean;
}

export interface TranslationPacket extends Packet {
  readonly write: boolean;
}

export interface PagePacket extends Packet {
  readonly prgIndex: number;
  readonly read: boolean;
  readonly write: boolean;
  readonly last: boolean;
}

/** What an IOMMU's hardware does with one function's packets, in the vendor's words. `Stopped` is what it says of a failure. */
export interface HardwareWay<Stopped> {
  /** Messages to the function go to the endpoint from now on. */
  attach(endpoint: DmaEndpoint): void;
  access(
    packet: MemoryPacket,
    data: Uint8Array,
  ): { readonly done: number; readonly stopped: Stopped | 'bus' | null };
  requestTranslation(packet: TranslationPacket): TranslationCompletion;
  requestPage(packet: PagePacket): void;
  /** For people. */
  describe(stopped: Stopped): Omit<DmaAbort, 'done'>;
  /** Has the driver serve the interrupts that are pending. */
  serveInterrupts(): void;
}

/** A PCI function's way through an IOMMU. Interrupts that a request caused are served before it returns. */
export class HardwarePort<Stopped> implements DmaPort, DmaEndpoint {
  readonly requesterId: number;
  readonly #name: string;
  readonly #way: HardwareWay<Stopped>;
  #endpoint: DmaEndpoint | null = null;

  constructor(name: string, requesterId: number, way: HardwareWay<Stopped>) {
    this.#name = name;
    this.requesterId = requesterId;
    this.#way = way;
  }

  connect(endpoint: DmaEndpoint): void {
    this.#endpoint = endpoint;
    this.#way.attach(this);
  }

  access(request: MemoryRequest, data: Uint8Array): DmaResult {
    const { done, stopped } = this.#way.access(memoryPacket(request), data);
    this.#way.serveInterrupts();
    if (stopped === null) return null;
    const abort: Omit<DmaAbort, 'done'> =
      stopped === 'bus'
        ? { kind: 'aborted', reason: 'nothing answers at the translated address' }
        : this.#way.describe(stopped);
    const where = `${this.#name} at ${hex(request.address + BigInt(done))}`;
    return { ...abort, done, reason: `${where}: ${abort.reason}` };
  }

  requestTranslation(request: TranslationRequest): TranslationCompletion {
    const completion = this.#way.requestTranslation(translationPacket(request));
    this.#way.serveInterrupts();
    return completion;
  }

  requestPage(message: PageRequestMessage): void {
    const { prgIndex, read, write, last } = message;
    this.#way.requestPage({ ...packetOf(message), prgIndex, read, write, last });
    this.#way.serveInterrupts();
  }

  invalidate(request: AtcInvalidation): boolean {
    return this.#endpoint?.invalidate(request) ?? false;
  }

  pageResponse({ pasid, prgIndex, code }: PageResponseMessage): void {
    this.#endpoint?.pageResponse({ pasid, prgIndex, code });
  }
}

export function memoryPacket(request: MemoryRequest): MemoryPacket {
  // Written out: a spread here costs more than half of what a read of 4 KiB takes (bench/dma.mjs).
  const { address, pasid, write } = request;
  return {
    pasid,
    hi: hi32(address),
    lo: lo32(address),
    execute: pasid !== null && request.execute === true,
    privileged: pasid !== null && request.privileged === true,
    write,
    translated: request.translated === true,
  };
}

export function translationPacket(request: TranslationRequest): TranslationPacket {
  return { ...packetOf(request), write: request.write };
}

function packetOf({ address, pasid, execute, privileged }: DmaAddress): Packet {
  return {
    pasid,
    hi: hi32(address),
    lo: lo32(address),
    execute: pasid !== null && execute === true,
    privileged: pasid !== null && privileged === true,
  };
}
