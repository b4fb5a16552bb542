import { nameOf } from '../../base/bit-fields.ts';
import { big, hi32, lo32, u64 } from '../../base/u64.ts';
import {
  PRG_RESPONSE_CODE,
  type DmaAbort,
  type DmaAddress,
  type PageResponseMessage,
} from '../../iommu/requests/dma-port.ts';
import { registers32 } from '../bar.ts';
import type { AccessOptions } from '../dma.ts';
import type { Migratable } from '../migration.ts';
import type { DeviceModel, FunctionDescription, PciFunction, TranslationFeatures } from '../function.ts';
import {
  BAR_BYTES,
  COMMAND,
  DMA_ENGINE_DEVICE,
  DMA_ENGINE_VENDOR,
  DMA_ENGINE_VERSION,
  ERROR,
  FLAG,
  LENGTH_MAX,
  PBA_OFFSET,
  PERMISSION,
  PERMISSION_SIZE_SHIFT,
  REGISTER,
  REGISTER_BYTES,
  STATUS,
  TABLE_OFFSET,
  VECTORS,
} from './registers.ts';

const ALL_FEATURES: TranslationFeatures = {
  ats: {},
  pri: 32,
  pasid: { width: 20, execute: true, privileged: true },
};
const CHUNK = 64 << 10;
/** How often one page is asked for before the engine gives up. */
const PAGE_REQUESTS_MAX = 8;
const PRG_INDEX_MASK = 0x1ff;
const READ_ONLY: ReadonlySet<number> = new Set([
  REGISTER.ID,
  REGISTER.STATUS,
  REGISTER.ERROR,
  REGISTER.DONE,
  REGISTER.RESULT,
  REGISTER.TRANSLATED,
  REGISTER.TRANSLATED + 4,
  REGISTER.PERMISSIONS,
  REGISTER.RESPONSE,
]);

/** A request that was refused at an address, or waits there for software. */
interface Refused {
  readonly error: number;
  readonly at: DmaAddress;
  readonly write: boolean;
  readonly stopped: DmaAbort;
}

/** What it saves: the registers, and whether a command goes on. */
const SAVED_WORDS = REGISTER_BYTES / 4 + 1;

/**
 * Copies, fills and adds up memory on demand, with PASIDs, ATS and PRI. A command has ended when the store that started it
 * returns, unless it waits for a page, goes on in the background, or the function is paused.
 */
export class DmaEngine implements DeviceModel {
  readonly description: FunctionDescription;
  readonly migration: Migratable = {
    save: () => this.#save(),
    restore: (state) => this.#restore(state),
  };
  readonly #registers = new Uint32Array(REGISTER_BYTES / 4);
  #pci!: PciFunction;
  /** The group of the page request that the command waits for, or null. */
  #group: number | null = null;
  /** The command's access that the IOMMU keeps, and whether it may go on; null before software has said so. */
  #stalled: { readonly error: number; readonly resumed: boolean | null } | null = null;
  #nextGroup = 0;
  #running = false;
  /** A command is to be gone on with when the device is polled. */
  #pending = false;
  /** An answer that came while the request was being sent: it is looked at when the device is polled. */
  #answer: PageResponseMessage | null = null;
  #asked = { page: -1n, times: 0 };

  constructor(features: TranslationFeatures = ALL_FEATURES) {
    const handler = registers32({
      read32: (offset) => this.#registers[offset / 4] ?? 0,
      write32: (offset, value) => this.#write(offset, value),
    });
    this.description = {
      identity: { vendor: DMA_ENGINE_VENDOR, device: DMA_ENGINE_DEVICE, revision: 1, classCode: 0x088000 },
      bars: [{ index: 0, size: BAR_BYTES, kind: 'memory64', handler }],
      msix: { vectors: VECTORS, bar: 0, table: TABLE_OFFSET, pba: PBA_OFFSET },
      ...features,
    };
  }

  connect(pci: PciFunction): void {
    this.#pci = pci;
  }

  reset(): void {
    this.#registers.fill(0);
    this.#set(REGISTER.ID, DMA_ENGINE_VERSION);
    this.#group = null;
    this.#stalled = null;
    this.#answer = null;
    this.#nextGroup = 0;
    this.#pending = false;
  }

  // ---- migration ----

  /** A page that the command waits for is asked for again by who goes on with it. */
  #save(): Uint8Array {
    const bytes = new Uint8Array(SAVED_WORDS * 4);
    const view = new DataView(bytes.buffer);
    for (const [word, value] of this.#registers.entries()) view.setUint32(word * 4, value, true);
    view.setUint32(REGISTER_BYTES, this.#engaged ? 1 : 0, true);
    return bytes;
  }

  #restore(state: Uint8Array): boolean {
    if (state.length !== SAVED_WORDS * 4) return false;
    const view = new DataView(state.buffer, state.byteOffset, state.length);
    const pending = view.getUint32(REGISTER_BYTES, true);
    if (view.getUint32(REGISTER.ID, true) !== DMA_ENGINE_VERSION || pending > 1) return false;
    this.reset();
    for (const word of this.#registers.keys()) this.#registers[word] = view.getUint32(word * 4, true);
    if (pending === 1) this.#later();
    return true;
  }

  // ---- registers ----

  #get(offset: number): number {
    return this.#registers[offset / 4]!;
  }

  #set(offset: number, value: number): void {
    this.#registers[offset / 4] = value;
  }

  /** The command waits for a page: for an answer to a page request, or at the IOMMU. */
  get #waiting(): boolean {
    return this.#group !== null || this.#stalled !== null;
  }

  #flag(flag: number): boolean {
    return (this.#get(REGISTER.FLAGS) & flag) !== 0;
  }

  /** What it stores to itself while it copies is lost. */
  #write(offset: number, value: number): void {
    if (offset >= REGISTER_BYTES || READ_ONLY.has(offset) || this.#running) return;
    if (offset === REGISTER.SIGNAL) this.#pci.signal(value);
    else if (!this.#engaged) this.#set(offset, value);
    if (offset === REGISTER.COMMAND) this.#start(value);
  }

  /** A command has not ended. */
  get #engaged(): boolean {
    return this.#waiting || this.#pending;
  }

  /** While a command has not ended, registers stay as they are and ABORT is the one command. */
  #start(command: number): void {
    if (this.#engaged) {
      if (command === COMMAND.ABORT) this.#end(ERROR.ABORTED);
      return;
    }
    for (const register of [REGISTER.DONE, REGISTER.RESULT, REGISTER.PERMISSIONS, REGISTER.RESPONSE])
      this.#set(register, 0);
    this.#asked = { page: -1n, times: 0 };
    if (this.#flag(FLAG.BACKGROUND) || this.#pci.paused) this.#later();
    else this.#run();
  }

  /** The command goes on when the device is polled. */
  #later(): void {
    this.#pending = true;
    this.#set(REGISTER.STATUS, STATUS.RUNNING);
    this.#pci.wake();
  }

  #end(error: number): void {
    this.#group = null;
    this.#stalled = null;
    this.#pending = false;
    this.#set(REGISTER.ERROR, error);
    this.#set(REGISTER.STATUS, error === ERROR.NONE ? STATUS.DONE : STATUS.ERROR);
    if (this.#pci.traced) this.#trace(error);
    if (this.#flag(FLAG.INTERRUPT)) this.#pci.signal(this.#get(REGISTER.VECTOR));
  }

  #trace(error: number): void {
    const command = nameOf(COMMAND, this.#get(REGISTER.COMMAND));
    this.#pci.emit('dma-engine', { command, done: this.#get(REGISTER.DONE), error: nameOf(ERROR, error) });
  }

  #run(): void {
    this.#running = true;
    this.#execute();
    this.#running = false;
  }

  #execute(): void {
    switch (this.#get(REGISTER.COMMAND)) {
      case COMMAND.COPY:
      case COMMAND.FILL:
      case COMMAND.CHECKSUM:
        this.#move(this.#get(REGISTER.COMMAND));
        break;
      case COMMAND.TRANSLATE:
        this.#end(this.#translate());
        break;
      case COMMAND.REQUEST_PAGE:
        this.#requestPage(this.#source(0), this.#flag(FLAG.WRITE));
        break;
      default:
        this.#end(ERROR.COMMAND);
    }
  }

  /** Goes on from DONE; asks for a page that is not there. In the background, a part at a time. */
  #move(command: number): void {
    const length = this.#get(REGISTER.LENGTH);
    if (length > LENGTH_MAX) {
      this.#end(ERROR.LENGTH);
      return;
    }
    const buffer = new Uint8Array(Math.min(length, CHUNK));
    if (command === COMMAND.FILL) buffer.fill(this.#get(REGISTER.PATTERN));
    for (let done = this.#get(REGISTER.DONE); done < length;) {
      const part = buffer.subarray(0, Math.min(buffer.length, length - done));
      const refused = this.#part(command, part, done);
      done = this.#get(REGISTER.DONE);
      if (refused !== null) {
        this.#refused(refused);
        return;
      }
      if (this.#flag(FLAG.BACKGROUND) && done < length) {
        this.#later();
        return;
      }
    }
    this.#end(ERROR.NONE);
  }

  /** Moves a part; DONE counts what has come to its end. */
  #part(command: number, part: Uint8Array, done: number): Refused | null {
    const { dma } = this.#pci;
    let ready = part;
    let refused: Refused | null = null;
    if (command !== COMMAND.FILL) {
      const from = this.#source(done);
      const stopped = dma.read(from.address, part, this.#options(from));
      if (stopped !== null) {
        const address = BigInt.asUintN(64, from.address + big(stopped.done));
        refused = { error: ERROR.READ, at: { ...from, address }, write: false, stopped };
        ready = part.subarray(0, stopped.done);
      }
    }
    if (command === COMMAND.CHECKSUM) {
      for (const byte of ready) this.#registers[REGISTER.RESULT / 4]! += byte;
      this.#set(REGISTER.DONE, done + ready.length);
      return refused;
    }
    const to = this.#destination(done);
    const stopped = ready.length === 0 ? null : dma.write(to.address, ready, this.#options(to));
    this.#set(REGISTER.DONE, done + (stopped?.done ?? ready.length));
    if (stopped === null) return refused;
    const address = BigInt.asUintN(64, to.address + big(stopped.done));
    return { error: ERROR.WRITE, at: { ...to, address }, write: true, stopped };
  }

  #refused({ error, at, write, stopped }: Refused): void {
    if (stopped.onResumed !== undefined) {
      this.#stall(stopped.onResumed, error);
      return;
    }
    if (!this.#flag(FLAG.PAGE_REQUESTS)) {
      this.#end(error);
      return;
    }
    const page = at.address >> 12n;
    this.#asked = { page, times: page === this.#asked.page ? this.#asked.times + 1 : 1 };
    if (this.#asked.times > PAGE_REQUESTS_MAX) this.#end(error);
    else this.#requestPage(at, write);
  }

  /** The IOMMU keeps the request until software has seen to it; the command goes on from DONE. */
  #stall(onResumed: NonNullable<DmaAbort['onResumed']>, error: number): void {
    this.#set(REGISTER.STATUS, STATUS.WAITING);
    const stall = { error, resumed: null };
    this.#stalled = stall;
    onResumed((goesOn) => {
      // Not of a command that ABORT or a reset has ended.
      if (this.#stalled !== stall) return;
      this.#stalled = { error, resumed: goesOn };
      if (this.#running || this.#pci.paused) this.#pci.wake();
      else this.#endStall();
    });
  }

  #requestPage(at: DmaAddress, write: boolean): void {
    const prgIndex = this.#nextGroup;
    this.#nextGroup = (this.#nextGroup + 1) & PRG_INDEX_MASK;
    this.#group = prgIndex;
    this.#set(REGISTER.STATUS, STATUS.WAITING);
    const sent = this.#pci.dma.requestPage({ ...at, prgIndex, read: !write, write, last: true });
    if (!sent) this.#end(ERROR.PAGE_REQUEST);
  }

  poll(): boolean {
    this.#endStall();
    const answer = this.#answer;
    this.#answer = null;
    if (answer !== null) this.pageResponse(answer);
    else if (this.#pending) {
      this.#pending = false;
      this.#run();
    }
    return this.#answer !== null || this.#pending;
  }

  #endStall(): void {
    const stall = this.#stalled;
    if (stall === null || stall.resumed === null) return;
    this.#stalled = null;
    if (stall.resumed) this.#run();
    else this.#end(stall.error);
  }

  pageResponse(response: PageResponseMessage): void {
    const { prgIndex, code } = response;
    if (prgIndex !== this.#group) return;
    if (this.#running || this.#pci.paused) {
      this.#answer = response;
      this.#pci.wake();
      return;
    }
    this.#group = null;
    this.#set(REGISTER.RESPONSE, code);
    if (code !== PRG_RESPONSE_CODE.SUCCESS) this.#end(ERROR.PAGE_RESPONSE);
    else if (this.#get(REGISTER.COMMAND) === COMMAND.REQUEST_PAGE) this.#end(ERROR.NONE);
    else this.#run();
  }

  /** An ATS Translation Request, past the cache. */
  #translate(): number {
    const write = this.#flag(FLAG.WRITE);
    const completion = this.#pci.dma.requestTranslation({ ...this.#source(0), write });
    const [entry] = completion.entries;
    if (entry === undefined) return ERROR.TRANSLATION;
    const translated = big(entry.translated);
    this.#set(REGISTER.TRANSLATED, lo32(translated));
    this.#set(REGISTER.TRANSLATED + 4, hi32(translated));
    const permissions =
      (entry.read ? PERMISSION.READ : 0) |
      (entry.write ? PERMISSION.WRITE : 0) |
      (entry.execute ? PERMISSION.EXECUTE : 0) |
      (entry.untranslatedOnly === true ? PERMISSION.UNTRANSLATED_ONLY : 0);
    this.#set(REGISTER.PERMISSIONS, permissions | (entry.sizeBits << PERMISSION_SIZE_SHIFT));
    return ERROR.NONE;
  }

  #source(done: number): DmaAddress {
    return this.#address(REGISTER.SOURCE, done, FLAG.SOURCE_PASID, this.#flag(FLAG.EXECUTE));
  }

  #destination(done: number): DmaAddress {
    return this.#address(REGISTER.DESTINATION, done, FLAG.DESTINATION_PASID, false);
  }

  #address(register: number, done: number, pasidFlag: number, execute: boolean): DmaAddress {
    const base = u64(this.#get(register + 4), this.#get(register));
    return {
      address: BigInt.asUintN(64, base + big(done)),
      pasid: this.#flag(pasidFlag) ? this.#get(REGISTER.PASID) : null,
      privileged: this.#flag(FLAG.PRIVILEGED),
      execute,
    };
  }

  #options({ pasid, privileged, execute }: DmaAddress): AccessOptions {
    const by = { privileged: privileged === true, execute: execute === true };
    return { pasid, ...by, untranslated: this.#flag(FLAG.UNTRANSLATED) };
  }
}
