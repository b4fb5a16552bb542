import { exact } from '../../base/u64.ts';
import type {
  DmaEndpoint,
  DmaPort,
  DmaResult,
  MemoryRequest,
  PageRequestMessage,
  TranslationCompletion,
  TranslationRequest,
} from '../../iommu/dma-port.ts';

/** Memory without an IOMMU, from 0 on, which counts what reaches it. ATS gives a page what its address is, less `shift`. */
export class FlatPort implements DmaPort {
  readonly requesterId = 0x0a00;
  readonly bytes: Uint8Array;
  readonly requests: MemoryRequest[] = [];
  readonly pageRequests: PageRequestMessage[] = [];
  endpoint: DmaEndpoint | null = null;

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
    if (write) this.bytes.set(data, at);
    else data.set(this.bytes.subarray(at, at + data.length));
    return null;
  }

  requestTranslation({ address }: TranslationRequest): TranslationCompletion {
    if (address >= BigInt(this.bytes.length)) return { status: 'success', entries: [] };
    const translated = exact(address & ~0xfffn);
    const entry = { translated, sizeBits: 12, read: true, write: true, execute: false };
    return { status: 'success', entries: [entry] };
  }

  requestPage(message: PageRequestMessage): void {
    this.pageRequests.push(message);
  }
}
