import { exact } from '../../base/u64.ts';
import type {
  DmaEndpoint,
  DmaPort,
  DmaResult,
  MemoryRequest,
  PageRequestMessage,
  TranslationCompletion,
  TranslationRequest,
} from '../../iommu/requests/dma-port.ts';

/** Memory without an IOMMU, from 0 on, which counts what reaches it and may refuse some of it. ATS gives every page its own address. */
export class FlatPort implements DmaPort {
  readonly requesterId = 0x0a00;
  readonly bytes: Uint8Array;
  readonly requests: MemoryRequest[] = [];
  readonly pageRequests: PageRequestMessage[] = [];
  endpoint: DmaEndpoint | null = null;
  onPageRequest: ((message: PageRequestMessage) => void) | null = null;
  /** Which 4 KiB pages may be reached: all where this is null. */
  allowed: ReadonlySet<number> | null = null;
  /** What is not allowed stalls, and goes on or ends when the latest of these is called. */
  stalled: ((goesOn: boolean) => void)[] | null = null;

  constructor(size: number) {
    this.bytes = new Uint8Array(size);
  }

  connect(endpoint: DmaEndpoint): void {
    this.endpoint = endpoint;
  }

  access(request: MemoryRequest, data: Uint8Array): DmaResult {
    this.requests.push(request);
    const { address, write } = request;
    if (address + BigInt(data.length) > BigInt(this.bytes.length))
      return { kind: 'aborted', done: 0, reason: 'beyond the memory' };
    const at = exact(address);
    for (let page = at >>> 12; this.allowed !== null && page <= (at + data.length - 1) >>> 12; page++)
      if (!this.allowed.has(page)) return this.#refuse();
    if (write) this.bytes.set(data, at);
    else data.set(this.bytes.subarray(at, at + data.length));
    return null;
  }

  #refuse(): DmaResult {
    const { stalled } = this;
    if (stalled === null) return { kind: 'aborted', done: 0, reason: 'not allowed' };
    return {
      kind: 'stalled',
      done: 0,
      reason: 'stalled',
      onResumed: (listener) => void stalled.push(listener),
    };
  }

  requestTranslation({ address }: TranslationRequest): TranslationCompletion {
    if (address >= BigInt(this.bytes.length)) return { status: 'success', entries: [] };
    const translated = exact(address & ~0xfffn);
    if (this.allowed !== null && !this.allowed.has(translated >>> 12))
      return { status: 'success', entries: [] };
    const entry = { translated, sizeBits: 12, read: true, write: true, execute: false };
    return { status: 'success', entries: [entry] };
  }

  requestPage(message: PageRequestMessage): void {
    this.pageRequests.push(message);
    this.onPageRequest?.(message);
  }
}
