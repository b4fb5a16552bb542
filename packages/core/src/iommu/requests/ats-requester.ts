// How a function uses ATS: its accesses take the translations that it was given, and ask for those that it lacks.

import { big, exact, hi32, lo32 } from '../../base/u64.ts';
import { Atc, type AtcEntry, type AtcInvalidation } from '../caches/cache-atc.ts';
import type {
  DmaPort,
  DmaResult,
  MemoryRequest,
  TranslationCompletion,
  TranslationRequest,
} from './dma-port.ts';

/** The translation agent gave no translation: the function may ask for the page by PRI, or gives up. */
export interface Denied {
  readonly kind: 'denied';
  readonly completion: TranslationCompletion;
}

type Port = Pick<DmaPort, 'access' | 'requestTranslation'>;

export class AtsRequester {
  readonly atc: Atc;
  readonly #port: Port;

  constructor(port: Port, atc: Atc) {
    this.#port = port;
    this.atc = atc;
  }

  invalidate(request: AtcInvalidation): void {
    this.atc.invalidate(request);
  }

  /** The function's translation of an address: from the ATC, or asked for. Null: untranslated requests alone. */
  resolve(request: TranslationRequest): AtcEntry | Denied | null {
    const { address, pasid } = request;
    const privileged = pasid !== null && request.privileged === true;
    const known = this.atc.lookup(hi32(address), lo32(address), pasid, privileged);
    if (known !== null && allows(known, request)) return known;
    const completion = this.#port.requestTranslation(request);
    const [entry] = completion.entries;
    if (entry?.untranslatedOnly === true) return null;
    if (entry === undefined || !allows(entry, request)) return { kind: 'denied', completion };
    this.atc.fill(hi32(address), lo32(address), pasid, privileged, entry);
    return entry;
  }

  /** Transfers `data.length` bytes: by translated requests while ATS is enabled, else by untranslated ones. */
  access(request: MemoryRequest, data: Uint8Array): DmaResult {
    if (!this.atc.enabled) return this.#port.access(request, data);
    for (let done = 0; done < data.length;) {
      const address = BigInt.asUintN(64, request.address + big(done));
      const entry = this.resolve({ ...request, address });
      if (entry !== null && 'kind' in entry) {
        const reason = `no translation (${entry.completion.status})`;
        return { kind: 'aborted', done, reason };
      }
      const offset = entry === null ? 0 : offsetIn(entry, address);
      const left = entry === null ? data.length : 2 ** entry.sizeBits - offset;
      const part = data.subarray(done, done + Math.min(left, data.length - done));
      // A translated request has the PASID no more: its address needs none.
      const packet: MemoryRequest =
        entry === null
          ? { ...request, address }
          : { write: request.write, address: big(entry.translated + offset), pasid: null, translated: true };
      const stopped = this.#port.access(packet, part);
      if (stopped !== null) return { ...stopped, done: done + stopped.done };
      done += part.length;
    }
    return null;
  }
}

function allows(entry: AtcEntry, request: TranslationRequest): boolean {
  if (request.write) return entry.write;
  return request.execute === true && request.pasid !== null ? entry.execute : entry.read;
}

/** The offset of an address in the entry's block. */
function offsetIn({ sizeBits }: AtcEntry, address: bigint): number {
  return exact(BigInt.asUintN(Math.min(sizeBits, 52), address));
}
