import { exact } from '../../base/u64.ts';

/** What is behind a disk: blocks that are read and written at once. False: the medium failed. */
export interface BlockBackend {
  /** A power of two, 512 to 4096. */
  readonly blockBytes: number;
  readonly blocks: bigint;
  readonly readOnly: boolean;
  read(block: bigint, into: Uint8Array): boolean;
  write(block: bigint, from: Uint8Array): boolean;
  /** Makes blocks read as zeros. */
  zero(block: bigint, blocks: number): boolean;
  /** What was written is on the medium. */
  flush(): boolean;
}

const PIECE = 1 << 16;

/** A disk in memory, which is made of zeros until it is written. */
export class MemoryDisk implements BlockBackend {
  readonly blockBytes: number;
  readonly blocks: bigint;
  readonly readOnly = false;
  readonly #pieces = new Map<number, Uint8Array>();

  constructor(bytes: number, blockBytes = 512) {
    this.blockBytes = blockBytes;
    this.blocks = BigInt(Math.floor(bytes / blockBytes));
  }

  read(block: bigint, into: Uint8Array): boolean {
    this.#each(block, into.length, (index, offset, at, bytes) => {
      const piece = this.#pieces.get(index);
      if (piece === undefined) into.fill(0, at, at + bytes);
      else into.set(piece.subarray(offset, offset + bytes), at);
    });
    return true;
  }

  write(block: bigint, from: Uint8Array): boolean {
    this.#each(block, from.length, (index, offset, at, bytes) => {
      let piece = this.#pieces.get(index);
      if (piece === undefined) this.#pieces.set(index, (piece = new Uint8Array(PIECE)));
      piece.set(from.subarray(at, at + bytes), offset);
    });
    return true;
  }

  zero(block: bigint, blocks: number): boolean {
    this.#each(block, blocks * this.blockBytes, (index, offset, _at, bytes) => {
      if (bytes === PIECE) this.#pieces.delete(index);
      else this.#pieces.get(index)?.fill(0, offset, offset + bytes);
    });
    return true;
  }

  flush(): boolean {
    return true;
  }

  #each(
    block: bigint,
    length: number,
    visit: (piece: number, offset: number, at: number, bytes: number) => void,
  ): void {
    const start = exact(block) * this.blockBytes;
    for (let at = 0; at < length;) {
      const offset = (start + at) % PIECE;
      const bytes = Math.min(PIECE - offset, length - at);
      visit(Math.floor((start + at) / PIECE), offset, at, bytes);
      at += bytes;
    }
  }
}
