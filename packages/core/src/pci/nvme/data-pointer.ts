import { big, exact } from '../../base/u64.ts';
import type { FunctionDma } from '../dma.ts';
import type { Command } from './command.ts';
import { SGL_DESCRIPTORS_MAX, SGL_SEGMENTS_MAX } from './limits.ts';
import { PSDT_SHIFT, SC, SGL, SGL_BYTES, SQE } from './spec.ts';

// Where a command's data is in memory: PRP lists (§4.3) and SGLs (§4.4).

export interface Segment {
  readonly address: bigint;
  readonly length: number;
}

/** The segments of `bytes` bytes of data, or why there are none. */
export type DataPlaces = readonly Segment[] | number;

const PRP_BYTES = 8;

/** `page`: CC.MPS in bytes. */
export function dataPlaces(dma: FunctionDma, command: Command, bytes: number, page: number): DataPlaces {
  const kind = command.flags >>> PSDT_SHIFT;
  if (kind === 0) return prpPlaces(dma, command.prp1, command.prp2, bytes, page);
  return kind === 1 ? sglPlaces(dma, command.bytes.subarray(SQE.PRP1, SQE.CDW10), bytes) : SC.INVALID_FIELD;
}

/** §4.3: PRP1 may start within a page; what follows are whole pages, PRP2 or a list that PRP2 points to. */
export function prpPlaces(
  dma: FunctionDma,
  prp1: bigint,
  prp2: bigint,
  bytes: number,
  page: number,
): DataPlaces {
  if (bytes === 0) return [];
  if (prp1 % 4n !== 0n) return SC.PRP_INVALID_OFFSET;
  const places = new Places();
  const first = Math.min(bytes, page - exact(prp1 % big(page)));
  places.add(prp1, first);
  let left = bytes - first;
  if (left === 0) return places.list;
  if (left <= page) {
    if (prp2 % big(page) !== 0n) return SC.PRP_INVALID_OFFSET;
    places.add(prp2, left);
    return places.list;
  }
  let list = prp2;
  while (left > 0) {
    if (list % 8n !== 0n) return SC.PRP_INVALID_OFFSET;
    // A list ends with its page; where more is needed its last entry points to the next.
    const room = (page - exact(list % big(page))) / PRP_BYTES;
    const wanted = Math.ceil(left / page);
    const entries = readEntries(dma, list, Math.min(room, wanted));
    if (entries === null) return SC.DATA_TRANSFER_ERROR;
    const chained = wanted > room;
    const own = chained ? room - 1 : wanted;
    for (let i = 0; i < own; i++) {
      const entry = entries.getBigUint64(i * PRP_BYTES, true);
      if (entry % big(page) !== 0n) return SC.PRP_INVALID_OFFSET;
      const length = Math.min(left, page);
      places.add(entry, length);
      left -= length;
    }
    if (chained) {
      list = entries.getBigUint64(own * PRP_BYTES, true);
      // One entry is no list: a chain of such lists has no end.
      if (own === 0 && list % big(page) !== 0n) return SC.PRP_INVALID_OFFSET;
    }
  }
  return places.list;
}

function readEntries(dma: FunctionDma, address: bigint, entries: number): DataView | null {
  const bytes = new Uint8Array(entries * PRP_BYTES);
  return dma.read(address, bytes) === null ? new DataView(bytes.buffer) : null;
}

/** §4.4: `first` is the descriptor in the command. */
function sglPlaces(dma: FunctionDma, first: Uint8Array, bytes: number): DataPlaces {
  const places = new Places();
  let descriptors = new DataView(first.buffer, first.byteOffset, SGL_BYTES);
  let last = true;
  let left = bytes;
  for (let segments = 0; segments <= SGL_SEGMENTS_MAX; segments++) {
    let next: DataView | null = null;
    for (let at = 0; at < descriptors.byteLength; at += SGL_BYTES) {
      const address = descriptors.getBigUint64(at, true);
      const length = descriptors.getUint32(at + 8, true);
      const type = descriptors.getUint8(at + 15);
      if (type === SGL.DATA_BLOCK << 4) {
        const used = Math.min(length, left);
        places.add(address, used);
        left -= used;
        continue;
      }
      // Offsets (subtype 1) and what is neither data nor a segment are not supported.
      if (type !== SGL.SEGMENT << 4 && type !== SGL.LAST_SEGMENT << 4) return SC.SGL_INVALID_TYPE;
      const isEnd = at + SGL_BYTES === descriptors.byteLength;
      if (!isEnd || (segments > 0 && last)) return SC.SGL_INVALID_SEGMENT;
      if (length === 0 || length % SGL_BYTES !== 0) return SC.SGL_INVALID_SEGMENT;
      if (length / SGL_BYTES > SGL_DESCRIPTORS_MAX) return SC.SGL_INVALID_COUNT;
      const into = new Uint8Array(length);
      if (dma.read(address, into) !== null) return SC.DATA_TRANSFER_ERROR;
      next = new DataView(into.buffer);
      last = type === SGL.LAST_SEGMENT << 4;
    }
    if (next === null) return left === 0 ? places.list : SC.SGL_INVALID_LENGTH;
    descriptors = next;
  }
  return SC.SGL_INVALID_COUNT;
}

/** Neighbouring places are one. */
class Places {
  readonly list: Segment[] = [];

  add(address: bigint, length: number): void {
    if (length === 0) return;
    const before = this.list.at(-1);
    if (before !== undefined && before.address + big(before.length) === address)
      this.list[this.list.length - 1] = { address: before.address, length: before.length + length };
    else this.list.push({ address, length });
  }
}

/** Moves data to or from memory: a status. */
export function transfer(
  dma: FunctionDma,
  places: readonly Segment[],
  data: Uint8Array,
  write: boolean,
): number {
  let at = 0;
  for (const { address, length } of places) {
    const part = data.subarray(at, at + length);
    const stopped = write ? dma.write(address, part) : dma.read(address, part);
    if (stopped !== null) return SC.DATA_TRANSFER_ERROR;
    at += length;
  }
  return SC.SUCCESS;
}
