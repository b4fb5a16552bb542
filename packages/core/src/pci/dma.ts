import { Atc, type AtcInvalidation } from '../iommu/caches/cache-atc.ts';
import { AtsRequester } from '../iommu/requests/ats-requester.ts';
import type {
  DmaEndpoint,
  DmaPort,
  DmaResult,
  MemoryRequest,
  PageRequestMessage,
  PageResponseMessage,
  TranslationCompletion,
  TranslationRequest,
} from '../iommu/requests/dma-port.ts';
import type { Pri } from './pri.ts';

/** What the configuration of a function says about its requests. */
export interface DmaRules {
  /** Memory requests may be sent: bus mastering is on, the function is powered and there. */
  readonly master: boolean;
  readonly ats: boolean;
  readonly pasid: boolean;
  readonly execute: boolean;
  readonly privileged: boolean;
}

/** How a device model asks for an access beside where and how much. */
export interface AccessOptions {
  readonly pasid?: number | null;
  readonly privileged?: boolean;
  readonly execute?: boolean;
  /** Sent untranslated even where ATS is enabled. */
  readonly untranslated?: boolean;
  /** The address is from a Translation Completion. */
  readonly translated?: boolean;
  /** Sent whatever the configuration of the function says. */
  readonly forced?: boolean;
}

export interface FunctionDmaOptions {
  readonly rules: () => DmaRules;
  readonly pri: Pri | null;
  /** Entries of the ATC. */
  readonly entries?: number | undefined;
  readonly onPageResponse: (response: PageResponseMessage) => void;
  /** Called after every access. */
  readonly onAccess: (request: MemoryRequest, bytes: number, result: DmaResult) => void;
}

const NO_IOMMU = 'the function is behind no IOMMU';

/**
 * A function's requests: through its ATC where ATS is enabled, and by way of its port to its IOMMU. There is no other way
 * from a device model to memory.
 */
export class FunctionDma implements DmaEndpoint {
  readonly atc: Atc;
  /** False: Invalidate Requests go unanswered, as at a device that hangs. */
  answersInvalidations = true;
  readonly #options: FunctionDmaOptions;
  #port: DmaPort | null = null;
  #requester: AtsRequester | null = null;

  constructor(options: FunctionDmaOptions) {
    this.#options = options;
    this.atc = new Atc(options.entries);
  }

  /** Puts the function behind an IOMMU. */
  connect(port: DmaPort): void {
    this.#port = port;
    this.#requester = new AtsRequester(port, this.atc);
    port.connect(this);
  }

  /** Fills `into` from `address` on. */
  read(address: bigint, into: Uint8Array, options: AccessOptions = {}): DmaResult {
    return this.#access(false, address, into, options);
  }

  write(address: bigint, from: Uint8Array, options: AccessOptions = {}): DmaResult {
    return this.#access(true, address, from, options);
  }

  /** A message of MSI or MSI-X: 4 bytes, without a PASID, and always untranslated. */
  message(address: bigint, data: number): DmaResult {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, data, true);
    return this.#send({ write: true, address, pasid: null }, bytes, { untranslated: true });
  }

  #access(write: boolean, address: bigint, data: Uint8Array, options: AccessOptions): DmaResult {
    const { pasid = null, privileged = false, execute = false, translated = false } = options;
    const request = { write, address, pasid, privileged, execute, translated };
    const result = this.#send(request, data, options);
    this.#options.onAccess(request, data.length, result);
    return result;
  }

  #send(request: MemoryRequest, data: Uint8Array, options: AccessOptions): DmaResult {
    const refused = options.forced === true ? null : this.#refused(request);
    if (refused !== null || this.#port === null)
      return { kind: 'aborted', done: 0, reason: refused ?? NO_IOMMU };
    const plain = options.untranslated === true || options.translated === true;
    return plain ? this.#port.access(request, data) : this.#requester!.access(request, data);
  }

  /** Why the function cannot send such a request at all. */
  #refused(request: { pasid: number | null; execute?: boolean; privileged?: boolean }): string | null {
    const rules = this.#options.rules();
    if (!rules.master) return 'bus mastering is off';
    if (request.pasid === null) return null;
    if (!rules.pasid) return 'PASIDs are off';
    if (request.execute === true && !rules.execute) return 'execute permission is off';
    return request.privileged === true && !rules.privileged ? 'privileged mode is off' : null;
  }

  /** A Translation Request, beside the ATC. Unsupported where ATS is off. */
  requestTranslation(request: TranslationRequest): TranslationCompletion {
    if (this.#port === null || this.#refused(request) !== null || !this.#options.rules().ats)
      return { status: 'UR', entries: [] };
    return this.#port.requestTranslation(request);
  }

  /** A Page Request Message. False where it is not sent: PRI is off, or as many as software allows are outstanding. */
  requestPage(message: PageRequestMessage): boolean {
    const { pri } = this.#options;
    if (this.#port === null || this.#refused(message) !== null) return false;
    if (pri === null || !pri.enabled || pri.room <= 0) return false;
    pri.sent(message);
    this.#port.requestPage(message);
    return true;
  }

  /** Everything that was translated or asked for is forgotten. */
  reset(): void {
    this.atc.enable(false);
    this.#options.pri?.forget();
  }

  invalidate(request: AtcInvalidation): boolean {
    if (!this.answersInvalidations) return false;
    this.atc.invalidate(request);
    return true;
  }

  pageResponse(response: PageResponseMessage): void {
    if (this.#options.pri?.answered(response) === true) this.#options.onPageResponse(response);
  }
}
