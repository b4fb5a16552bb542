import { hex, hi32, lo32 } from '../../base/u64.ts';
import type { AtcInvalidation } from '../cache-atc.ts';
import type {
  DmaAddress,
  DmaEndpoint,
  DmaPort,
  DmaResult,
  MemoryRequest,
  PageRequestMessage,
  TranslationCompletion,
  TranslationRequest,
} from '../dma-port.ts';
import type { DmarUnit } from './driver/dmar-unit.ts';
import type { Endpoint, PageResponse } from './hardware/endpoint.ts';
import type { AccessResult, IntelIommu } from './hardware/intel-iommu.ts';

interface Addressed {
  readonly requesterId: number;
  readonly pasid: number | null;
  readonly hi: number;
  readonly lo: number;
  readonly execute: boolean;
  readonly privileged: boolean;
}

/** A PCI function's way through its VT-d unit. Interrupts that a request caused are served before it returns. */
export class IntelPort implements DmaPort, Endpoint {
  readonly requesterId: number;
  readonly #hardware: IntelIommu;
  readonly #unit: DmarUnit;
  readonly #name: string;
  #endpoint: DmaEndpoint | null = null;

  constructor(hardware: IntelIommu, unit: DmarUnit, name: string, requesterId: number) {
    this.#hardware = hardware;
    this.#unit = unit;
    this.#name = name;
    this.requesterId = requesterId;
  }

  connect(endpoint: DmaEndpoint): void {
    this.#endpoint = endpoint;
    this.#hardware.attachEndpoint(this.requesterId, this);
  }

  access(request: MemoryRequest, data: Uint8Array): DmaResult {
    const { write, translated } = request;
    const transaction = { ...this.#address(request), write, translated: translated === true };
    const result = this.#hardware.access(transaction, data);
    this.#unit.serveInterrupts();
    return abortOf(result, this.#name, request.address);
  }

  requestTranslation(request: TranslationRequest): TranslationCompletion {
    const completion = this.#hardware.requestTranslation({ ...this.#address(request), write: request.write });
    this.#unit.serveInterrupts();
    return completion;
  }

  requestPage(message: PageRequestMessage): void {
    const { prgIndex, read, write, last } = message;
    this.#hardware.requestPage({ ...this.#address(message), prgIndex, read, write, last });
    this.#unit.serveInterrupts();
  }

  #address({ address, pasid, execute, privileged }: DmaAddress): Addressed {
    return {
      requesterId: this.requesterId,
      pasid,
      hi: hi32(address),
      lo: lo32(address),
      execute: pasid !== null && execute === true,
      privileged: pasid !== null && privileged === true,
    };
  }

  invalidate(request: AtcInvalidation): boolean {
    return this.#endpoint?.invalidate(request) ?? false;
  }

  pageResponse({ pasid, prgIndex, code }: PageResponse): void {
    this.#endpoint?.pageResponse({ pasid, prgIndex, code });
  }
}

/** What stopped an access, in words. */
function abortOf({ done, stopped }: AccessResult, name: string, address: bigint): DmaResult {
  if (stopped === null) return null;
  const where = `${name} at ${hex(address + BigInt(done))}`;
  const why =
    stopped === 'bus'
      ? 'nothing answers at the translated address'
      : stopped.fault === null
        ? stopped.status
        : `fault ${stopped.fault.code}`;
  return { kind: 'aborted', done, reason: `${where}: ${why}` };
}
