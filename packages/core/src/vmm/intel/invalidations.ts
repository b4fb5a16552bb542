import { readField, writeField, type Field } from '../../base/bit-fields.ts';
import { big, exact, U64_MAX } from '../../base/u64.ts';
import { IOMMU_HWPT_INVALIDATE_DATA_VTD_S1 } from '../../abi/iommufd.ts';
import { IOMMU_VTD_INV_FLAGS_LEAF, iommu_hwpt_vtd_s1_invalidate } from '../../abi/iommufd-data.ts';
import type { RegisterFile } from '../../iommu/intel/hardware/registers/registers.ts';
import {
  DESC,
  IOTLB_INV_DSC,
  P_IOTLB_GRANULARITY,
  P_IOTLB_INV_DSC,
  PASID_CACHE_GRANULARITY,
  PC_INV_DSC,
} from '../../iommu/intel/spec/invalidation.ts';
import {
  CCMD,
  CONTEXT_GRANULARITY,
  IOTLB,
  IOTLB_GRANULARITY,
  IQEI,
  IVA,
  OFFSET,
  type Iqei,
} from '../../iommu/intel/spec/registers.ts';
import type { VirtualMachine } from '../virtual-machine.ts';
import type { NestedSlot, Requesters, RootState } from './requesters.ts';

/** What the guest has changed in its tables, as its descriptors and registers say (VT-d §6.5). */
export class GuestInvalidations {
  readonly #vm: VirtualMachine;
  readonly #requesters: Requesters;
  readonly #state: () => RootState;

  constructor(vm: VirtualMachine, requesters: Requesters, state: () => RootState) {
    this.#vm = vm;
    this.#requesters = requesters;
    this.#state = state;
  }

  /** Does what a descriptor says: IQEI.NONE, or why it cannot be. */
  execute(type: number, words: Uint32Array): Iqei {
    const scalable = this.#state().mode !== 'legacy';
    switch (type) {
      case DESC.CC_INV:
        // Whatever it names: an entry that says the same again is left as it is.
        this.#settleAll();
        return IQEI.NONE;
      case DESC.IOTLB_INV:
        return this.#domains(words);
      case DESC.DEV_TLB_INV:
        // The kernel flushes device TLBs with what it flushes for us.
        return IQEI.NONE;
      case DESC.PC_INV:
        return scalable ? this.#pasidCache(words) : IQEI.TYPE;
      case DESC.P_IOTLB_INV:
        return scalable ? this.#pasids(words) : IQEI.TYPE;
      case DESC.P_DEV_TLB_INV:
        return scalable ? IQEI.NONE : IQEI.TYPE;
      default:
        return IQEI.TYPE;
    }
  }

  #settleAll(pasid: number | null = null): void {
    this.#requesters.settleAll(this.#state(), pasid);
  }

  /** pc_inv_dsc (§6.5.2.2): entries of one PASID, or all of them. */
  #pasidCache(words: Uint32Array): Iqei {
    const granularity = readField(PC_INV_DSC.G, words);
    if (granularity === PASID_CACHE_GRANULARITY.RESERVED) return IQEI.RESERVED;
    const one = granularity === PASID_CACHE_GRANULARITY.PASID;
    this.#settleAll(one ? readField(PC_INV_DSC.PASID, words) : null);
    return IQEI.NONE;
  }

  /** p_iotlb_inv_dsc (§6.5.2.4): all of a PASID, or 2^AM pages of it. */
  #pasids(words: Uint32Array): Iqei {
    const granularity = readField(P_IOTLB_INV_DSC.G, words);
    if (granularity !== P_IOTLB_GRANULARITY.PASID && granularity !== P_IOTLB_GRANULARITY.PAGE)
      return IQEI.RESERVED;
    const did = readField(P_IOTLB_INV_DSC.DID, words);
    const pasid = readField(P_IOTLB_INV_DSC.PASID, words);
    const its = (nested: NestedSlot): boolean => nested.did === did && nested.pasid === pasid;
    if (granularity === P_IOTLB_GRANULARITY.PASID) this.#flush(its, 0n, U64_MAX, false);
    else {
      const { address, pages } = regionOf(words, P_IOTLB_INV_DSC.AM);
      this.#flush(its, address, pages, readField(P_IOTLB_INV_DSC.IH, words) !== 0);
    }
    return IQEI.NONE;
  }

  /** iotlb_inv_dsc (§6.5.2.3): all, a domain, or pages of a second stage. Of first stages it takes the whole domain. */
  #domains(words: Uint32Array): Iqei {
    const granularity = readField(IOTLB_INV_DSC.G, words);
    if (granularity === IOTLB_GRANULARITY.ERROR) return IQEI.RESERVED;
    const did = readField(IOTLB_INV_DSC.DID, words);
    const pages = granularity === IOTLB_GRANULARITY.PAGE ? regionOf(words, IOTLB_INV_DSC.AM) : null;
    this.#domain(granularity === IOTLB_GRANULARITY.GLOBAL ? null : did, pages);
    return IQEI.NONE;
  }

  #domain(did: number | null, region: Region | null): void {
    this.#flush((nested) => did === null || nested.did === did, 0n, U64_MAX, false);
    for (const shadow of this.#requesters.shadows) {
      if (did !== null && shadow.table.did !== did) continue;
      if (region === null) shadow.sync();
      else {
        const first = exact(region.address >> 12n);
        shadow.sync(first, first + exact(region.pages) - 1);
      }
    }
  }

  #flush(concerns: (nested: NestedSlot) => boolean, addr: bigint, npages: bigint, leaf: boolean): void {
    const layout = iommu_hwpt_vtd_s1_invalidate;
    const entry = new Uint8Array(layout.size);
    layout.write(entry, 0, { addr, npages, flags: leaf ? IOMMU_VTD_INV_FLAGS_LEAF : 0, __reserved: 0 });
    for (const nested of this.#requesters.nested())
      if (concerns(nested))
        this.#vm.invalidate(nested.hwpt, IOMMU_HWPT_INVALIDATE_DATA_VTD_S1, layout.size, entry);
  }

  // ---- by registers, as drivers do before they have a queue (§6.5.1) ----

  /** CCMD_REG.ICC: done when this returns, with what was done. */
  contextCommand(registers: RegisterFile): void {
    this.#settleAll();
    finish(registers, OFFSET.CCMD, CCMD.ICC, CCMD.CAIG, CONTEXT_GRANULARITY.GLOBAL);
  }

  /** IOTLB_REG.IVT */
  iotlbCommand(registers: RegisterFile): void {
    const at = registers.iotlb;
    const words = [registers.get(at), registers.get(at + 4)];
    const iva = Uint32Array.of(0, 0, registers.get(at - 8), registers.get(at - 4));
    const granularity = readField(IOTLB.IIRG, words);
    const pages = granularity === IOTLB_GRANULARITY.PAGE;
    if (granularity !== IOTLB_GRANULARITY.ERROR)
      this.#domain(
        granularity === IOTLB_GRANULARITY.GLOBAL ? null : readField(IOTLB.DID, words),
        pages ? regionOf(iva, { ...IVA.AM, word: 2 }) : null,
      );
    finish(registers, at, IOTLB.IVT, IOTLB.IAIG, granularity);
  }
}

interface Region {
  readonly address: bigint;
  readonly pages: bigint;
}

/** 2^AM pages at the address that the third and fourth words hold. Longer than the whole is the whole. */
function regionOf(words: Uint32Array, am: Field): Region {
  const order = Math.min(readField(am, words), 52);
  const address = ((big(words[3]!) << 32n) | big(words[2]!)) & ~((1n << BigInt(12 + order)) - 1n);
  return { address: BigInt.asUintN(64, address), pages: 1n << BigInt(order) };
}

/** The command bit is clear, and the register says what was invalidated. */
function finish(registers: RegisterFile, at: number, command: Field, actual: Field, value: number): void {
  const words = [registers.get(at), registers.get(at + 4)];
  writeField(command, words, 0);
  writeField(actual, words, value);
  for (const [index, word] of words.entries()) registers.set(at + index * 4, word >>> 0);
}
