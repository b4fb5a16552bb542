// Runs one recorded DMA write on the AMD IOMMU model: programs it as the recorder programmed QEMU's, with the line's DTE
// and memory, and compares where the write landed and which events came.

import { AmdIommu } from '@viommu/core/iommu/amd/hardware/amd-iommu';
import { amdIommuConfigFromEfr } from '@viommu/core/iommu/amd/hardware/registers/config';
import { CONTROL, OFFSET } from '@viommu/core/iommu/amd/spec/registers';
import { classify, type Seen } from './amd-differences.ts';
import type { AmdLine } from './amd-reference.ts';
import { RecordedMemory } from './memory.ts';
import type { Answer, Vendor } from './vendor.ts';

interface Header {
  readonly model: string;
  readonly efr: string;
}

type Line = AmdLine & { readonly qemu: Seen };

/** QEMU's q35 machine with 1 GiB. */
const RAM = { start: 0, end: 0x4000_0000 };
/** Where this harness keeps the device table and the event log: no line can name it, QEMU has no memory there. */
const HARNESS = { start: 0x7f_0000_0000, end: 0x7f_0040_0000 };
const DEVICE_TABLE = HARNESS.start;
const EVENT_LOG = HARNESS.start + 0x20_0000;

export const amd: Vendor = {
  name: 'amd',
  differences: 'docs/amd-differences.md',
  accepts: (first) => typeof first['model'] === 'string' && first['model'].endsWith(' amd'),

  open(first) {
    const header = first as unknown as Header;
    // QEMU knows no HyperTransport ranges: all addresses but those of interrupts are memory's.
    const htRangeIgnore = 1n << 11n;
    const config = amdIommuConfigFromEfr(BigInt(header.efr), htRangeIgnore, {
      caches: { tlb: 64, devices: 4, gcr3: 4, interrupts: 4, tables: true },
    });
    return (line) => run(line as unknown as Line, config);
  },
};

function run(line: Line, config: ReturnType<typeof amdIommuConfigFromEfr>): Answer {
  const memory = new RecordedMemory([RAM, HARNESS]);
  for (const [address, word] of line.mem) memory.put(Number.parseInt(address, 16), word);
  memory.put(DEVICE_TABLE + line.rid * 32, line.dte);
  const iommu = new AmdIommu({ memory, config });
  const set = (offset: number, value: bigint): void => iommu.writeRegister(offset, 8, value);
  set(OFFSET.DEV_TAB_BASE, BigInt(DEVICE_TABLE) | 0x1ffn);
  set(OFFSET.EVT_LOG_BASE, BigInt(EVENT_LOG) | (8n << 56n));
  set(OFFSET.CONTROL, BigInt(CONTROL.IommuEn.inPlace | CONTROL.EventLogEn.inPlace));
  const iova = BigInt(line.iova);
  const outcome = iommu.translate({
    deviceId: line.rid,
    hi: Number(iova >> 32n),
    lo: Number(iova & 0xffff_ffffn),
    write: true,
  });
  const pa = outcome.kind === 'translated' ? outcome.pa : null;
  const landed = pa !== null && pa < RAM.end && pa === Number.parseInt(line.pa, 16);
  const events: string[] = [];
  const end = Number(iommu.readRegister(OFFSET.EVT_TAIL, 8));
  for (let at = 0; at < end; at += 16) events.push(memory.hex(EVENT_LOG + at, 16));
  const expected = { landed: line.qemu.landed, events: [...line.qemu.events] };
  return { expected, got: { landed, events }, classes: classify(expected, { landed, events }, line) };
}
