import { hi32, lo32 } from '../../base/u64.ts';
import { AtsRequester } from '../ats-requester.ts';
import { Atc, type AtcInvalidation } from '../cache-atc.ts';
import type { DmaAddress, MemoryRequest, TranslationCompletion } from '../dma-port.ts';

/** A request as hardware takes it, but for whose it is. */
export interface AtsPacket {
  readonly pasid: number | null;
  readonly hi: number;
  readonly lo: number;
  readonly write: boolean;
  readonly execute: boolean;
  readonly privileged: boolean;
  readonly translated: boolean;
}

/** What an IOMMU's hardware does with one function's requests. */
export interface TranslationAgent<Outcome> {
  requestTranslation(packet: AtsPacket): TranslationCompletion;
  translate(packet: AtsPacket): Outcome;
}

/** A function that uses ATS, in front of hardware without a driver: what becomes of its accesses, byte by byte. */
export class AtsFunction<Outcome extends { readonly kind: string }> {
  readonly atc: Atc = new Atc();
  readonly #requester: AtsRequester;
  #outcome: Outcome | null = null;

  constructor(agent: TranslationAgent<Outcome>) {
    const port = {
      requestTranslation: (request: MemoryRequest) => agent.requestTranslation(packetOf(request)),
      access: (request: MemoryRequest) => {
        this.#outcome = agent.translate(packetOf(request));
        return null;
      },
    };
    this.#requester = new AtsRequester(port, this.atc);
    this.atc.enable(true);
  }

  invalidate(request: AtcInvalidation): boolean {
    this.#requester.invalidate(request);
    return true;
  }

  /** What becomes of one byte; 'denied' where the function was given no translation. */
  translate(address: bigint, rest: Partial<MemoryRequest> = {}): Outcome | { readonly kind: 'denied' } {
    this.#outcome = null;
    this.#requester.access({ address, pasid: null, write: false, ...rest }, new Uint8Array(1));
    return this.#outcome ?? { kind: 'denied' };
  }
}

function packetOf(
  request: DmaAddress & { readonly write: boolean; readonly translated?: boolean },
): AtsPacket {
  const { address, pasid, write } = request;
  return {
    pasid,
    hi: hi32(address),
    lo: lo32(address),
    write,
    execute: pasid !== null && request.execute === true,
    privileged: pasid !== null && request.privileged === true,
    translated: request.translated === true,
  };
}
