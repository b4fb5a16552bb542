import { AtsRequester } from '../requests/ats-requester.ts';
import { Atc, type AtcInvalidation } from '../caches/cache-atc.ts';
import type { MemoryRequest, TranslationRequest } from '../requests/dma-port.ts';
import {
  type HardwareWay,
  type MemoryPacket,
  memoryPacket,
  translationPacket,
} from '../requests/hardware-port.ts';

/** What an IOMMU's hardware does with one function's requests. */
export interface TranslationAgent<Outcome> extends Pick<HardwareWay<never>, 'requestTranslation'> {
  translate(packet: MemoryPacket): Outcome;
}

/** A function that uses ATS, in front of hardware without a driver: what becomes of its accesses, byte by byte. */
export class AtsFunction<Outcome extends { readonly kind: string }> {
  readonly atc: Atc = new Atc();
  readonly #requester: AtsRequester;
  #outcome: Outcome | null = null;

  constructor(agent: TranslationAgent<Outcome>) {
    const port = {
      requestTranslation: (request: TranslationRequest) =>
        agent.requestTranslation(translationPacket(request)),
      access: (request: MemoryRequest) => {
        this.#outcome = agent.translate(memoryPacket(request));
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
