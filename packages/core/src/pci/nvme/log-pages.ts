import type { Health } from './health.ts';
import { ERROR_ENTRIES } from './limits.ts';
import { ADMIN, IO, LOG } from './spec.ts';

// Log pages, §5.14.1.

const ERROR_ENTRY_BYTES = 64;
const FAILED_MAX = 2 ** 31;

export interface FailedCommand {
  readonly queue: number;
  readonly cid: number;
  /** As SC has it. */
  readonly status: number;
  readonly block: bigint;
  readonly nsid: number;
}

export interface Traffic {
  reads: number;
  writes: number;
  blocksRead: bigint;
  blocksWritten: bigint;
}

/** What the controller remembers for its logs. */
export class Logs {
  readonly traffic: Traffic = { reads: 0, writes: 0, blocksRead: 0n, blocksWritten: 0n };
  readonly #errors: { readonly count: number; readonly failed: FailedCommand }[] = [];
  #count = 0;

  addError(failed: FailedCommand): void {
    if (this.#count < FAILED_MAX) this.#count++;
    this.#errors.unshift({ count: this.#count, failed });
    if (this.#errors.length > ERROR_ENTRIES) this.#errors.length = ERROR_ENTRIES;
  }

  /** All of a page, or null where there is none of this id. */
  page(id: number, health: Health): Uint8Array | null {
    switch (id) {
      case LOG.ERROR:
        return this.#errorPage();
      case LOG.SMART:
        return this.#smartPage(health);
      case LOG.FIRMWARE:
        return firmwarePage();
      case LOG.CHANGED_NAMESPACES:
        return new Uint8Array(4096);
      case LOG.EFFECTS:
        return effectsPage();
      default:
        return null;
    }
  }

  #errorPage(): Uint8Array {
    const page = new Uint8Array(ERROR_ENTRIES * ERROR_ENTRY_BYTES);
    const view = new DataView(page.buffer);
    for (const [index, { count, failed }] of this.#errors.entries()) {
      const at = index * ERROR_ENTRY_BYTES;
      view.setBigUint64(at, BigInt(count), true);
      view.setUint16(at + 8, failed.queue, true);
      view.setUint16(at + 10, failed.cid, true);
      view.setUint16(at + 12, (failed.status & 0x7ff) << 1, true);
      view.setUint16(at + 14, 0xffff, true);
      view.setBigUint64(at + 16, failed.block, true);
      view.setUint32(at + 24, failed.nsid, true);
    }
    return page;
  }

  #smartPage(health: Health): Uint8Array {
    const page = new Uint8Array(512);
    const view = new DataView(page.buffer);
    view.setUint8(0, health.warning);
    view.setUint16(1, health.kelvins, true);
    view.setUint8(3, 100); // available spare
    view.setUint8(4, 10);
    // Data units are thousands of 512 bytes, rounded up.
    const { reads, writes, blocksRead, blocksWritten } = this.traffic;
    view.setBigUint64(32, (blocksRead + 999n) / 1000n, true);
    view.setBigUint64(48, (blocksWritten + 999n) / 1000n, true);
    view.setBigUint64(64, BigInt(reads), true);
    view.setBigUint64(80, BigInt(writes), true);
    view.setBigUint64(176, BigInt(this.#count), true);
    return page;
  }
}

function firmwarePage(): Uint8Array {
  const page = new Uint8Array(512);
  page[0] = 1;
  for (const [index, letter] of [...'1.0     '].entries()) page[8 + index] = letter.charCodeAt(0);
  return page;
}

/** Commands Supported and Effects: what there is, and that writes change the medium. */
function effectsPage(): Uint8Array {
  const page = new Uint8Array(4096);
  const view = new DataView(page.buffer);
  for (const opcode of Object.values(ADMIN)) view.setUint32(opcode * 4, 1, true);
  const writes: readonly number[] = [IO.WRITE, IO.WRITE_ZEROES, IO.DSM];
  for (const opcode of Object.values(IO))
    view.setUint32(1024 + opcode * 4, writes.includes(opcode) ? 3 : 1, true);
  return page;
}
