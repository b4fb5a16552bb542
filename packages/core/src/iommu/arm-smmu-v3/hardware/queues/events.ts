// Event records as they stand in the queue (§7.3).

import { nameOf, writeField } from '../../../../base/bit-fields.ts';
import {
  ATS_TREQ_RECORD,
  CLASS,
  EVENT,
  EVENT_RECORD,
  EVENT_WORDS,
  FETCH_RECORD,
  PAGE_REQUEST_RECORD,
} from '../../spec/events.ts';
import type { ConfigFault } from '../configuration/config-table.ts';
import type { EventRecord, EventType, Transaction } from '../transaction.ts';
import type { TranslationFault } from '../configuration/context.ts';

/** The name of an event, such as `F_TRANSLATION`. */
export function eventName(type: number): string {
  return nameOf(EVENT, type);
}

/** What a record says of the access, after the STE's overrides. */
export interface AccessAttributes {
  readonly write: boolean;
  readonly instruction: boolean;
  readonly privileged: boolean;
}

function start(type: EventType, streamId: number, substreamId: number | null): Uint32Array {
  const words = new Uint32Array(EVENT_WORDS);
  writeField(EVENT_RECORD.Type, words, type);
  writeField(EVENT_RECORD.StreamID, words, streamId);
  if (substreamId !== null) {
    writeField(EVENT_RECORD.SSV, words, 1);
    writeField(EVENT_RECORD.SubstreamID, words, substreamId);
  }
  return words;
}

function inputAddress(words: Uint32Array, transaction: Transaction): void {
  words[4] = transaction.lo;
  words[5] = transaction.hi;
}

function access(words: Uint32Array, { write, instruction, privileged }: AccessAttributes): void {
  writeField(EVENT_RECORD.PnU, words, privileged ? 1 : 0);
  writeField(EVENT_RECORD.InD, words, instruction && !write ? 1 : 0);
  writeField(EVENT_RECORD.RnW, words, write ? 0 : 1);
}

/** C_* and F_*_FETCH, F_STREAM_DISABLED: what configuration lookup ran into. */
export function configEvent(fault: ConfigFault, transaction: Transaction): EventRecord {
  const { type } = fault;
  const substreamId = transaction.substreamId ?? null;
  if (type === EVENT.C_BAD_SUBSTREAMID) {
    // Always valid, so without SSV (§7.3.9).
    const words = start(type, transaction.streamId, null);
    writeField(EVENT_RECORD.SubstreamID, words, fault.substreamId);
    return { type, words };
  }
  const words = start(type, transaction.streamId, substreamId);
  if (type === EVENT.F_STE_FETCH || type === EVENT.F_CD_FETCH) fetchAddress(words, fault.fetch);
  return { type, words };
}

function fetchAddress(words: Uint32Array, address: number): void {
  writeField(FETCH_RECORD.FetchAddr, words, Math.floor(address / 8));
}

/** F_TRANSLATION, F_ADDR_SIZE, F_ACCESS, F_PERMISSION and F_WALK_EABT. `stag` is null where nothing stalls. */
export function translationEvent(
  fault: TranslationFault,
  transaction: Transaction,
  attributes: AccessAttributes,
  stag: number | null,
): EventRecord {
  const { type } = fault;
  const words = start(type, transaction.streamId, transaction.substreamId ?? null);
  inputAddress(words, transaction);
  access(words, attributes);
  writeField(EVENT_RECORD.CLASS, words, fault.class);
  if (fault.stage2) writeField(EVENT_RECORD.S2, words, 1);
  if (type === EVENT.F_WALK_EABT) fetchAddress(words, fault.fetch);
  else if (fault.stage2) writeField(EVENT_RECORD.IPA, words, Math.floor(fault.ipa / 4096));
  if (type === EVENT.F_PERMISSION && fault.class === CLASS.TT && fault.ttRead) {
    writeField(EVENT_RECORD.TTRnW, words, 1);
  }
  if (stag !== null) {
    writeField(EVENT_RECORD.STAG, words, stag);
    writeField(EVENT_RECORD.Stall, words, 1);
  }
  return { type, words };
}

/** F_UUT: the attributes are the incoming ones (§7.3.2). */
export function unsupportedEvent(transaction: Transaction): EventRecord {
  const words = start(EVENT.F_UUT, transaction.streamId, transaction.substreamId ?? null);
  inputAddress(words, transaction);
  access(words, {
    write: transaction.write ?? false,
    instruction: transaction.instruction ?? false,
    privileged: transaction.privileged ?? false,
  });
  writeField(EVENT_RECORD.STAG, words, transaction.unsupported ?? 0);
  return { type: EVENT.F_UUT, words };
}

/** F_TRANSL_FORBIDDEN */
export function forbiddenEvent(transaction: Transaction): EventRecord {
  const words = start(EVENT.F_TRANSL_FORBIDDEN, transaction.streamId, transaction.substreamId ?? null);
  inputAddress(words, transaction);
  writeField(EVENT_RECORD.RnW, words, transaction.write === true ? 0 : 1);
  return { type: EVENT.F_TRANSL_FORBIDDEN, words };
}

/** F_BAD_ATS_TREQ: what the request asked for, before overrides (§7.3.6). */
export function badAtsRequestEvent(request: Transaction, span: number): EventRecord {
  const words = start(EVENT.F_BAD_ATS_TREQ, request.streamId, request.substreamId ?? null);
  inputAddress(words, request);
  writeField(ATS_TREQ_RECORD.R, words, 1);
  writeField(ATS_TREQ_RECORD.W, words, request.write === true ? 1 : 0);
  writeField(ATS_TREQ_RECORD.X, words, request.instruction === true ? 1 : 0);
  writeField(ATS_TREQ_RECORD.PRIV, words, request.privileged === true ? 1 : 0);
  writeField(ATS_TREQ_RECORD.Span, words, span);
  return { type: EVENT.F_BAD_ATS_TREQ, words };
}

/** A device's hint that it will access `pages` pages (§7.3.19). */
export interface PageHint {
  readonly streamId: number;
  readonly substreamId?: number | null;
  readonly hi: number;
  readonly lo: number;
  readonly pages: number;
  readonly privileged: { readonly r: boolean; readonly w: boolean; readonly x: boolean };
  readonly unprivileged: { readonly r: boolean; readonly w: boolean; readonly x: boolean };
}

export function pageHintEvent(hint: PageHint): EventRecord {
  const words = start(EVENT.E_PAGE_REQUEST, hint.streamId, hint.substreamId ?? null);
  words[4] = hint.lo & ~0xfff;
  words[5] = hint.hi;
  const { privileged: p, unprivileged: u } = hint;
  const set = [
    [PAGE_REQUEST_RECORD.pR, p.r],
    [PAGE_REQUEST_RECORD.pW, p.w],
    [PAGE_REQUEST_RECORD.pX, p.x],
    [PAGE_REQUEST_RECORD.uR, u.r],
    [PAGE_REQUEST_RECORD.uW, u.w],
    [PAGE_REQUEST_RECORD.uX, u.x],
  ] as const;
  for (const [field, on] of set) writeField(field, words, on ? 1 : 0);
  writeField(PAGE_REQUEST_RECORD.Span, words, hint.pages);
  return { type: EVENT.E_PAGE_REQUEST, words };
}

/** Events whose InputAddr[11:0] do not count when two are compared for merging (§7.3). */
const PAGE_WISE: ReadonlySet<number> = new Set([
  EVENT.F_TRANSL_FORBIDDEN,
  EVENT.F_WALK_EABT,
  EVENT.F_TRANSLATION,
  EVENT.F_ADDR_SIZE,
  EVENT.F_ACCESS,
  EVENT.F_PERMISSION,
  EVENT.F_TLB_CONFLICT,
]);

/** True when two records are one for merging: the same but for what §7.3 leaves out. Stalls never are. */
export function mergeable(a: EventRecord, b: EventRecord): boolean {
  if (a.type !== b.type || (a.words[2]! & EVENT_RECORD.Stall.inPlace) !== 0) return false;
  for (let i = 0; i < EVENT_WORDS; i++) {
    const mask = i === 4 && PAGE_WISE.has(a.type) ? ~0xfff : -1;
    if ((a.words[i]! & mask) !== (b.words[i]! & mask)) return false;
  }
  return true;
}
