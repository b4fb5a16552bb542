import { SC, SQE } from './spec.ts';

/** A submission queue entry. */
export class Command {
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  /** `bytes`: SQE_BYTES, which do not change any more. */
  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  get opcode(): number {
    return this.bytes[SQE.OPCODE]!;
  }

  /** Fused operation and PRP or SGL. */
  get flags(): number {
    return this.bytes[SQE.FLAGS]!;
  }

  get cid(): number {
    return this.#view.getUint16(SQE.CID, true);
  }

  get nsid(): number {
    return this.word(SQE.NSID);
  }

  get prp1(): bigint {
    return this.#view.getBigUint64(SQE.PRP1, true);
  }

  get prp2(): bigint {
    return this.#view.getBigUint64(SQE.PRP2, true);
  }

  /** CDW10 and CDW11: where I/O commands say which block. */
  get block(): bigint {
    return this.#view.getBigUint64(SQE.CDW10, true);
  }

  word(offset: number): number {
    return this.#view.getUint32(offset, true);
  }
}

/** How a command ended. */
export interface Outcome {
  /** One of SC, perhaps with SC_DNR. */
  readonly status: number;
  /** Dword 0 of the completion. */
  readonly result?: number;
}

export const SUCCESS: Outcome = { status: SC.SUCCESS };
