import { nameOf } from '../../base/bit-fields.ts';
import { big, u64 } from '../../base/u64.ts';
import { BarMemory } from '../bar-memory.ts';
import type { BarHandler } from '../bar.ts';
import type { DeviceModel, FunctionDescription, PciFunction, TranslationFeatures } from '../function.ts';
import { AdminCommands } from './admin.ts';
import type { BlockBackend } from './block.ts';
import { SUCCESS, type Command, type Outcome } from './command.ts';
import type { DiskIdentity } from './identify.ts';
import { IoCommands } from './io.ts';
import { COMMANDS_A_POLL, COMPLETIONS_A_WRITE, IO_QUEUES, MPS_MAX, QUEUE_ENTRIES_MAX } from './limits.ts';
import { CompletionQueue, SubmissionQueue } from './queues.ts';
import {
  ADMIN,
  CC_AMS_SHIFT,
  CC_CSS_SHIFT,
  CC_EN,
  CC_MPS_SHIFT,
  CC_SHN_SHIFT,
  CSTS_CFS,
  CSTS_RDY,
  CSTS_SHST_COMPLETE,
  DOORBELLS,
  EVENT_ERROR,
  EVENT_INVALID_DOORBELL,
  EVENT_INVALID_DOORBELL_VALUE,
  LOG,
  FUSE_MASK,
  IO,
  NVME_CLASS_CODE,
  NVME_DEVICE,
  NVME_VENDOR,
  NVME_VERSION,
  REG,
  REGISTER_BYTES,
  SC,
  SC_DNR,
} from './spec.ts';

const BAR_BYTES = 16 << 10;
const MSIX_BAR = 4;
const DOORBELL_WORDS = 2 * (IO_QUEUES + 1);
/** CAP: MQES, CQR, TO of 10 s, the NVM command set, MPSMAX. */
const CAP_LOW = (QUEUE_ENTRIES_MAX - 1) | (1 << 16) | (20 << 24);
const CAP_HIGH = (1 << 5) | (MPS_MAX << 20);
const CC_WRITABLE = 0x00ff_fff1;
const NOTHING: BarHandler = { read: () => 0n, write: () => {} };

/**
 * An NVMe controller with one namespace: NVM Express 1.4 over PCIe. BAR 0 is memory that programs map; the controller
 * compares its registers and doorbells with what it last knew whenever something is stored through the BAR, and when it is
 * polled.
 */
export class NvmeController implements DeviceModel {
  readonly description: FunctionDescription;
  readonly #memory = new BarMemory(BAR_BYTES);
  readonly #disk: BlockBackend;
  readonly #identity: DiskIdentity;
  #pci!: PciFunction;
  #admin!: AdminCommands;
  #io!: IoCommands;
  /** Registers as the controller has them, and doorbells as it last saw them. */
  readonly #registers = new Uint32Array(REGISTER_BYTES / 4);
  readonly #doorbells = new Uint32Array(DOORBELL_WORDS);
  #interruptMask = 0;
  readonly submissions: (SubmissionQueue | null)[] = [];
  readonly completions: (CompletionQueue | null)[] = [];
  /** The submission queue that is served next. */
  #turn = 0;
  #busy = false;
  /** Whether the last look found a doorbell rung. */
  #rung = false;

  constructor(disk: BlockBackend, identity: DiskIdentity, features: TranslationFeatures = {}) {
    this.#disk = disk;
    this.#identity = identity;
    const stored = (): void => {
      if (this.#goOn()) this.#pci.wake();
    };
    const registers = {
      kind: 'memory64',
      memory: this.#memory,
      handler: this.#memory.handler(stored),
    } as const;
    this.description = {
      identity: {
        vendor: NVME_VENDOR,
        device: NVME_DEVICE,
        revision: 1,
        classCode: NVME_CLASS_CODE,
        subsystemVendor: NVME_VENDOR,
        subsystem: NVME_DEVICE,
      },
      bars: [
        { index: 0, size: BAR_BYTES, ...registers },
        { index: MSIX_BAR, size: 0x1000, kind: 'memory32', handler: NOTHING },
      ],
      msix: { vectors: IO_QUEUES + 1, bar: MSIX_BAR, table: 0, pba: 0x800 },
      intx: true,
      ...features,
    };
  }

  connect(pci: PciFunction): void {
    this.#pci = pci;
    this.#admin = new AdminCommands(pci.dma, this, this.#disk, this.#identity);
    this.#io = new IoCommands(pci.dma, this.#disk, this.#admin.logs.traffic);
  }

  reset(): void {
    this.#registers.fill(0);
    this.#registers[REG.CAP / 4] = CAP_LOW >>> 0;
    this.#registers[REG.CAP / 4 + 1] = CAP_HIGH;
    this.#registers[REG.VS / 4] = NVME_VERSION;
    this.#stop();
    this.#publish();
  }

  // ---- for the admin commands ----

  /** CC.MPS in bytes. */
  get page(): number {
    return 4096 << ((this.#get(REG.CC) >>> CC_MPS_SHIFT) & 0xf);
  }

  /** CC.IOSQES or CC.IOCQES: log2 of the bytes of an entry. */
  entryLog2(shift: number): number {
    return (this.#get(REG.CC) >>> shift) & 0xf;
  }

  get vectors(): number {
    return this.#pci.msix!.enabled ? IO_QUEUES + 1 : 1;
  }

  // ---- registers ----

  #get(offset: number): number {
    return this.#registers[offset / 4]!;
  }

  #set(offset: number, value: number): void {
    this.#registers[offset / 4] = value;
  }

  /** Puts the registers where programs see them. */
  #publish(): void {
    // DEVIATION: INTMC reads as 0, not as the mask (§3.1.4), or a store of the mask itself could not be seen.
    for (const [word, value] of this.#registers.entries())
      this.#memory.set32(word * 4, word * 4 === REG.INTMS ? this.#interruptMask : value);
  }

  get #failed(): boolean {
    return (this.#get(REG.CSTS) & CSTS_CFS) !== 0;
  }

  get #ready(): boolean {
    return (this.#get(REG.CSTS) & CSTS_RDY) !== 0 && !this.#failed;
  }

  /** §3.1.6 CFS: nothing more happens until the host resets the controller. */
  #fail(): void {
    this.#pci.emit('nvme', { fatal: true });
    this.#set(REG.CSTS, this.#get(REG.CSTS) | CSTS_CFS);
    this.#memory.set32(REG.CSTS, this.#get(REG.CSTS));
  }

  poll(): boolean {
    const more = this.#goOn();
    // Who rang is likely to ring again soon: a driver waits for what it has asked.
    return more || this.#rung;
  }

  /** True while commands wait. */
  #goOn(): boolean {
    if (this.#busy) return false;
    this.#busy = true;
    this.#noticeRegisters();
    this.#rung = this.#ready && this.#noticeDoorbells();
    const more = this.#work();
    this.#showPin();
    this.#busy = false;
    return more;
  }

  /**
   * Takes over what was stored into registers; what may not be changed is put back. No other word is written: a program
   * may store there meanwhile.
   */
  #noticeRegisters(): void {
    const bytes = new Uint8Array(REGISTER_BYTES);
    this.#memory.read(0, bytes);
    const view = new DataView(bytes.buffer);
    for (const [word, known] of this.#registers.entries()) {
      const offset = word * 4;
      if (offset === REG.INTMS || offset === REG.INTMC || offset === REG.CC) continue;
      const stored = view.getUint32(offset, true);
      if (stored === known) continue;
      // The admin queues are set up while the controller is disabled (§3.1.7).
      if (offset >= REG.AQA && (this.#get(REG.CC) & CC_EN) === 0) this.#set(offset, stored);
      else this.#memory.set32(offset, known);
    }
    this.#noticeMask(view.getUint32(REG.INTMS, true), view.getUint32(REG.INTMC, true));
    const cc = view.getUint32(REG.CC, true);
    if (cc === this.#get(REG.CC)) return;
    const status = this.#get(REG.CSTS);
    this.#configure(cc & CC_WRITABLE);
    if (this.#get(REG.CC) !== cc) this.#memory.set32(REG.CC, this.#get(REG.CC));
    if (this.#get(REG.CSTS) !== status) this.#memory.set32(REG.CSTS, this.#get(REG.CSTS));
  }

  /** INTMS shows the mask, INTMC is 0, until something is stored there. */
  #noticeMask(set: number, clear: number): void {
    const before = this.#interruptMask;
    if (set !== before) this.#interruptMask |= set;
    this.#interruptMask = (this.#interruptMask & ~clear) >>> 0;
    if (this.#interruptMask !== set) this.#memory.set32(REG.INTMS, this.#interruptMask);
    if (clear !== 0) this.#memory.set32(REG.INTMC, 0);
  }

  #configure(value: number): void {
    const before = this.#get(REG.CC);
    this.#set(REG.CC, value);
    if ((before & CC_EN) === 0 && (value & CC_EN) !== 0) this.#start();
    else if ((before & CC_EN) !== 0 && (value & CC_EN) === 0) this.#stop();
    const shutdown = (value >>> CC_SHN_SHIFT) & 3;
    const wasShutdown = (before >>> CC_SHN_SHIFT) & 3;
    if (shutdown !== 0 && wasShutdown === 0) {
      this.#disk.flush();
      this.#set(REG.CSTS, this.#get(REG.CSTS) | CSTS_SHST_COMPLETE);
    } else if (shutdown === 0) this.#set(REG.CSTS, this.#get(REG.CSTS) & ~CSTS_SHST_COMPLETE);
  }

  /** CC.EN from 0 to 1, §7.6.1. */
  #start(): void {
    const cc = this.#get(REG.CC);
    const aqa = this.#get(REG.AQA);
    const asq = u64(this.#get(REG.ASQ + 4), this.#get(REG.ASQ));
    const acq = u64(this.#get(REG.ACQ + 4), this.#get(REG.ACQ));
    const submissions = (aqa & 0xfff) + 1;
    const completions = ((aqa >>> 16) & 0xfff) + 1;
    const wrong =
      ((cc >>> CC_MPS_SHIFT) & 0xf) > MPS_MAX ||
      ((cc >>> CC_CSS_SHIFT) & 7) !== 0 ||
      ((cc >>> CC_AMS_SHIFT) & 7) !== 0 ||
      submissions < 2 ||
      completions < 2 ||
      asq % big(this.page) !== 0n ||
      acq % big(this.page) !== 0n;
    if (wrong) {
      this.#fail();
      return;
    }
    const { dma } = this.#pci;
    const queue = new CompletionQueue(dma, 0, acq, completions, { vector: 0, enabled: true });
    queue.users = 1;
    this.completions[0] = queue;
    this.submissions[0] = new SubmissionQueue(dma, 0, asq, submissions, queue);
    this.#clearDoorbells();
    this.#set(REG.CSTS, CSTS_RDY);
  }

  /** A controller reset, §7.3.2: queues are gone, and all that commands set. */
  #stop(): void {
    this.#set(REG.CSTS, 0);
    this.#interruptMask = 0;
    this.#memory.set32(REG.INTMS, 0);
    this.submissions.length = 0;
    this.completions.length = 0;
    for (let id = 0; id <= IO_QUEUES; id++) {
      this.submissions.push(null);
      this.completions.push(null);
    }
    this.#turn = 0;
    this.#admin.reset();
    this.#clearDoorbells();
    this.#pci.setIntx(false);
  }

  #clearDoorbells(): void {
    this.#doorbells.fill(0);
    this.#memory.write(DOORBELLS, new Uint8Array(this.#doorbells.buffer));
  }

  /** A queue was made or deleted: its doorbells start at 0. */
  clearDoorbell(index: number): void {
    this.#doorbells[index] = 0;
    this.#memory.set32(DOORBELLS + index * 4, 0);
  }

  #noticeDoorbells(): boolean {
    let rung = false;
    const bytes = new Uint8Array(this.#doorbells.byteLength);
    this.#memory.read(DOORBELLS, bytes);
    const view = new DataView(bytes.buffer);
    for (let index = 0; index < DOORBELL_WORDS; index++) {
      const value = view.getUint32(index * 4, true);
      if (value === this.#doorbells[index]) continue;
      this.#doorbells[index] = value;
      rung = true;
      const id = index >>> 1;
      const queue = index % 2 === 0 ? this.submissions[id] : this.completions[id];
      if (queue === null || queue === undefined)
        this.#admin.events.report(EVENT_ERROR, EVENT_INVALID_DOORBELL, LOG.ERROR);
      else {
        const right = queue instanceof SubmissionQueue ? queue.setTail(value) : queue.setHead(value);
        if (!right) this.#admin.events.report(EVENT_ERROR, EVENT_INVALID_DOORBELL_VALUE, LOG.ERROR);
      }
    }
    return rung;
  }

  // ---- commands ----

  /** Executes up to {@link COMMANDS_A_POLL} commands, the queues by turns. True where more wait. */
  #work(): boolean {
    for (let done = 0; done < COMMANDS_A_POLL && this.#ready; done++) {
      const queue = this.#next();
      if (queue === null) break;
      this.#one(queue);
    }
    this.#reportEvents();
    this.#showAll();
    return this.#ready && this.#next() !== null;
  }

  #next(): SubmissionQueue | null {
    for (let i = 0; i <= IO_QUEUES; i++) {
      const id = (this.#turn + i) % (IO_QUEUES + 1);
      const queue = this.submissions[id] ?? null;
      if (queue === null || queue.empty || queue.completions.full) continue;
      this.#turn = (id + 1) % (IO_QUEUES + 1);
      return queue;
    }
    return null;
  }

  #one(queue: SubmissionQueue): void {
    const command = queue.fetch();
    if (command === null) {
      this.#fail();
      return;
    }
    // It may delete queues.
    if (queue.id === 0) this.#showAll();
    const outcome = this.#execute(queue, command);
    if (this.#pci.traced) this.#trace(queue, command, outcome);
    if (outcome === null) return;
    if (outcome.status !== SC.SUCCESS) {
      const { cid, nsid } = command;
      const block = queue.id === 0 ? 0n : command.block;
      this.#admin.logs.addError({ queue: queue.id, cid, status: outcome.status, block, nsid });
    }
    this.#complete(queue, command.cid, outcome);
  }

  #trace(queue: SubmissionQueue, { cid, nsid, opcode }: Command, outcome: Outcome | null): void {
    const name = nameOf(queue.id === 0 ? ADMIN : IO, opcode);
    const status = outcome === null ? 'later' : nameOf(SC, outcome.status & ~SC_DNR);
    this.#pci.emit('nvme', { queue: queue.id, command: name, cid, nsid, status });
  }

  /** Null: the command completes later. */
  #execute(queue: SubmissionQueue, command: Command): Outcome | null {
    if ((command.flags & FUSE_MASK) !== 0) return { status: SC.INVALID_FIELD | SC_DNR };
    if (queue.id !== 0) return this.#io.execute(command, this.page);
    if (command.opcode !== ADMIN.ABORT) return this.#admin.execute(command);
    const aborted = this.#admin.abort(command);
    if (aborted === null) return { status: SC.SUCCESS, result: 1 };
    this.#complete(queue, aborted, { status: SC.ABORT_REQUESTED });
    return SUCCESS;
  }

  #complete(queue: SubmissionQueue, cid: number, outcome: Outcome): void {
    const { completions, id, head } = queue;
    if (!completions.post(cid, { id, head }, outcome)) this.#fail();
    else if (completions.fresh === COMPLETIONS_A_WRITE) this.#show(completions);
  }

  /** Shows the host what was completed, and interrupts it. */
  #show(queue: CompletionQueue): void {
    if (!queue.publish()) this.#fail();
    else if (queue.interrupts) this.#pci.signal(queue.vector);
  }

  #showAll(): void {
    for (const queue of this.completions) if (queue !== null && queue.fresh > 0) this.#show(queue);
  }

  #reportEvents(): void {
    const queue = this.submissions[0];
    if (queue === null || queue === undefined) return;
    while (this.#ready && !queue.completions.full) {
      const event = this.#admin.events.next();
      if (event === null) return;
      this.#complete(queue, event.cid, { status: SC.SUCCESS, result: event.result });
    }
  }

  /** Without MSI-X the pin is high while a queue has completions that the host has not taken (§7.5.1). */
  #showPin(): void {
    let level = false;
    for (const queue of this.completions)
      if (queue !== null && queue.interrupts && queue.waiting > 0 && queue.vector < 32)
        level ||= (this.#interruptMask & (1 << queue.vector)) === 0;
    this.#pci.setIntx(level);
  }
}
