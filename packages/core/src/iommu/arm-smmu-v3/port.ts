import { hex, hi32, lo32 } from '../../base/u64.ts';
import type { AtcInvalidation } from '../cache-atc.ts';
import type {
  DmaAbort,
  DmaAddress,
  DmaEndpoint,
  DmaPort,
  DmaResult,
  MemoryRequest,
  PageRequestMessage,
  TranslationCompletion,
  TranslationRequest,
} from '../dma-port.ts';
import type { ArmSmmu } from './driver/smmu.ts';
import type { Endpoint } from './hardware/endpoint.ts';
import type { PageResponse } from './hardware/pri-queue.ts';
import type { AccessResult, SmmuV3 } from './hardware/smmu.ts';

/** What a port needs of the device that it is of. */
export interface SmmuPortOptions {
  readonly name: string;
  readonly streamId: number;
  readonly stallable: boolean;
}

/** A PCI function's way through an SMMU. Interrupts that a request caused are served before it returns. */
export class SmmuPort implements DmaPort, Endpoint {
  readonly #hardware: SmmuV3;
  readonly #smmu: ArmSmmu;
  readonly #options: SmmuPortOptions;
  #endpoint: DmaEndpoint | null = null;

  constructor(hardware: SmmuV3, smmu: ArmSmmu, options: SmmuPortOptions) {
    this.#hardware = hardware;
    this.#smmu = smmu;
    this.#options = options;
  }

  /** A stream id's lower 16 bits are the requester id. */
  get requesterId(): number {
    return this.#options.streamId & 0xffff;
  }

  /** The function behind the port, or null where it has none of its own. */
  get endpoint(): DmaEndpoint | null {
    return this.#endpoint;
  }

  connect(endpoint: DmaEndpoint): void {
    this.#endpoint = endpoint;
    this.#hardware.attachEndpoint(this.#options.streamId, this);
  }

  access(request: MemoryRequest, data: Uint8Array): DmaResult {
    const withPasid = request.pasid !== null;
    const result = this.#hardware.access(
      {
        streamId: this.#options.streamId,
        substreamId: request.pasid,
        hi: hi32(request.address),
        lo: lo32(request.address),
        write: request.write,
        instruction: withPasid && request.execute === true,
        privileged: withPasid && request.privileged === true,
        translated: request.translated === true,
        stallable: this.#options.stallable,
      },
      data,
    );
    this.#smmu.serveInterrupts();
    return abortOf(result, this.#options.name, request.address);
  }

  requestTranslation(request: TranslationRequest): TranslationCompletion {
    const completion = this.#hardware.requestTranslation({
      ...this.#request(request),
      write: request.write,
      execute: request.pasid !== null && request.execute === true,
      privileged: request.pasid !== null && request.privileged === true,
    });
    this.#smmu.serveInterrupts();
    return completion;
  }

  requestPage(message: PageRequestMessage): void {
    const { prgIndex, read, write, last } = message;
    const withPasid = message.pasid !== null;
    this.#hardware.requestPage({
      ...this.#request(message),
      prgIndex,
      read,
      write,
      last,
      execute: withPasid && message.execute === true,
      privileged: withPasid && message.privileged === true,
    });
    this.#smmu.serveInterrupts();
  }

  #request({ address, pasid }: DmaAddress): {
    streamId: number;
    substreamId: number | null;
    hi: number;
    lo: number;
  } {
    const { streamId } = this.#options;
    return { streamId, substreamId: pasid, hi: hi32(address), lo: lo32(address) };
  }

  invalidate(request: AtcInvalidation): boolean {
    return this.#endpoint?.invalidate(request) ?? false;
  }

  pageResponse({ substreamId, prgIndex, code }: PageResponse): void {
    this.#endpoint?.pageResponse({ pasid: substreamId, prgIndex, code });
  }
}

/** What stopped an access, in words. */
function abortOf({ done, stopped }: AccessResult, name: string, address: bigint): DmaResult {
  if (stopped === null) return null;
  const where = `${name} at ${hex(address + BigInt(done))}`;
  const abort = (reason: string): DmaAbort => ({ kind: 'aborted', done, reason: `${where}: ${reason}` });
  if (stopped === 'bus') return abort('nothing answers at the translated address');
  if (stopped.kind === 'stalled') {
    const { outcome } = stopped.stall;
    if (outcome === null) return { kind: 'stalled', done, reason: `${where}: stalled` };
    return abort(`${outcome.kind} after a stall`);
  }
  const { event } = stopped;
  return abort(event === null ? 'aborted' : `event 0x${event.type.toString(16)}`);
}
