import { u64 } from '../../base/u64.ts';
import { registers32 } from '../bar.ts';
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
  REGISTER,
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
const REGISTERS = 16;
const READ_ONLY: ReadonlySet<number> = new Set([
  REGISTER.ID,
  REGISTER.STATUS,
  REGISTER.ERROR,
  REGISTER.DONE,
  REGISTER.RESULT,
]);

/** Copies, fills and adds up memory on demand. A command has ended when the store that started it returns. */
export class DmaEngine implements DeviceModel {
  readonly description: FunctionDescription;
  readonly #registers = new Uint32Array(REGISTERS);
  #pci!: PciFunction;

  constructor(features: TranslationFeatures = ALL_FEATURES) {
    this.description = {
      identity: { vendor: DMA_ENGINE_VENDOR, device: DMA_ENGINE_DEVICE, revision: 1, classCode: 0x088000 },
      bars: [
        {
          index: 0,
          size: BAR_BYTES,
          kind: 'memory64',
          handler: registers32({
            read32: (offset) => this.#registers[offset / 4] ?? 0,
            write32: (offset, value) => this.#write(offset, value),
          }),
        },
      ],
      msix: { vectors: VECTORS, bar: 0, table: TABLE_OFFSET, pba: PBA_OFFSET },
      ...features,
    };
  }

  connect(pci: PciFunction): void {
    this.#pci = pci;
  }

  reset(): void {
    this.#registers.fill(0);
    this.#registers[REGISTER.ID / 4] = DMA_ENGINE_VERSION;
  }

  #get(offset: number): number {
    return this.#registers[offset / 4]!;
  }

  #write(offset: number, value: number): void {
    if (offset >= REGISTERS * 4 || READ_ONLY.has(offset)) return;
    if (offset === REGISTER.SIGNAL) this.#pci.signal(value);
    else this.#registers[offset / 4] = value;
    if (offset === REGISTER.COMMAND) this.#run(value);
  }

  #run(command: number): void {
    this.#registers[REGISTER.DONE / 4] = 0;
    this.#registers[REGISTER.RESULT / 4] = 0;
    const error = this.#execute(command);
    this.#registers[REGISTER.ERROR / 4] = error;
    this.#registers[REGISTER.STATUS / 4] = error === ERROR.NONE ? STATUS.DONE : STATUS.ERROR;
    if ((this.#get(REGISTER.FLAGS) & FLAG.INTERRUPT) !== 0) this.#pci.signal(this.#get(REGISTER.VECTOR));
  }

  #execute(command: number): number {
    const length = this.#get(REGISTER.LENGTH);
    if (command < COMMAND.COPY || command > COMMAND.CHECKSUM) return ERROR.COMMAND;
    if (length > LENGTH_MAX) return ERROR.LENGTH;
    const buffer = new Uint8Array(Math.min(length, CHUNK));
    if (command === COMMAND.FILL) buffer.fill(this.#get(REGISTER.PATTERN));
    for (let done = 0; done < length; done += buffer.length) {
      const part = buffer.subarray(0, Math.min(buffer.length, length - done));
      const error = this.#part(command, part, done);
      if (error !== ERROR.NONE) return error;
    }
    return ERROR.NONE;
  }

  #part(command: number, part: Uint8Array, done: number): number {
    const { dma } = this.#pci;
    if (command !== COMMAND.FILL) {
      const stopped = dma.read(this.#address(REGISTER.SOURCE, done), part, this.#by(FLAG.SOURCE_PASID));
      this.#registers[REGISTER.DONE / 4] = done + (stopped?.done ?? part.length);
      if (stopped !== null) return ERROR.READ;
    }
    if (command === COMMAND.CHECKSUM) {
      for (const byte of part) this.#registers[REGISTER.RESULT / 4]! += byte;
      return ERROR.NONE;
    }
    const to = this.#address(REGISTER.DESTINATION, done);
    const stopped = dma.write(to, part, this.#by(FLAG.DESTINATION_PASID));
    this.#registers[REGISTER.DONE / 4] = done + (stopped?.done ?? part.length);
    return stopped === null ? ERROR.NONE : ERROR.WRITE;
  }

  #address(register: number, done: number): bigint {
    return BigInt.asUintN(64, u64(this.#get(register + 4), this.#get(register)) + BigInt(done));
  }

  #by(flag: number): { readonly pasid: number | null } {
    return { pasid: (this.#get(REGISTER.FLAGS) & flag) === 0 ? null : this.#get(REGISTER.PASID) };
  }
}
