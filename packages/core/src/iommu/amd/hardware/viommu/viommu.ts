// The hardware vIOMMU: guests have command buffers, event logs and PPR logs of their own, at guest addresses and with
// guest ids, which the IOMMU serves by itself. After AMD's public Linux tree, as ../../spec/viommu.ts says. The maps of
// ids, which silicon keeps in memory of its own behind private addresses, are in here; interrupts to guests are not.

import { nameOf } from '../../../../base/bit-fields.ts';
import { hi32, lo32 } from '../../../../base/u64.ts';
import type { PhysicalMemory } from '../../../../memory/physical.ts';
import type { Trace } from '../../../../trace/trace.ts';
import { CMD, CMD_BYTES, CMD_WORDS } from '../../spec/commands.ts';
import { EVENT } from '../../spec/events.ts';
import { CONTROL, RING_ENTRY_BYTES, STATUS } from '../../spec/registers.ts';
import { VF_PAGE, VFCTRL_BYTES } from '../../spec/viommu.ts';
import { ACCESS } from '../translation/access.ts';
import type { DeviceConfig } from '../configuration/device-config.ts';
import { commandErrorEvent, commandEvent } from '../queues/events.ts';
import type { Faults } from '../queues/faults.ts';
import type { RegisterFile } from '../registers/registers.ts';
import type { EventRecord } from '../transaction.ts';
import type { Translator } from '../translation/translator.ts';
import { Guest, type GuestRing } from './guest.ts';
import { GuestCommands, type GuestCommandTarget } from './guest-commands.ts';

export interface ViommuOptions extends Pick<GuestCommandTarget, 'commands' | 'table' | 'iotlb' | 'remapper'> {
  readonly memory: PhysicalMemory;
  readonly registers: RegisterFile;
  readonly translator: Translator;
  readonly faults: Faults;
  readonly trace: Trace | null;
  /** The physical address of a guest's page in the VF BAR. */
  readonly page: (guestId: number) => number;
  /** Commands that one look consumes at most, of each guest. */
  readonly commandsPerStep: number;
}

export class HardwareViommu {
  readonly #options: ViommuOptions;
  readonly #commands: GuestCommands;
  readonly #guests = new Map<number, Guest>();
  readonly #words = new Uint32Array(CMD_WORDS);
  readonly #pair = new Uint32Array(2);

  constructor(options: ViommuOptions) {
    this.#options = options;
    const { memory } = options;
    this.#commands = new GuestCommands({
      ...options,
      resolve: (guest, address, write) => this.#resolve(guest, address, write),
      store64: (pa, lo, hi) => memory.store64(pa, lo, hi),
    });
  }

  reset(): void {
    this.#guests.clear();
  }

  #enabled(): boolean {
    return this.#options.registers.enabled(CONTROL.IommuEn.inPlace) && this.#control(CONTROL.vIommuEn);
  }

  #control(field: typeof CONTROL.vIommuEn): boolean {
    return this.#options.registers.control(field) !== 0;
  }

  /** A store of 8 bytes to the VF control BAR. */
  writeControl(offset: number, value: bigint): void {
    const id = Math.floor(offset / VFCTRL_BYTES);
    let guest = this.#guests.get(id);
    if (guest === undefined) {
      guest = new Guest(this.#options.memory, id, this.#options.page(id));
      this.#guests.set(id, guest);
    }
    guest.writeControl(offset % VFCTRL_BYTES, lo32(value), hi32(value));
  }

  /** A guest's address, by way of the host tables of the device that stands for it. -1 where it has none. */
  #resolve(guest: Guest, address: number, write: boolean): number {
    const { table, translator } = this.#options;
    const device = table.device(guest.transDeviceId);
    if (device === null || !device.config.v || device.config.host === null) return -1;
    const need = write ? ACCESS.WRITE : ACCESS.READ;
    const hi = Math.floor(address / 0x1_0000_0000);
    return translator.translate(device, hi, address >>> 0, need, need, true) ? translator.pa : -1;
  }

  // ---- commands ----

  /** Takes up what guests stored to their pages; true while there is more to do. */
  poll(): boolean {
    if (!this.#enabled()) return false;
    let more = false;
    for (const guest of this.#guests.values()) {
      guest.serveStatus();
      if (this.#control(CONTROL.vCmdEn) && this.#run(guest)) more = true;
    }
    return more;
  }

  #run(guest: Guest): boolean {
    const { bytes } = guest.commands;
    const tail = guest.readPointer(VF_PAGE.CMD_TAIL, bytes);
    let head = guest.readPointer(VF_PAGE.CMD_HEAD, bytes);
    if (tail < 0 || head < 0) return false;
    for (let left = this.#options.commandsPerStep; left > 0; left--) {
      if (head === tail || !guest.running(STATUS.CmdBufRun.inPlace)) return false;
      if (!this.#one(guest, guest.commands.base + head)) return false;
      head = (head + CMD_BYTES) % bytes;
      guest.writePointer(VF_PAGE.CMD_HEAD, head);
    }
    return head !== tail;
  }

  #one(guest: Guest, address: number): boolean {
    const words = this.#words;
    if (!this.#fetch(guest, address, words)) return this.#stop(guest, commandErrorEvent(address));
    const { trace } = this.#options;
    if (trace !== null && trace.active) {
      const name = nameOf(CMD, words[1]! >>> 28);
      trace.emit({ kind: 'command', unit: 'amd-iommu', guest: guest.id, name, words: [...words] });
    }
    switch (this.#commands.execute(guest, words)) {
      case 'done':
        return true;
      case 'illegal':
        return this.#stop(guest, commandEvent(EVENT.ILLEGAL_COMMAND_ERROR, address));
      case 'memory':
        return this.#stop(guest, commandErrorEvent(address));
      case 'unmapped':
        // "If the mapping does not exist, the hardware would generate error in the event log": the host's.
        this.#options.faults.record({ type: EVENT.VIOMMU_HARDWARE_ERROR, words: unmappedRecord(guest.id) });
        return this.#stop(guest, commandEvent(EVENT.ILLEGAL_COMMAND_ERROR, address));
    }
  }

  #fetch(guest: Guest, address: number, words: Uint32Array): boolean {
    const pa = this.#resolve(guest, address, false);
    if (pa < 0) return false;
    for (let i = 0; i < CMD_WORDS; i += 2) {
      if (!this.#options.memory.load64(pa + i * 4, this.#pair)) return false;
      words.set(this.#pair, i);
    }
    return true;
  }

  /** The head stays at the command, and the guest reads why. */
  #stop(guest: Guest, event: EventRecord): false {
    guest.setStatus(STATUS.CmdBufRun.inPlace, false);
    this.#logEvent(guest, event.words);
    return false;
  }

  // ---- logs ----

  /** What a device of a guest ran into on the guest's own account. Null where the host has to hear of it. */
  report(config: DeviceConfig, event: EventRecord): boolean | null {
    const guest = this.#guestOf(config);
    if (guest === null) return null;
    return this.#logEvent(guest, withDevice(event.words, config.guestDeviceId));
  }

  /** A page request of a guest's device; false where the host gets it. */
  requestPage(config: DeviceConfig, record: Uint32Array): boolean {
    const guest = this.#guestOf(config);
    if (guest === null) return false;
    const words = withDevice(record, config.guestDeviceId);
    this.#log(guest, guest.pageRequests, words, {
      run: STATUS.PprLogRun.inPlace,
      overflow: STATUS.PprOverflow.inPlace,
      interrupt: STATUS.PprInt.inPlace,
      head: VF_PAGE.PPR_HEAD,
      tail: VF_PAGE.PPR_TAIL,
    });
    return true;
  }

  #guestOf(config: DeviceConfig): Guest | null {
    return config.viommu && this.#enabled() ? (this.#guests.get(config.guestId) ?? null) : null;
  }

  #logEvent(guest: Guest, words: Uint32Array): boolean {
    return this.#log(guest, guest.events, words, {
      run: STATUS.EventLogRun.inPlace,
      overflow: STATUS.EventOverflow.inPlace,
      interrupt: STATUS.EventLogInt.inPlace,
      head: VF_PAGE.EVT_HEAD,
      tail: VF_PAGE.EVT_TAIL,
    });
  }

  /** As the host's logs: full with one entry free, and stopped by the record that does not fit. */
  #log(guest: Guest, { base, bytes, interrupt }: GuestRing, words: Uint32Array, place: LogPlace): boolean {
    if (!guest.running(place.run)) return false;
    const head = guest.readPointer(place.head, bytes);
    const tail = guest.readPointer(place.tail, bytes);
    if (head < 0 || tail < 0) return false;
    const next = (tail + RING_ENTRY_BYTES) % bytes;
    if (next === head) {
      guest.setStatus(place.run, false);
      guest.setStatus(place.overflow, true);
      return false;
    }
    const pa = this.#resolve(guest, base + tail, true);
    if (pa < 0) return false;
    const { memory } = this.#options;
    if (!memory.store64(pa, words[0]!, words[1]!) || !memory.store64(pa + 8, words[2]!, words[3]!))
      return false;
    guest.writePointer(place.tail, next);
    if (interrupt) guest.setStatus(place.interrupt, true);
    return true;
  }
}

/** Where a guest's log has its pointers and its bits of STATUS. */
interface LogPlace {
  readonly run: number;
  readonly overflow: number;
  readonly interrupt: number;
  readonly head: number;
  readonly tail: number;
}

/** A record under the name that the guest has for the device. */
function withDevice(words: Uint32Array, deviceId: number): Uint32Array {
  const record = words.slice();
  record[0] = ((record[0]! & 0xffff_0000) | deviceId) >>> 0;
  return record;
}

/** VIOMMU_HARDWARE_ERROR with the guest's id in the lowest bits; the layout is not public. */
function unmappedRecord(guestId: number): Uint32Array {
  return Uint32Array.from([guestId, (EVENT.VIOMMU_HARDWARE_ERROR << 28) >>> 0, 0, 0]);
}
