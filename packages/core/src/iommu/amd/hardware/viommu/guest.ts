import { readAddress, readField } from '../../../../base/bit-fields.ts';
import type { PhysicalMemory } from '../../../../memory/physical.ts';
import { RING_ENTRY_BYTES, RING_LOG2_MIN, STATUS } from '../../spec/registers.ts';
import {
  GUEST_COMMAND_CONTROL,
  GUEST_EVENT_CONTROL,
  GUEST_ID_MAP,
  GUEST_MISC_CONTROL,
  GUEST_PPR_CONTROL,
  VF_PAGE,
  VFCTRL,
} from '../../spec/viommu.ts';

// What an IOMMU knows of one guest: its registers in the VF control BAR, what its ids stand for, and the page that it
// writes to without anybody's help.

/** A ring at a guest address. */
export interface GuestRing {
  readonly base: number;
  /** 0 where the guest has none, or its length is reserved. */
  readonly bytes: number;
  readonly enabled: boolean;
  readonly interrupt: boolean;
}

const NO_RING: GuestRing = { base: 0, bytes: 0, enabled: false, interrupt: false };

/**
 * A store of the guest's to STATUS must be told from what the hardware put there: bit 31, which the register leaves
 * reserved, is set in every value of the hardware's. A guest that stores it back is not seen.
 */
const STATUS_MARK = 0x8000_0000;
const STATUS_W1C = STATUS.$.fields
  .filter((field) => field.access === 'W1C')
  .reduce((mask, field) => mask | field.inPlace, 0);

/** Ids of the guest, and which of the host's they stand for; -1 for none. */
export class GuestIdMap {
  readonly #host = new Int32Array(0x1_0000).fill(-1);

  /** Takes a store to the map's register. */
  store(words: readonly number[]): void {
    if (readField(GUEST_ID_MAP.Write, words) === 0) return;
    const host = readField(GUEST_ID_MAP.Valid, words) === 0 ? -1 : readField(GUEST_ID_MAP.HostID, words);
    this.#host[readField(GUEST_ID_MAP.GuestID, words)] = host;
  }

  hostOf(guestId: number): number {
    return this.#host[guestId]!;
  }

  /** Every id of the host's that something stands for, once. */
  hosts(): ReadonlySet<number> {
    const found = new Set(this.#host);
    found.delete(-1);
    return found;
  }
}

export class Guest {
  readonly id: number;
  readonly devices = new GuestIdMap();
  readonly domains = new GuestIdMap();
  /** The device id whose host tables translate the guest's addresses. */
  transDeviceId = 0;
  commands = NO_RING;
  events = NO_RING;
  pageRequests = NO_RING;
  readonly #memory: PhysicalMemory;
  readonly #page: number;
  readonly #word = new Uint32Array(2);
  #status = 0;

  /** `page` is the physical address of the guest's page. */
  constructor(memory: PhysicalMemory, id: number, page: number) {
    this.#memory = memory;
    this.id = id;
    this.#page = page;
  }

  /** A store to its registers in the VF control BAR. */
  writeControl(offset: number, lo: number, hi: number): void {
    const words = [lo, hi];
    switch (offset) {
      case VFCTRL.DID_MAP_CONTROL0:
        return this.devices.store(words);
      case VFCTRL.DID_MAP_CONTROL1:
        return this.domains.store(words);
      case VFCTRL.MISC_CONTROL:
        this.transDeviceId = readField(GUEST_MISC_CONTROL.TransDeviceID, words);
        return;
      case VFCTRL.COMMAND_CONTROL:
        return this.#writeCommands(words);
      case VFCTRL.EVENT_CONTROL:
        return this.#writeEvents(words);
      case VFCTRL.PPR_CONTROL:
        return this.#writePageRequests(words);
    }
  }

  #writeCommands(words: readonly number[]): void {
    const of = GUEST_COMMAND_CONTROL;
    const base = readAddress(of.Base, words);
    this.commands = ring(base, readField(of.Len, words), readField(of.CmdBufEn, words), 0);
    this.#restart(this.commands, STATUS.CmdBufRun.inPlace, VF_PAGE.CMD_HEAD, VF_PAGE.CMD_TAIL);
  }

  #writeEvents(words: readonly number[]): void {
    const of = GUEST_EVENT_CONTROL;
    const base = readAddress(of.Base, words);
    const interrupt = readField(of.EventIntEn, words);
    this.events = ring(base, readField(of.Len, words), readField(of.EventLogEn, words), interrupt);
    this.#restart(this.events, STATUS.EventLogRun.inPlace, VF_PAGE.EVT_HEAD, VF_PAGE.EVT_TAIL);
  }

  #writePageRequests(words: readonly number[]): void {
    const of = GUEST_PPR_CONTROL;
    // This register has the base 4 bits higher than the others.
    const base = readField(of.Base, words) * 4096;
    const enabled = readField(of.PPRLogEn, words) & readField(of.PPREn, words);
    this.pageRequests = ring(base, readField(of.Len, words), enabled, readField(of.PprIntEn, words));
    this.#restart(this.pageRequests, STATUS.PprLogRun.inPlace, VF_PAGE.PPR_HEAD, VF_PAGE.PPR_TAIL);
  }

  /** Both pointers are 0 again, and the ring runs where it is enabled. */
  #restart({ enabled, bytes }: GuestRing, run: number, head: number, tail: number): void {
    this.writePointer(head, 0);
    this.writePointer(tail, 0);
    this.setStatus(run, enabled && bytes > 0);
  }

  // ---- the page ----

  /** A pointer of the page: a byte offset in a ring of so many bytes, or -1 where it is none. */
  readPointer(offset: number, bytes: number): number {
    this.#memory.load64(this.#page + offset, this.#word);
    const pointer = this.#word[0]!;
    return pointer % RING_ENTRY_BYTES === 0 && pointer < bytes ? pointer : -1;
  }

  writePointer(offset: number, pointer: number): void {
    this.#memory.store64(this.#page + offset, pointer, 0);
  }

  running(run: number): boolean {
    return (this.#status & run) !== 0;
  }

  setStatus(bits: number, on: boolean): void {
    this.#status = on ? this.#status | bits : this.#status & ~bits;
    this.#memory.store64(this.#page + VF_PAGE.STATUS, (this.#status | STATUS_MARK) >>> 0, 0);
  }

  /** Takes up what the guest stored to STATUS: bits that it clears. */
  serveStatus(): void {
    this.#memory.load64(this.#page + VF_PAGE.STATUS, this.#word);
    const stored = this.#word[0]!;
    if (stored === (this.#status | STATUS_MARK) >>> 0) return;
    this.setStatus(stored & STATUS_W1C, false);
  }
}

function ring(base: number, log2: number, enabled: number, interrupt: number): GuestRing {
  const bytes = log2 < RING_LOG2_MIN ? 0 : 2 ** log2 * RING_ENTRY_BYTES;
  return { base, bytes, enabled: enabled !== 0, interrupt: interrupt !== 0 };
}
