import { failed, type Result } from '../base/result.ts';
import { big } from '../base/u64.ts';
import * as abi from '../abi/iommufd.ts';
import type { PhysicalMemory } from '../memory/physical.ts';
import type { Program } from './program.ts';

/** Guest RAM: memory of the VMM, as guest physical addresses from `base` on. All of it is what `base` says. */
export class GuestMemory implements PhysicalMemory {
  readonly base: number;
  readonly bytes: number;
  readonly #program: Program;
  readonly #va: bigint;
  readonly #word = new Uint8Array(8);
  readonly #wordView = new DataView(this.#word.buffer);

  /** `va`: memory that the program has already; new memory where it is left out. */
  constructor(program: Program, base: number, bytes: number, va?: bigint) {
    this.#program = program;
    this.base = base;
    this.bytes = bytes;
    this.#va = va ?? program.allocate(big(bytes));
  }

  /** Lets devices reach it at the guest's addresses: IOMMU_IOAS_MAP. */
  mapInto(iommufd: number, ioas: number): Result<void> {
    const mapped = this.#program.request(iommufd, abi.IOMMU_IOAS_MAP, abi.iommu_ioas_map, {
      flags: abi.IOMMU_IOAS_MAP_FIXED_IOVA | abi.IOMMU_IOAS_MAP_READABLE | abi.IOMMU_IOAS_MAP_WRITEABLE,
      ioas_id: ioas,
      user_va: this.#va,
      length: big(this.bytes),
      iova: big(this.base),
    });
    if (failed(mapped)) return mapped;
  }

  #inside(pa: number, length: number): boolean {
    return pa >= this.base && pa + length <= this.base + this.bytes;
  }

  #vaOf(pa: number): bigint {
    return this.#va + big(pa - this.base);
  }

  read(pa: number, into: Uint8Array): boolean {
    return this.#inside(pa, into.length) && this.#program.process.memory.read(this.#vaOf(pa), into);
  }

  write(pa: number, from: Uint8Array): boolean {
    return this.#inside(pa, from.length) && this.#program.process.memory.write(this.#vaOf(pa), from);
  }

  load64(pa: number, out: Uint32Array): boolean {
    if (!this.read(pa, this.#word)) return false;
    out[0] = this.#wordView.getUint32(0, true);
    out[1] = this.#wordView.getUint32(4, true);
    return true;
  }

  store64(pa: number, lo: number, hi: number): boolean {
    this.#wordView.setUint32(0, lo, true);
    this.#wordView.setUint32(4, hi, true);
    return this.write(pa, this.#word);
  }
}
