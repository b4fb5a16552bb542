import { big } from '../../base/u64.ts';
import type { FunctionDma } from '../dma.ts';
import type { BlockBackend } from './block.ts';
import { SUCCESS, type Command, type Outcome } from './command.ts';
import { dataPlaces, transfer } from './data-pointer.ts';
import { MDTS } from './limits.ts';
import type { Traffic } from './log-pages.ts';
import { IO, SC, SC_DNR, SQE } from './spec.ts';

// The NVM command set, §6.

const RANGE_BYTES = 16;
const DSM_DEALLOCATE = 1 << 2;
const TRANSFER_MAX = 4096 << MDTS;

export class IoCommands {
  readonly #dma: FunctionDma;
  readonly #disk: BlockBackend;
  readonly #traffic: Traffic;

  constructor(dma: FunctionDma, disk: BlockBackend, traffic: Traffic) {
    this.#dma = dma;
    this.#disk = disk;
    this.#traffic = traffic;
  }

  /** `page`: CC.MPS in bytes. */
  execute(command: Command, page: number): Outcome {
    const { opcode, nsid } = command;
    const everywhere = opcode === IO.FLUSH && nsid === 0xffff_ffff;
    if (!(Object.values(IO) as number[]).includes(opcode)) return refuse(SC.INVALID_OPCODE);
    if (nsid !== 1 && !everywhere) return refuse(SC.INVALID_NAMESPACE);
    if (opcode === IO.FLUSH) return this.#disk.flush() ? SUCCESS : { status: SC.WRITE_FAULT };
    if (opcode === IO.DSM) return this.#manageDataset(command, page);
    const blocks = (command.word(SQE.CDW12) & 0xffff) + 1;
    if (!this.#holds(command.block, blocks)) return refuse(SC.LBA_RANGE);
    if (opcode === IO.WRITE_ZEROES) return this.#zero(command.block, blocks);
    return this.#transfer(command, blocks, page);
  }

  #holds(block: bigint, blocks: number): boolean {
    return block <= this.#disk.blocks && big(blocks) <= this.#disk.blocks - block;
  }

  #transfer(command: Command, blocks: number, page: number): Outcome {
    const { opcode, block } = command;
    const bytes = blocks * this.#disk.blockBytes;
    if (bytes > TRANSFER_MAX) return refuse(SC.INVALID_FIELD);
    if (opcode === IO.WRITE && this.#disk.readOnly) return refuse(SC.READ_ONLY);
    const places = dataPlaces(this.#dma, command, bytes, page);
    if (typeof places === 'number') return refuse(places);
    const data = new Uint8Array(bytes);
    if (opcode === IO.WRITE)
      return this.#write(block, blocks, data, transfer(this.#dma, places, data, false));
    if (!this.#disk.read(block, data)) return { status: SC.READ_ERROR };
    this.#traffic.reads++;
    this.#traffic.blocksRead += big(blocks);
    if (opcode === IO.READ) return { status: transfer(this.#dma, places, data, true) };
    const expected = new Uint8Array(bytes);
    const status = transfer(this.#dma, places, expected, false);
    if (status !== SC.SUCCESS) return { status };
    return data.every((byte, at) => byte === expected[at]) ? SUCCESS : refuse(SC.COMPARE_FAILED);
  }

  #write(block: bigint, blocks: number, data: Uint8Array, status: number): Outcome {
    if (status !== SC.SUCCESS) return { status };
    if (!this.#disk.write(block, data)) return { status: SC.WRITE_FAULT };
    this.#traffic.writes++;
    this.#traffic.blocksWritten += big(blocks);
    return SUCCESS;
  }

  #zero(block: bigint, blocks: number): Outcome {
    if (this.#disk.readOnly) return refuse(SC.READ_ONLY);
    return this.#disk.zero(block, blocks) ? SUCCESS : { status: SC.WRITE_FAULT };
  }

  /** §6.7: of ranges that are deallocated the blocks read as zeros. */
  #manageDataset(command: Command, page: number): Outcome {
    const ranges = (command.word(SQE.CDW10) & 0xff) + 1;
    const data = new Uint8Array(ranges * RANGE_BYTES);
    const places = dataPlaces(this.#dma, command, data.length, page);
    if (typeof places === 'number') return refuse(places);
    const status = transfer(this.#dma, places, data, false);
    if (status !== SC.SUCCESS) return { status };
    if ((command.word(SQE.CDW11) & DSM_DEALLOCATE) === 0) return SUCCESS;
    if (this.#disk.readOnly) return refuse(SC.READ_ONLY);
    const view = new DataView(data.buffer);
    for (let at = 0; at < data.length; at += RANGE_BYTES) {
      const blocks = view.getUint32(at + 4, true);
      if (!this.#holds(view.getBigUint64(at + 8, true), blocks)) return refuse(SC.LBA_RANGE);
    }
    return this.#deallocate(view);
  }

  #deallocate(ranges: DataView): Outcome {
    // Ranges may be as large as the disk. Deallocation is a hint: beyond a bound blocks stay as they are.
    let left = DEALLOCATE_MAX;
    for (let at = 0; at < ranges.byteLength && left > 0; at += RANGE_BYTES) {
      const blocks = Math.min(ranges.getUint32(at + 4, true), left);
      left -= blocks;
      const outcome = blocks === 0 ? SUCCESS : this.#zero(ranges.getBigUint64(at + 8, true), blocks);
      if (outcome.status !== SC.SUCCESS) return outcome;
    }
    return SUCCESS;
  }
}

/** Blocks that one command deallocates. */
const DEALLOCATE_MAX = 1 << 18;

function refuse(status: number): Outcome {
  return { status: status | SC_DNR };
}
