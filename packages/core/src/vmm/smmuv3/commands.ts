import { readField } from '../../base/bit-fields.ts';
import type { SmmuV3Features } from '../../iommu/arm-smmu-v3/hardware/registers/config.ts';
import type { Interrupts } from '../../iommu/arm-smmu-v3/hardware/registers/interrupts.ts';
import {
  CFGI_ALL,
  CMD,
  CMD_CFGI,
  CMD_RESUME,
  CMD_SYNC,
  SYNC_CS,
} from '../../iommu/arm-smmu-v3/spec/commands.ts';
import { CERROR } from '../../iommu/arm-smmu-v3/spec/registers.ts';
import type { CommandTarget } from './command-queue.ts';
import type { PhysicalSmmu } from './physical-smmu.ts';
import type { GuestStalls } from './stalls.ts';
import type { Streams } from './streams.ts';

/** Commands that are for the physical SMMUs: those of one stream are for its own, the others for all. */
const FORWARDED: ReadonlySet<number> = new Set([
  CMD.CFGI_CD,
  CMD.CFGI_CD_ALL,
  CMD.TLBI_NH_ALL,
  CMD.TLBI_NH_ASID,
  CMD.TLBI_NH_VA,
  CMD.TLBI_NH_VAA,
  CMD.TLBI_NSNH_ALL,
  CMD.ATC_INV,
]);
const OF_A_STREAM: ReadonlySet<number> = new Set([CMD.CFGI_CD, CMD.CFGI_CD_ALL, CMD.ATC_INV]);

/** What becomes of a guest's commands (IHI 0070, §4). */
export class GuestCommands implements CommandTarget {
  readonly #features: SmmuV3Features;
  readonly #streams: Streams;
  readonly #stalls: GuestStalls | null;
  readonly #interrupts: Interrupts;

  constructor(
    features: SmmuV3Features,
    streams: Streams,
    stalls: GuestStalls | null,
    interrupts: Interrupts,
  ) {
    this.#features = features;
    this.#streams = streams;
    this.#stalls = stalls;
    this.#interrupts = interrupts;
  }

  waits(words: Uint32Array): boolean {
    return !FORWARDED.has(words[0]! & 0xff);
  }

  take(words: Uint32Array): 'forward' | number {
    const opcode = words[0]! & 0xff;
    if (FORWARDED.has(opcode)) {
      if (opcode === CMD.ATC_INV && !this.#features.ats) return CERROR.ILL;
      // What is nobody's is not for a physical SMMU.
      const nobodys = OF_A_STREAM.has(opcode) && this.#streams.get(words[1]!) === undefined;
      return nobodys ? CERROR.NONE : 'forward';
    }
    switch (opcode) {
      case CMD.PREFETCH_CONFIG:
      case CMD.PREFETCH_ADDR:
        return CERROR.NONE;
      case CMD.CFGI_STE:
      case CMD.CFGI_STE_RANGE:
        this.#settle(opcode, words);
        return CERROR.NONE;
      case CMD.RESUME:
      case CMD.STALL_TERM:
        return this.#endStall(opcode, words);
      case CMD.SYNC:
        return readField(CMD_SYNC.CS, words) > SYNC_CS.SEV ? CERROR.ILL : CERROR.NONE;
      default:
        // The guest's SMMU has no stage 2, no EL2 and no page requests.
        return CERROR.ILL;
    }
  }

  #settle(opcode: number, words: Uint32Array): void {
    const sid = words[1]!;
    const range = opcode === CMD.CFGI_STE ? 0 : readField(CMD_CFGI.Range, words) + 1;
    const all = range === CFGI_ALL + 1;
    for (const stream of this.#streams)
      if (all || Math.floor(stream.sid / 2 ** range) === Math.floor(sid / 2 ** range))
        this.#streams.settle(stream);
  }

  #endStall(opcode: number, words: Uint32Array): number {
    if (this.#stalls === null) return CERROR.ILL;
    const stream = this.#streams.get(words[1]!);
    if (stream === undefined) return CERROR.NONE;
    if (opcode === CMD.STALL_TERM) this.#stalls.terminate(stream);
    else {
      const retry = readField(CMD_RESUME.Ac, words) !== 0;
      this.#stalls.resume(stream.sid, readField(CMD_RESUME.STAG, words), retry);
    }
    return CERROR.NONE;
  }

  /**
   * Sends commands to every physical SMMU that they are for, in their order. Where one refuses a command, the queue stops
   * there; another may be further, which does no harm when they are sent again.
   */
  send(commands: readonly Uint32Array[]): { readonly handled: number; readonly error: number } {
    let handled = commands.length;
    let error: number = CERROR.NONE;
    for (const physical of this.#streams.physicals) {
      const indexes = [...commands.keys()].filter((index) => this.#concerns(physical, commands[index]!));
      const sent = physical.send(indexes.map((index) => commands[index]!));
      const stopped = indexes[sent.handled];
      if (stopped === undefined || stopped >= handled) continue;
      handled = stopped;
      ({ error } = sent);
    }
    return { handled, error };
  }

  #concerns(physical: PhysicalSmmu, command: Uint32Array): boolean {
    if (!OF_A_STREAM.has(command[0]! & 0xff)) return true;
    return this.#streams.get(command[1]!)?.physical === physical;
  }

  completeSync(words: Uint32Array): void {
    if (readField(CMD_SYNC.CS, words) !== SYNC_CS.IRQ) return;
    const address = (words[3]! & 0xff_ffff) * 0x1_0000_0000 + ((words[2]! & ~3) >>> 0);
    this.#interrupts.completeSync(address, words[1]!);
  }
}
