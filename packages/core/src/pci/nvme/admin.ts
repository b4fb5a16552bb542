import { big } from '../../base/u64.ts';
import type { FunctionDma } from '../dma.ts';
import type { BlockBackend } from './block.ts';
import { SUCCESS, type Command, type Outcome } from './command.ts';
import { prpPlaces, transfer } from './data-pointer.ts';
import { AsyncEvents } from './events.ts';
import { Features } from './features.ts';
import { Health } from './health.ts';
import { identifyData, type DiskIdentity } from './identify.ts';
import { IO_QUEUES, QUEUE_ENTRIES_MAX } from './limits.ts';
import { Logs } from './log-pages.ts';
import { CompletionQueue, SubmissionQueue } from './queues.ts';
import {
  ADMIN,
  CC_IOCQES_SHIFT,
  CC_IOSQES_SHIFT,
  IDENTIFY_BYTES,
  PSDT_SHIFT,
  SC,
  SC_DNR,
  SQE,
} from './spec.ts';

/** What admin commands change of the controller. */
export interface QueueOwner {
  readonly page: number;
  readonly vectors: number;
  readonly submissions: (SubmissionQueue | null)[];
  readonly completions: (CompletionQueue | null)[];
  entryLog2(shift: number): number;
  clearDoorbell(index: number): void;
}

/** The largest part of a log page that one command reads. */
const LOG_BYTES_MAX = 512 << 10;
const SQE_LOG2 = 6;
const CQE_LOG2 = 4;

/** The admin command set, §5. */
export class AdminCommands {
  readonly logs = new Logs();
  readonly events = new AsyncEvents();
  readonly #health = new Health(this.events);
  readonly #features = new Features(this.#health);
  readonly #dma: FunctionDma;
  readonly #owner: QueueOwner;
  readonly #disk: BlockBackend;
  readonly #identity: DiskIdentity;

  constructor(dma: FunctionDma, owner: QueueOwner, disk: BlockBackend, identity: DiskIdentity) {
    this.#dma = dma;
    this.#owner = owner;
    this.#disk = disk;
    this.#identity = identity;
  }

  reset(): void {
    this.events.reset();
    this.#health.reset();
    this.#features.reset();
  }

  /** Null: the command completes when something happens. */
  execute(command: Command): Outcome | null {
    // Over PCIe admin commands use PRPs (§4.1.1).
    if (command.flags >>> PSDT_SHIFT !== 0) return refuse(SC.INVALID_FIELD);
    switch (command.opcode) {
      case ADMIN.CREATE_CQ:
        return this.#createCompletions(command);
      case ADMIN.CREATE_SQ:
        return this.#createSubmissions(command);
      case ADMIN.DELETE_SQ:
        return this.#deleteSubmissions(command);
      case ADMIN.DELETE_CQ:
        return this.#deleteCompletions(command);
      case ADMIN.IDENTIFY:
        return this.#identify(command);
      case ADMIN.GET_LOG_PAGE:
        return this.#getLogPage(command);
      case ADMIN.SET_FEATURES:
        return this.#features.set(command);
      case ADMIN.GET_FEATURES:
        return this.#features.get(command);
      case ADMIN.ASYNC_EVENT:
        return this.events.request(command.cid) ? null : refuse(SC.ASYNC_LIMIT);
      default:
        return refuse(SC.INVALID_OPCODE);
    }
  }

  /** Abort: the id of the command that it took back. Only requests for events wait long enough to be found. */
  abort(command: Command): number | null {
    const target = command.word(SQE.CDW10);
    const cid = target >>> 16;
    return (target & 0xffff) === 0 && this.events.abort(cid) ? cid : null;
  }

  #createCompletions(command: Command): Outcome {
    const { id, size, flags, other: vector } = queueFields(command);
    const { completions, page, vectors } = this.#owner;
    if (id === 0 || id > IO_QUEUES || completions[id] !== null) return refuse(SC.QID_INVALID);
    if (size < 2 || size > QUEUE_ENTRIES_MAX) return refuse(SC.QUEUE_SIZE);
    if (this.#owner.entryLog2(CC_IOCQES_SHIFT) !== CQE_LOG2) return refuse(SC.QUEUE_SIZE);
    if ((flags & 1) === 0) return refuse(SC.INVALID_FIELD);
    if (command.prp1 % big(page) !== 0n) return refuse(SC.PRP_INVALID_OFFSET);
    if (vector >= vectors) return refuse(SC.INVALID_VECTOR);
    const interrupt = { vector, enabled: (flags & 2) !== 0 };
    completions[id] = new CompletionQueue(this.#dma, id, command.prp1, size, interrupt);
    this.#owner.clearDoorbell(id * 2 + 1);
    return SUCCESS;
  }

  #createSubmissions(command: Command): Outcome {
    const { id, size, flags, other: completionId } = queueFields(command);
    const { submissions, completions, page } = this.#owner;
    if (id === 0 || id > IO_QUEUES || submissions[id] !== null) return refuse(SC.QID_INVALID);
    const queue = completionId === 0 ? null : (completions[completionId] ?? null);
    if (queue === null) return refuse(SC.CQ_INVALID);
    if (size < 2 || size > QUEUE_ENTRIES_MAX) return refuse(SC.QUEUE_SIZE);
    if (this.#owner.entryLog2(CC_IOSQES_SHIFT) !== SQE_LOG2) return refuse(SC.QUEUE_SIZE);
    if ((flags & 1) === 0) return refuse(SC.INVALID_FIELD);
    if (command.prp1 % big(page) !== 0n) return refuse(SC.PRP_INVALID_OFFSET);
    submissions[id] = new SubmissionQueue(this.#dma, id, command.prp1, size, queue);
    queue.users++;
    this.#owner.clearDoorbell(id * 2);
    return SUCCESS;
  }

  #deleteSubmissions(command: Command): Outcome {
    const id = command.word(SQE.CDW10) & 0xffff;
    const queue = id === 0 ? null : (this.#owner.submissions[id] ?? null);
    if (queue === null) return refuse(SC.QID_INVALID);
    queue.completions.users--;
    this.#owner.submissions[id] = null;
    return SUCCESS;
  }

  #deleteCompletions(command: Command): Outcome {
    const id = command.word(SQE.CDW10) & 0xffff;
    const queue = id === 0 ? null : (this.#owner.completions[id] ?? null);
    if (queue === null) return refuse(SC.QID_INVALID);
    if (queue.users > 0) return refuse(SC.INVALID_QUEUE);
    this.#owner.completions[id] = null;
    return SUCCESS;
  }

  #identify(command: Command): Outcome {
    const cns = command.word(SQE.CDW10) & 0xff;
    const csi = command.word(SQE.CDW11) >>> 24;
    const data = identifyData(cns, command.nsid, csi, this.#disk, this.#identity);
    if (data === null) return refuse(SC.INVALID_FIELD);
    if (data === 'no-namespace') return refuse(SC.INVALID_NAMESPACE);
    return this.#answer(command, data, IDENTIFY_BYTES);
  }

  #getLogPage(command: Command): Outcome {
    const word = command.word(SQE.CDW10);
    const id = word & 0xff;
    // NUMD counts dwords from 0 on, LPO bytes.
    const dwords = (command.word(SQE.CDW11) & 0xffff) * 0x1_0000 + (word >>> 16) + 1;
    const upper = command.word(SQE.CDW13);
    const offset = command.word(SQE.CDW12);
    const page = this.logs.page(id, this.#health);
    if (page === null) return refuse(SC.INVALID_LOG_PAGE);
    if (upper !== 0 || offset % 4 !== 0 || offset > page.length) return refuse(SC.INVALID_FIELD);
    if (dwords * 4 > LOG_BYTES_MAX) return refuse(SC.INVALID_FIELD);
    // RAE clear: events of the page may be reported again.
    if ((word & 0x8000) === 0) this.events.logRead(id);
    const data = new Uint8Array(dwords * 4);
    data.set(page.subarray(offset, offset + data.length));
    return this.#answer(command, data, data.length);
  }

  #answer(command: Command, data: Uint8Array, bytes: number): Outcome {
    const places = prpPlaces(this.#dma, command.prp1, command.prp2, bytes, this.#owner.page);
    if (typeof places === 'number') return refuse(places);
    return { status: transfer(this.#dma, places, data, true) };
  }
}

/** CDW10 and CDW11 of Create I/O Queue. */
function queueFields(command: Command): { id: number; size: number; flags: number; other: number } {
  const first = command.word(SQE.CDW10);
  const second = command.word(SQE.CDW11);
  return { id: first & 0xffff, size: (first >>> 16) + 1, flags: second & 0xffff, other: second >>> 16 };
}

function refuse(status: number): Outcome {
  return { status: status | SC_DNR };
}
