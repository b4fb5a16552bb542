// The page request queue (§7.4.1, §7.5, §11.4.11).

import { encode } from '../../../../base/bit-fields.ts';
import type { PhysicalMemory } from '../../../../memory/physical.ts';
import type { Trace } from '../../../../trace/trace.ts';
import { PAGE_REQ_BYTES, PAGE_REQ_DSC, PAGE_REQ_TYPE } from '../../spec/faults.ts';
import { OFFSET, PQA, PRS } from '../../spec/registers.ts';
import type { Interrupts } from '../registers/interrupts.ts';
import type { RegisterFile } from '../registers/registers.ts';

/** A PCIe Page Request Message. Without a PASID, `execute` and `privileged` are false. */
export interface PageRequest {
  readonly requesterId: number;
  readonly pasid: number | null;
  /** The page address, as two u32; bits 11:0 are ignored. */
  readonly hi: number;
  readonly lo: number;
  readonly prgIndex: number;
  readonly read: boolean;
  readonly write: boolean;
  readonly execute: boolean;
  readonly privileged: boolean;
  /** Last Page in Group: a response is required. */
  readonly last: boolean;
}

export class PageRequestQueue {
  readonly #memory: PhysicalMemory;
  readonly #registers: RegisterFile;
  readonly #interrupts: Interrupts;
  readonly #trace: Trace | null;

  constructor(memory: PhysicalMemory, registers: RegisterFile, interrupts: Interrupts, trace: Trace | null) {
    this.#memory = memory;
    this.#registers = registers;
    this.#interrupts = interrupts;
    this.#trace = trace;
  }

  /** True while an overflow has not been cleared: requests are dropped. */
  get overflowed(): boolean {
    return (this.#registers.get(OFFSET.PRS) & PRS.PRO.inPlace) !== 0;
  }

  /** Bytes of the queue. */
  get #bytes(): number {
    return 4096 << (this.#registers.get(OFFSET.PQA) & PQA.PQS.inPlace);
  }

  /** One entry stays empty (§7.4.1). */
  get full(): boolean {
    const bytes = this.#bytes;
    const head = this.#registers.get(OFFSET.PQH) & (bytes - 1);
    const tail = this.#registers.get(OFFSET.PQT) & (bytes - 1);
    return ((tail + PAGE_REQ_BYTES) & (bytes - 1)) === head;
  }

  overflow(): void {
    this.#status(PRS.PRO.inPlace);
  }

  /** Writes a descriptor where there is room. False where memory refuses it. */
  write(request: PageRequest): boolean {
    const withPasid = request.pasid !== null;
    const words = encode(PAGE_REQ_DSC, {
      Type: PAGE_REQ_TYPE,
      PP: withPasid,
      RID: request.requesterId,
      PASID: request.pasid ?? 0,
      EXR: withPasid && request.execute,
      PMR: withPasid && request.privileged,
      RDR: request.read,
      WRR: request.write,
      LPIG: request.last,
      PRGI: request.prgIndex,
    });
    words[2]! |= request.lo & ~0xfff;
    words[3] = request.hi;
    if (this.#trace !== null && this.#trace.active)
      this.#trace.emit({ kind: 'page-request', unit: 'vtd', ...request });
    const bytes = this.#bytes;
    const tail = this.#registers.get(OFFSET.PQT) & (bytes - 1);
    const address = this.#registers.getAddress(OFFSET.PQA, 12) + tail;
    for (let word = 0; word < words.length; word += 2) {
      if (!this.#memory.store64(address + word * 4, words[word]! >>> 0, words[word + 1]!)) return false;
    }
    this.#registers.set(OFFSET.PQT, (tail + PAGE_REQ_BYTES) & (bytes - 1));
    this.#status(PRS.PPR.inPlace);
    return true;
  }

  /** Sets a status; it is an interrupt condition where none was set (§7.5). */
  #status(bit: number): void {
    const before = this.#registers.get(OFFSET.PRS);
    this.#registers.set(OFFSET.PRS, before | bit);
    if (before === 0) this.#interrupts.raise('page-request');
  }

  /** Software wrote PRS. */
  serviced(): void {
    if (this.#registers.get(OFFSET.PRS) === 0) this.#interrupts.serviced('page-request');
  }
}
