import { Atc, type AtcInvalidation } from '../iommu/cache-atc.ts';
import { AtsRequester } from '../iommu/ats-requester.ts';
import type {
  DmaAbort,
  DmaEndpoint,
  DmaPort,
  DmaResult,
  MemoryRequest,
  PageRequestMessage,
  PageResponseMessage,
  TranslationCompletion,
  TranslationRequest,
} from '../iommu/dma-port.ts';

/** What the configuration of a function says about its requests. */
export interface DmaRules {
  /** Memory requests may be sent: bus mastering is on, the function is powered and there. */
  readonly master: boolean;
  readonly ats: boolean;
  readonly pri: boolean;
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

/**
 * A function's requests: through its ATC where ATS is enabled, and by way of its port to its IOMMU. There is no other way
 * from a device model to memory.
 */
export class FunctionDma implements DmaEndpoint {
  readonly atc: Atc;
  /** Called with every PRG Response Message. */
  onPageResponse: ((response: PageResponseMessage) => void) | null = null;
  readonly #rules: () => DmaRules;
  #port: DmaPort | null = null;
  #requester: AtsRequester | null = null;

  /** `entries`: of the ATC. */
  constructor(rules: () => DmaRules, entries?: number) {
    this.#rules = rules;
    this.atc = new Atc(entries);
  }

  /** Puts the function behind an IOMMU. */
  connect(port: DmaPort): void {
    this.#port = port;
    this.#requester = new AtsRequester(port, this.atc);
    port.connect(this);
  }

  /** Fills `into` from `address` on. */
  read(address: bigint, into: Uint8Array, options: AccessOptions = {}): DmaResult {
    return this.#access({ ...options, write: false, address, pasid: options.pasid ?? null }, into, options);
  }

  write(address: bigint, from: Uint8Array, options: AccessOptions = {}): DmaResult {
    return this.#access({ ...options, write: true, address, pasid: options.pasid ?? null }, from, options);
  }

  #access(request: MemoryRequest, data: Uint8Array, options: AccessOptions): DmaResult {
    const refused = options.forced === true ? null : this.#refused(request);
    if (refused !== null || this.#port === null) return aborted(refused ?? 'the function is behind no IOMMU');
    const plain = options.untranslated === true || options.translated === true;
    return plain ? this.#port.access(request, data) : this.#requester!.access(request, data);
  }

  /** Why the function cannot send such a request at all. */
  #refused(request: { pasid: number | null; execute?: boolean; privileged?: boolean }): string | null {
    const rules = this.#rules();
    if (!rules.master) return 'bus mastering is off';
    if (request.pasid === null) return null;
    if (!rules.pasid) return 'PASIDs are off';
    if (request.execute === true && !rules.execute) return 'execute permission is off';
    return request.privileged === true && !rules.privileged ? 'privileged mode is off' : null;
  }

  /** A Translation Request, beside the ATC. Unsupported where ATS is off. */
  requestTranslation(request: TranslationRequest): TranslationCompletion {
    if (this.#refused(request) !== null || !this.#rules().ats || this.#port === null)
      return { status: 'UR', entries: [] };
    return this.#port.requestTranslation(request);
  }

  /** A Page Request Message. False where PRI is off: then it is not sent. */
  requestPage(message: PageRequestMessage): boolean {
    if (this.#refused(message) !== null || !this.#rules().pri || this.#port === null) return false;
    this.#port.requestPage(message);
    return true;
  }

  invalidate(request: AtcInvalidation): boolean {
    this.atc.invalidate(request);
    return true;
  }

  pageResponse(response: PageResponseMessage): void {
    this.onPageResponse?.(response);
  }
}

function aborted(reason: string): DmaAbort {
  return { kind: 'aborted', done: 0, reason };
}
