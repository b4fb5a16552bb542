// Runs one recorded DMA write on the SMMUv3 model: programs it as the recorder programmed QEMU's, with the line's STE
// and memory, and compares where the write landed and which events came.

import { smmuV3ConfigFromIdr } from '@viommu/core/iommu/arm-smmu-v3/hardware/registers/config';
import { SmmuV3 } from '@viommu/core/iommu/arm-smmu-v3/hardware/smmu';
import { OFFSET } from '@viommu/core/iommu/arm-smmu-v3/spec/registers';
import { RecordedMemory } from './memory.ts';
import { classify } from './smmuv3-differences.ts';
import type { Answer, Vendor } from './vendor.ts';

interface Header {
  readonly model: string;
  readonly idr: readonly string[];
}

interface Line {
  readonly sid: number;
  readonly ste: string;
  readonly iova: string;
  readonly pa: string;
  readonly mem: readonly (readonly [address: string, word: string])[];
  readonly cd?: string;
  readonly qemu: { readonly landed: boolean; readonly events: readonly string[] };
}

/** QEMU's virt machine with 1 GiB. */
const RAM = { start: 0x4000_0000, end: 0x8000_0000 };
/** Flash without contents, which reads as zero, and the upper window of PCIe, which reads as ones. */
const FLASH_END = 0x800_0000;
const PCIE = { start: 0x80_0000_0000, end: 0x100_0000_0000 };
/** Where this harness keeps the Stream table and the Event queue: no line can name it, QEMU has no memory there. */
const HARNESS = { start: 0x7f_0000_0000, end: 0x7f_0020_0000 };
const STREAM_TABLE = HARNESS.start;
const EVENT_QUEUE = HARNESS.start + 0x10_0000;

class VirtMemory extends RecordedMemory {
  override load64(pa: number, out: Uint32Array): boolean {
    const flash = pa < FLASH_END;
    if (!flash && (pa < PCIE.start || pa >= PCIE.end)) return super.load64(pa, out);
    out.fill(flash ? 0 : 0xffff_ffff);
    return true;
  }
}

export const smmuv3: Vendor = {
  name: 'smmuv3',
  differences: 'docs/smmuv3-differences.md',
  accepts: (first) => typeof first['model'] === 'string' && first['model'].includes('smmuv3'),

  open(first) {
    const header = first as unknown as Header;
    const idr = header.idr.map((word) => Number.parseInt(word, 16));
    const config = smmuV3ConfigFromIdr([idr[0]!, idr[1]!, idr[2]!, idr[3]!, idr[4]!, idr[5]!], {
      caches: { tlb: 64, streams: 4, contexts: 16, tables: true },
    });
    return (line) => run(line as unknown as Line, config);
  },
};

function run(line: Line, config: ReturnType<typeof smmuV3ConfigFromIdr>): Answer {
  const memory = new VirtMemory([RAM, HARNESS]);
  for (const [address, word] of line.mem) memory.put(Number.parseInt(address, 16), word);
  memory.put(STREAM_TABLE + line.sid * 64, line.ste);
  const smmu = new SmmuV3({ memory, config });
  const set32 = (offset: number, value: number): void => smmu.writeRegister(offset, 4, BigInt(value));
  const set64 = (offset: number, value: bigint): void => smmu.writeRegister(offset, 8, value);
  set64(OFFSET.STRTAB_BASE, BigInt(STREAM_TABLE));
  set32(OFFSET.STRTAB_BASE_CFG, 8);
  set32(OFFSET.CR2, 2);
  set64(OFFSET.EVENTQ_BASE, BigInt(EVENT_QUEUE) | 4n);
  set32(OFFSET.CR0, 0b0101);
  const iova = BigInt(line.iova);
  const outcome = smmu.translate({
    streamId: line.sid,
    hi: Number(iova >> 32n),
    lo: Number(iova & 0xffff_ffffn),
    write: true,
    stallable: false,
  });
  const pa = outcome.kind === 'translated' ? outcome.pa : null;
  const landed = pa !== null && pa >= RAM.start && pa < RAM.end && pa === Number.parseInt(line.pa, 16);
  const events: string[] = [];
  const count = Number(smmu.readRegister(OFFSET.EVENTQ_PROD, 4) & 31n);
  for (let i = 0; i < count; i++) events.push(memory.hex(EVENT_QUEUE + i * 32, 32));
  const expected = { landed: line.qemu.landed, events: [...line.qemu.events] };
  return { expected, got: { landed, events }, classes: classify(expected, { landed, events }, line) };
}
