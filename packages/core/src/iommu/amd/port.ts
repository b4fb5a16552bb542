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
import type { Ivhd } from './driver/ivhd.ts';
import type { AccessResult, AmdIommu } from './hardware/amd-iommu.ts';
import type { Endpoint } from './hardware/endpoint.ts';
import type { PageResponse } from './hardware/ppr-log.ts';

/** A PCI function's way through an AMD IOMMU. Interrupts that a request caused are served before it returns. */
export class AmdPort implements DmaPort, Endpoint {
  readonly requesterId: number;
  readonly #hardware: AmdIommu;
  readonly #ivhd: Ivhd;
  readonly #name: string;
  #endpoint: DmaEndpoint | null = null;

  constructor(hardware: AmdIommu, ivhd: Ivhd, name: string, deviceId: number) {
    this.#hardware = hardware;
    this.#ivhd = ivhd;
    this.#name = name;
    this.requesterId = deviceId;
  }

  connect(endpoint: DmaEndpoint): void {
    this.#endpoint = endpoint;
    this.#hardware.attachEndpoint(this.requesterId, this);
  }

  access(request: MemoryRequest, data: Uint8Array): DmaResult {
    const result = this.#hardware.access(
      { ...this.#request(request), write: request.write, translated: request.translated === true },
      data,
    );
    this.#ivhd.serveInterrupts();
    return abortOf(result, this.#name, request.address);
  }

  requestTranslation(request: TranslationRequest): TranslationCompletion {
    const { status, entry } = this.#hardware.requestTranslation({
      ...this.#request(request),
      write: request.write,
    });
    this.#ivhd.serveInterrupts();
    return { status, entries: entry === null ? [] : [entry] };
  }

  requestPage(message: PageRequestMessage): void {
    const { prgIndex, read, write, last } = message;
    this.#hardware.requestPage({ ...this.#request(message), prgIndex, read, write, last });
    this.#ivhd.serveInterrupts();
  }

  #request(request: DmaAddress): {
    deviceId: number;
    pasid: number | null;
    hi: number;
    lo: number;
    execute: boolean;
    privileged: boolean;
  } {
    const withPasid = request.pasid !== null;
    return {
      deviceId: this.requesterId,
      pasid: request.pasid,
      hi: hi32(request.address),
      lo: lo32(request.address),
      execute: withPasid && request.execute === true,
      privileged: withPasid && request.privileged === true,
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
  const reason = stopped === 'bus' ? 'nothing answers at the translated address' : stopped.reason;
  return { kind: 'aborted', done, reason: `${where}: ${reason}` };
}
