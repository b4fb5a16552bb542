// PCIe ATS: answers to Translation Requests (§2.1.4).

import { EVENT } from '../../spec/events.ts';
import { ACCESS } from './access.ts';
import type { Admission } from '../configuration/admission.ts';
import type { Request } from '../queues/events.ts';
import type { Faults } from '../queues/faults.ts';
import type { EventRecord } from '../transaction.ts';
import type { Translator } from './translator.ts';

/** An ATS Translation Request. `write` is NW == 0; the last two count with a PASID alone. */
export interface AtsRequest {
  readonly deviceId: number;
  readonly pasid?: number | null;
  /** The untranslated address, as two u32. */
  readonly hi: number;
  readonly lo: number;
  readonly write: boolean;
  readonly execute?: boolean;
  readonly privileged?: boolean;
}

/** One Translation Completion Data Entry. */
export interface AtsTranslation {
  /** The translated address of the first byte of the aligned block of 2^sizeBits bytes. */
  readonly translated: number;
  readonly sizeBits: number;
  readonly read: boolean;
  readonly write: boolean;
  readonly execute: boolean;
  /** U: only untranslated requests may use the range. */
  readonly untranslatedOnly: boolean;
  /** N == 0 with it: the device's requests are snooped. */
  readonly forceCoherent: boolean;
}

/** A Translation Completion: Unsupported Request and Completer Abort carry no entry. */
export interface AtsCompletion {
  readonly status: 'success' | 'UR' | 'CA';
  readonly entry: AtsTranslation | null;
  /** The event that describes why, if any does, and whether it was logged. */
  readonly event: EventRecord | null;
  readonly recorded: boolean;
}

const DENIED: Omit<AtsTranslation, 'sizeBits'> = {
  translated: 0,
  read: false,
  write: false,
  execute: false,
  untranslatedOnly: false,
  forceCoherent: false,
};

export class Ats {
  readonly #admission: Admission;
  readonly #translator: Translator;
  readonly #faults: Faults;

  constructor(admission: Admission, translator: Translator, faults: Faults) {
    this.#admission = admission;
    this.#translator = translator;
    this.#faults = faults;
  }

  /** Answers a request. Page faults deny access and are no events; broken configuration is the completer's. */
  request(asked: AtsRequest, request: Request): AtsCompletion {
    const route = this.#admission.route(request, false);
    if (route.kind === 'aborted') {
      const { event, recorded } = route;
      if (event !== null && event.type === EVENT.IO_PAGE_FAULT) return denied(event);
      const status = event !== null && event.type === EVENT.INVALID_DEVICE_REQUEST ? 'UR' : 'CA';
      return { status, entry: null, event, recorded };
    }
    if (route.kind === 'forward' || route.kind === 'interrupt') return identity(asked);
    const { device } = route;
    const want = ACCESS.READ | (asked.write ? ACCESS.WRITE : 0);
    const keep = device.config.cacheHint;
    const translator = this.#translator;
    const done =
      route.kind === 'host'
        ? translator.translate(device, asked.hi, asked.lo, 0, want, keep)
        : translator.translateGuest(
            device,
            route.pasid,
            route.extend,
            asked.hi,
            asked.lo,
            0,
            want,
            request.privileged,
            keep,
          );
    if (!done) {
      const aborted = this.#faults.translation(request, translator.fault!, device);
      if (translator.fault!.kind === 'page-fault') return denied(aborted.event);
      return { status: 'CA', entry: null, event: aborted.event, recorded: aborted.recorded };
    }
    const { sizeBits } = translator;
    const { hi, lo } = request;
    const bits =
      route.kind === 'host' ? this.#admission.withoutSpecial(device.config, hi, lo, sizeBits) : sizeBits;
    return { status: 'success', entry: this.#entry(asked, bits), event: null, recorded: false };
  }

  #entry(asked: AtsRequest, sizeBits: number): AtsTranslation {
    const { granted, pa } = this.#translator;
    const read = (granted & ACCESS.READ) !== 0;
    const write = (granted & ACCESS.WRITE) !== 0 && asked.write;
    if (!read && !write) return { ...DENIED, sizeBits };
    return {
      translated: pa - (pa % 2 ** sizeBits),
      sizeBits,
      read,
      write,
      execute: asked.execute === true && (granted & ACCESS.EXECUTE) !== 0,
      untranslatedOnly: this.#translator.untranslatedOnly,
      forceCoherent: this.#translator.forceCoherent,
    };
  }
}

function denied(event: EventRecord | null): AtsCompletion {
  return { status: 'success', entry: { ...DENIED, sizeBits: 12 }, event, recorded: false };
}

/** The exclusion range: addresses are their own translations. */
function identity(asked: AtsRequest): AtsCompletion {
  const translated = (asked.hi >>> 0) * 0x1_0000_0000 + ((asked.lo & ~0xfff) >>> 0);
  const entry = { ...DENIED, translated, sizeBits: 12, read: true, write: asked.write };
  return { status: 'success', entry, event: null, recorded: false };
}
