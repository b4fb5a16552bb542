// Runs one recorded DMA write on the VT-d model: programs it as the recorder programmed QEMU's, with the line's root
// table and memory, and compares where the write landed and what the fault recording register says.

import {
  type IntelConfig,
  intelConfigFromRegisters,
} from '@viommu/core/iommu/intel/hardware/registers/config';
import { IntelIommu } from '@viommu/core/iommu/intel/hardware/intel-iommu';
import { OFFSET } from '@viommu/core/iommu/intel/spec/registers';
import { RecordedMemory, toHex } from './memory.ts';
import type { Answer, Vendor } from './vendor.ts';
import { classify, type Seen } from './vtd-differences.ts';
import type { VtdLine } from './vtd-reference.ts';

interface Header {
  readonly model: string;
  readonly cap: string;
  readonly ecap: string;
}

type Line = VtdLine & { readonly qemu: Seen };

/** QEMU's q35 machine with 1 GiB. */
const RAM = { start: 0, end: 0x4000_0000 };
/** VER_REG of QEMU's model. */
const VERSION = 0x10;
/** DMAR table of QEMU's model: Host Address Width (aw-bits, 48 by default). */
const HOST_ADDRESS_WIDTH = 48;
/** ECAP fields of interrupt remapping, which viommu does not have: IR, EIM, MHMV. */
const INTERRUPT_REMAPPING = 0xf0_0018n;
const FRCD = 0x220;

export const vtd: Vendor = {
  name: 'vtd',
  differences: 'docs/vtd-differences.md',
  accepts: (first) => typeof first['cap'] === 'string' && typeof first['ecap'] === 'string',

  open(first) {
    const header = first as unknown as Header;
    const config = intelConfigFromRegisters(
      { version: VERSION, cap: BigInt(header.cap), ecap: BigInt(header.ecap) & ~INTERRUPT_REMAPPING },
      {
        hostAddressWidth: HOST_ADDRESS_WIDTH,
        caches: { tlb: 64, contexts: 4, pasids: 4, tables: true },
      },
    );
    return (line) => run(line as unknown as Line, config);
  },
};

function run(line: Line, config: IntelConfig): Answer {
  const memory = new RecordedMemory([RAM]);
  for (const [address, word] of line.mem) memory.put(Number.parseInt(address, 16), word);
  const iommu = new IntelIommu({ memory, config });
  const scalable = line.mode === 'scalable';
  iommu.writeRegister(OFFSET.RTADDR, 8, BigInt(line.root) | (scalable ? 0x400n : 0n));
  iommu.writeRegister(OFFSET.GCMD, 4, 1n << 30n);
  iommu.writeRegister(OFFSET.GCMD, 4, 1n << 31n);
  const iova = BigInt(line.iova);
  const outcome = iommu.translate({
    requesterId: line.rid,
    hi: Number(iova >> 32n),
    lo: Number(iova & 0xffff_ffffn),
    write: true,
    length: 4,
  });
  const pa = outcome.kind === 'translated' ? outcome.pa : null;
  const landed = pa !== null && pa < RAM.end && pa === Number.parseInt(line.pa, 16);
  const events: string[] = [];
  const high = iommu.readRegister(FRCD + 8, 8);
  if (high >> 63n === 1n) events.push(toHex(iommu.readRegister(FRCD, 8), 8) + toHex(high, 8));
  const expected: Seen = { landed: line.qemu.landed, events: [...line.qemu.events] };
  const got: Seen = { landed, events };
  return { expected, got, classes: classify(expected, got, line) };
}
