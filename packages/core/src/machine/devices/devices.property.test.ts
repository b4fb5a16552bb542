import { describe, expect, it } from 'vitest';
import fc from 'fast-check';
import { big } from '../../base/u64.ts';
import {
  IOMMU_IOAS_MAP,
  IOMMU_IOAS_MAP_FIXED_IOVA,
  IOMMU_IOAS_MAP_READABLE,
  IOMMU_IOAS_MAP_WRITEABLE,
  iommu_ioas_map,
} from '../../abi/iommufd.ts';
import { ADMIN, CC_EN, DOORBELLS, IO, REG, SQE, SQE_BYTES } from '../../pci/nvme/spec.ts';
import { PCI_COMMAND, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY } from '../../pci/spec.ts';
import { regionOffset } from '../../vfio/pci/regions.ts';
import { Program } from '../../vfio/testing/program.ts';
import { Kernel } from '../kernel.ts';
import { IOMMU_TYPES, loadParts, type IommuType } from '../machine-file/parts.ts';

const PAGE = 0x1000;
const CONFIG_REGION = 7;
/** What the device may do where, and the address of the program's memory behind it. */
const WRITABLE = { iova: 0x10_0000, va: 0x4000_0000n, pages: 8 };
const READ_ONLY = { iova: 0x20_0000, va: 0x5000_0000n, pages: 4 };
const HIDDEN = { iova: 0x30_0000, va: 0x6000_0000n, pages: 4 };
/** Pages of the writable part. */
const [ASQ, ACQ, SQ, CQ, LIST] = [0, 1, 2, 3, 4].map((page) => WRITABLE.iova + page * PAGE) as [
  number,
  number,
  number,
  number,
  number,
];
const ENTRIES = 32;

/** An NVMe controller behind the IOMMU, with one I/O queue, and memory that it must leave alone. */
class Guest {
  readonly program: Program;
  readonly device: number;
  readonly #tails = [0, 0];

  static async start(type: IommuType): Promise<Guest> {
    const parts = await loadParts({
      iommus: [{ name: 'iommu', type }],
      devices: [{ name: '0000:01:00.0', iommu: 'iommu', pasids: 0, ats: false, model: 'nvme' }],
    });
    return new Guest(new Program(new Kernel({ parts })));
  }

  private constructor(program: Program) {
    this.program = program;
    const iommufd = program.open('/dev/iommu');
    this.device = program.open('/dev/vfio/devices/vfio0');
    expect(program.bind(this.device, iommufd)).toBe(0);
    const ioas = program.ioas(iommufd);
    expect(program.attach(this.device, ioas)).toBe(0);
    for (const part of [WRITABLE, READ_ONLY, HIDDEN]) {
      program.process.memory.map(part.va, big(part.pages * PAGE));
      program.process.memory.write(part.va, new Uint8Array(part.pages * PAGE).fill(0xa5));
      if (part === HIDDEN) continue;
      const access = part === WRITABLE ? IOMMU_IOAS_MAP_WRITEABLE : 0;
      const flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | access;
      const where = { user_va: part.va, iova: big(part.iova), length: big(part.pages * PAGE) };
      const values = { flags, ioas_id: ioas, ...where };
      expect(program.call(iommufd, IOMMU_IOAS_MAP, iommu_ioas_map, values).rc).toBe(0);
    }
    const enable = PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY;
    program.pwrite(this.device, regionOffset(CONFIG_REGION) + big(PCI_COMMAND), [enable, 0]);
  }

  set(register: number, value: number): void {
    const bytes = [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
    this.program.pwrite(this.device, regionOffset(0) + big(register), bytes);
  }

  store(iova: number, bytes: Uint8Array): void {
    this.program.process.memory.write(WRITABLE.va + big(iova - WRITABLE.iova), bytes);
  }

  enable(): void {
    this.set(REG.CC, 0);
    this.#tails.fill(0);
    this.set(REG.AQA, ((ENTRIES - 1) << 16) | (ENTRIES - 1));
    this.set(REG.ASQ, ASQ);
    this.set(REG.ACQ, ACQ);
    this.set(REG.CC, CC_EN | (6 << 16) | (4 << 20));
    const first = ((ENTRIES - 1) << 16) | 1;
    this.submit(0, { opcode: ADMIN.CREATE_CQ, flags: 0, prp1: big(CQ), prp2: 0n, words: [first, 1] });
    this.submit(0, { opcode: ADMIN.CREATE_SQ, flags: 0, prp1: big(SQ), prp2: 0n, words: [first, 0x1_0001] });
  }

  submit(queue: number, { opcode, flags, prp1, prp2, words }: GuestCommand): void {
    const entry = new DataView(new ArrayBuffer(SQE_BYTES));
    entry.setUint8(SQE.OPCODE, opcode);
    entry.setUint8(SQE.FLAGS, flags);
    entry.setUint32(SQE.NSID, 1, true);
    entry.setBigUint64(SQE.PRP1, prp1, true);
    entry.setBigUint64(SQE.PRP2, prp2, true);
    for (const [index, word] of words.entries()) entry.setUint32(SQE.CDW10 + index * 4, word, true);
    const tail = this.#tails[queue]!;
    this.store((queue === 0 ? ASQ : SQ) + tail * SQE_BYTES, new Uint8Array(entry.buffer));
    this.#tails[queue] = (tail + 1) % ENTRIES;
    this.set(DOORBELLS + queue * 8, this.#tails[queue]!);
    // The host takes every completion at once.
    this.set(DOORBELLS + queue * 8 + 4, this.#tails[queue]!);
  }

  untouched(): boolean {
    return [READ_ONLY, HIDDEN].every(({ va, pages }) => {
      const bytes = new Uint8Array(pages * PAGE);
      this.program.process.memory.read(va, bytes);
      return bytes.every((byte) => byte === 0xa5);
    });
  }
}

interface GuestCommand {
  readonly opcode: number;
  readonly flags: number;
  readonly prp1: bigint;
  readonly prp2: bigint;
  readonly words: readonly number[];
}

const pages = [WRITABLE, READ_ONLY, HIDDEN].flatMap(({ iova, pages: count }) =>
  Array.from({ length: count }, (_, page) => big(iova + page * PAGE)),
);
const address = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom(...pages) },
  { weight: 2, arbitrary: fc.constantFrom(big(LIST), big(LIST + 0xff0), big(READ_ONLY.iova - 512)) },
  { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }) },
);
const command = fc.record({
  opcode: fc.constantFrom<number>(
    IO.READ,
    IO.READ,
    IO.WRITE,
    IO.COMPARE,
    IO.DSM,
    ADMIN.GET_LOG_PAGE,
    ADMIN.IDENTIFY,
  ),
  flags: fc.constantFrom(0, 0, 0, 0x40),
  prp1: address,
  prp2: address,
  // Identify's CNS and a log's id and length; the first block; how many blocks.
  words: fc.tuple(fc.constantFrom(1, 2, 0xff_0001, 0x7f_0002), fc.constant(0), fc.nat(40)),
});

describe.each(IOMMU_TYPES)('an NVMe controller behind an %s', (type) => {
  it('writes nothing that its IOMMU does not let it write, whatever it is told', async () => {
    const guest = await Guest.start(type);
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(1), command), { minLength: 5, maxLength: 40 }),
        fc.array(address, { minLength: 64, maxLength: 64 }),
        (commands, list) => {
          guest.enable();
          const entries = new BigUint64Array(512);
          entries.set(list, 0);
          entries.set(list, 448);
          guest.store(LIST, new Uint8Array(entries.buffer));
          for (const [queue, each] of commands) guest.submit(queue, each);
          expect(guest.untouched()).toBe(true);
        },
      ),
      { numRuns: 25 },
    );
  });
});
