import { assert } from '../../../base/assert.ts';
import { big, hi32, lo32 } from '../../../base/u64.ts';
import { FlatPort } from '../../testing/flat-port.ts';
import { TestSlot } from '../../testing/host-bus.ts';
import { MemoryDisk, type BlockBackend } from '../block.ts';
import { NvmeController } from '../controller.ts';
import { ADMIN, CC_EN, CQE_BYTES, CSTS_RDY, DOORBELLS, REG, SQE, SQE_BYTES } from '../spec.ts';

// What drivers/nvme/host/pci.c does, one command at a time. For tests.

export const MEMORY = 2 << 20;
const PAGE = 4096;
/** IOSQES 6, IOCQES 4. */
const ENTRY_SIZES = (6 << 16) | (4 << 20);
const ENTRIES = 16;

export interface CommandFields {
  readonly opcode: number;
  readonly flags?: number;
  readonly nsid?: number;
  readonly prp1?: number | bigint;
  readonly prp2?: number | bigint;
  /** From CDW10 on. */
  readonly words?: readonly number[];
}

export interface Completion {
  readonly result: number;
  readonly status: number;
  readonly cid: number;
  readonly queue: number;
  readonly dnr: boolean;
}

interface QueuePair {
  readonly submissions: number;
  readonly completions: number;
  readonly entries: number;
  tail: number;
  head: number;
  phase: number;
}

export class NvmeDriver {
  readonly disk: BlockBackend;
  readonly controller: NvmeController;
  readonly slot: TestSlot;
  readonly port = new FlatPort(MEMORY);
  readonly view = new DataView(this.port.bytes.buffer);
  readonly #queues = new Map<number, QueuePair>();
  #next = PAGE;
  #cid = 0;

  constructor(disk: BlockBackend = new MemoryDisk(1 << 20)) {
    this.disk = disk;
    const identity = { serial: 'TEST1', uuid: Uint8Array.from({ length: 16 }, (_, i) => i) };
    this.controller = new NvmeController(disk, identity);
    this.slot = new TestSlot(this.controller);
    this.slot.pci.dma.connect(this.port);
  }

  /** Takes pages of memory; answers the address. */
  allocate(bytes: number): number {
    const at = this.#next;
    this.#next += Math.ceil(bytes / PAGE) * PAGE;
    assert(this.#next <= MEMORY, 'the memory of the test is large enough');
    return at;
  }

  get(register: number): number {
    return this.slot.read(0, register);
  }

  set(register: number, value: number): void {
    this.slot.write(0, register, value >>> 0);
  }

  set64(register: number, value: number): void {
    this.slot.write(0, register, big(value), 8);
  }

  /** nvme_pci_configure_admin_queue() */
  enable(): void {
    this.set(REG.CC, 0);
    assert((this.get(REG.CSTS) & CSTS_RDY) === 0, 'the controller is disabled');
    this.slot.enableMsix();
    const pair = this.#pair(0, ENTRIES);
    this.set(REG.AQA, ((ENTRIES - 1) << 16) | (ENTRIES - 1));
    this.set64(REG.ASQ, pair.submissions);
    this.set64(REG.ACQ, pair.completions);
    this.set(REG.CC, CC_EN | ENTRY_SIZES);
    assert((this.get(REG.CSTS) & CSTS_RDY) !== 0, 'the controller is ready');
  }

  #pair(id: number, entries: number): QueuePair {
    const submissions = this.allocate(entries * SQE_BYTES);
    const completions = this.allocate(entries * CQE_BYTES);
    const pair = { submissions, completions, entries, tail: 0, head: 0, phase: 1 };
    this.#queues.set(id, pair);
    return pair;
  }

  /** nvme_create_queue(): the vector is the queue's number. */
  createQueue(id: number, entries = ENTRIES): void {
    const pair = this.#pair(id, entries);
    const first = ((entries - 1) << 16) | id;
    const cq = this.admin({
      opcode: ADMIN.CREATE_CQ,
      prp1: pair.completions,
      words: [first, (id << 16) | 3],
    });
    const sq = this.admin({
      opcode: ADMIN.CREATE_SQ,
      prp1: pair.submissions,
      words: [first, (id << 16) | 1],
    });
    assert(cq.status === 0 && sq.status === 0, 'the queues are created');
  }

  /** nvme_sq_copy_cmd(); answers the command's id. */
  put(queue: number, fields: CommandFields): number {
    const pair = this.#queues.get(queue)!;
    const at = pair.submissions + pair.tail * SQE_BYTES;
    const cid = this.#cid;
    this.#cid = (this.#cid + 1) & 0xffff;
    this.port.bytes.fill(0, at, at + SQE_BYTES);
    this.view.setUint8(at + SQE.OPCODE, fields.opcode);
    this.view.setUint8(at + SQE.FLAGS, fields.flags ?? 0);
    this.view.setUint16(at + SQE.CID, cid, true);
    this.view.setUint32(at + SQE.NSID, fields.nsid ?? 0, true);
    this.view.setBigUint64(at + SQE.PRP1, BigInt(fields.prp1 ?? 0), true);
    this.view.setBigUint64(at + SQE.PRP2, BigInt(fields.prp2 ?? 0), true);
    for (const [index, word] of (fields.words ?? []).entries())
      this.view.setUint32(at + SQE.CDW10 + index * 4, word >>> 0, true);
    pair.tail = (pair.tail + 1) % pair.entries;
    return cid;
  }

  ring(queue: number): void {
    this.set(DOORBELLS + queue * 8, this.#queues.get(queue)!.tail);
  }

  /** nvme_poll_cq(): the next completion, or null. */
  take(queue: number): Completion | null {
    const pair = this.#queues.get(queue)!;
    const at = pair.completions + pair.head * CQE_BYTES;
    const status = this.view.getUint16(at + 14, true);
    if ((status & 1) !== pair.phase) return null;
    const result = this.view.getUint32(at, true);
    const cid = this.view.getUint16(at + 12, true);
    const of = this.view.getUint16(at + 10, true);
    pair.head = (pair.head + 1) % pair.entries;
    if (pair.head === 0) pair.phase ^= 1;
    return { result, status: (status >>> 1) & 0x7ff, cid, queue: of, dnr: (status & 0x8000) !== 0 };
  }

  /** The completion doorbell. */
  acknowledge(queue: number): void {
    this.set(DOORBELLS + queue * 8 + 4, this.#queues.get(queue)!.head);
  }

  submit(queue: number, fields: CommandFields): Completion {
    const cid = this.put(queue, fields);
    this.ring(queue);
    this.slot.settle();
    const completion = this.take(queue);
    assert(completion !== null && completion.cid === cid, 'the command completes');
    this.acknowledge(queue);
    return completion;
  }

  admin(fields: CommandFields): Completion {
    return this.submit(0, fields);
  }

  /** A command on blocks, on queue 1. */
  io(
    opcode: number,
    block: number | bigint,
    blocks: number,
    fields: Partial<CommandFields> = {},
  ): Completion {
    const start = BigInt(block);
    const words = [lo32(start), hi32(start), blocks - 1];
    return this.submit(1, { opcode, nsid: 1, words, ...fields });
  }
}
