import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { big, exact, lo32 } from '../base/u64.ts';
import { OFFSET as AMD } from '../iommu/amd/spec/registers.ts';
import { OFFSET as SMMU } from '../iommu/arm-smmu-v3/spec/registers.ts';
import { OFFSET as VTD } from '../iommu/intel/spec/registers.ts';
import type { Kernel } from '../machine/kernel.ts';
import type { IommuType } from '../machine/machine-file/parts.ts';
import { failed } from '../base/result.ts';
import type { AssignedDevice } from './assigned-device.ts';
import { bootGuest, type BootedGuest } from './guests/boot.ts';
import { DmaEngineGuest } from './guests/dma-engine.ts';
import { Program } from './program.ts';
import { BASE, found, machine, ok, STALLING } from './testing/vm.ts';
import type { VirtualIommu } from './virtual-iommu.ts';
import { VirtualMachine } from './virtual-machine.ts';

// A guest that writes whatever it likes into its IOMMU's registers, queues and tables. The VMM never throws, nothing is
// reached outside of the guest's memory, a neighbour behind the same IOMMU notices nothing, and the guest can start over.

const GUEST_BYTES = 4 << 20;
const DEVICE = 0x18;
const IOVA = 0x5000_0000n;
/** What lies around the guest's memory in the VMM. */
const SECRET = 0xc5;
const SECRET_BYTES = 0x4000;
/** Pages that the guest's driver has taken lie here; the hostile guest writes among them. */
const PAGES = 40;

interface Dialect {
  readonly type: IommuType;
  readonly registers: readonly number[];
  /** Puts a command of four words into the queue that the registers tell of, and rings. */
  submit(vm: VirtualMachine, iommu: VirtualIommu, words: readonly [bigint, bigint]): void;
  /** A command of the vendor's, with whatever in its other bits. */
  readonly commands: fc.Arbitrary<readonly [bigint, bigint]>;
}

/** Addresses and numbers that lead somewhere, and bits at random. */
const value = fc.oneof(
  fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
  fc
    .tuple(fc.nat(PAGES), fc.bigInt({ min: 0n, max: 0xfffn }))
    .map(([page, bits]) => big(BASE + page * 4096) | bits),
  fc
    .tuple(fc.nat(PAGES), fc.bigInt({ min: 0n, max: 0xffffn }))
    .map(([page, bits]) => big(BASE + page * 4096) | (bits << 48n)),
  fc.constantFrom(0n, 1n, 3n, 0x67n, (1n << 64n) - 1n, big(BASE + GUEST_BYTES), big(BASE - 4096), 1n << 52n),
  fc.bigInt({ min: 0n, max: 0xffn }),
);

const command = (opcodes: readonly number[], shift: bigint): fc.Arbitrary<readonly [bigint, bigint]> =>
  fc.tuple(
    fc.oneof(fc.constantFrom(...opcodes), fc.nat(255)).chain((opcode) =>
      fc.oneof(value, fc.constant(big(DEVICE) << 32n), fc.constant(big(DEVICE))).map((rest) => {
        const field = shift === 0n ? 0xffn : 0xfn << shift;
        return BigInt.asUintN(64, (rest & ~field) | (big(opcode) << shift));
      }),
    ),
    value,
  );

const DIALECTS: readonly Dialect[] = [
  {
    type: 'arm-smmu-v3',
    registers: Object.values(SMMU),
    commands: command(
      [0x01, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x30, 0x40, 0x41, 0x44, 0x45, 0x46],
      0n,
    ),
    submit(vm, iommu, words) {
      const base = iommu.readRegister(SMMU.CMDQ_BASE, 8);
      const log2 = exact(base & 31n);
      const prod = lo32(iommu.readRegister(SMMU.CMDQ_PROD, 4));
      const at = exact(base & 0xf_ffff_ffff_ffe0n) + (prod % 2 ** Math.min(log2, 8)) * 16;
      store(vm, at, words);
      iommu.writeRegister(SMMU.CMDQ_PROD, 4, big((prod + 1) % 2 ** (Math.min(log2, 8) + 1)));
    },
  },
  {
    type: 'intel-iommu',
    registers: [...Object.values(VTD), 0xf0, 0xf8, 0x220, 0x22c],
    commands: command([1, 2, 3, 5, 6, 7, 8, 9, 0xa], 0n).map(([low, high]) => [
      (low & ~0xf0n & ~0xe00n) | (low & 0x30n),
      high,
    ]),
    submit(vm, iommu, words) {
      const iqa = iommu.readRegister(VTD.IQA, 8);
      const bytes = (iqa & (1n << 11n)) === 0n ? 16 : 32;
      const tail = lo32(iommu.readRegister(VTD.IQT, 8));
      store(vm, exact(iqa & 0xf_ffff_ffff_f000n) + tail, words);
      iommu.writeRegister(VTD.IQT, 8, big((tail + bytes) % 4096));
    },
  },
  {
    type: 'amd-iommu',
    registers: Object.values(AMD),
    commands: command([1, 2, 3, 4, 5, 6, 7, 8], 60n),
    submit(vm, iommu, words) {
      const base = iommu.readRegister(AMD.CMD_BUF_BASE, 8);
      const tail = lo32(iommu.readRegister(AMD.CMD_TAIL, 4));
      store(vm, exact(base & 0xf_ffff_ffff_f000n) + tail, words);
      iommu.writeRegister(AMD.CMD_TAIL, 4, big((tail + 16) % 4096));
    },
  },
];

function store(vm: VirtualMachine, at: number, words: readonly bigint[]): void {
  for (const [index, word] of words.entries())
    vm.memory.store64(at + index * 8, lo32(word), lo32(word >> 32n));
}

/** What a hostile guest does, one thing after the other. */
type Step =
  | { readonly do: 'register'; readonly at: number; readonly wide: boolean; readonly value: bigint }
  | { readonly do: 'memory'; readonly page: number; readonly word: number; readonly value: bigint }
  | { readonly do: 'command'; readonly words: readonly [bigint, bigint] }
  | { readonly do: 'dma'; readonly iova: bigint; readonly write: boolean; readonly pasid: number | null }
  | { readonly do: 'engine'; readonly iova: bigint; readonly pasid: number }
  | { readonly do: 'poll' };

function steps({ registers, commands }: Dialect): fc.Arbitrary<Step[]> {
  const pasid = fc.nat(3);
  const one = fc.oneof<fc.MaybeWeightedArbitrary<Step>[]>(
    {
      weight: 4,
      arbitrary: fc.record({
        do: fc.constant('register' as const),
        at: fc.oneof({ weight: 9, arbitrary: fc.constantFrom(...registers) }, fc.nat(0x2_1000)),
        wide: fc.boolean(),
        value,
      }),
    },
    {
      weight: 8,
      arbitrary: fc.record({
        do: fc.constant('memory' as const),
        page: fc.nat(PAGES),
        word: fc.oneof(fc.nat(15), fc.nat(511), fc.constant(DEVICE * 8), fc.constant(DEVICE * 4)),
        value,
      }),
    },
    { weight: 12, arbitrary: fc.record({ do: fc.constant('command' as const), words: commands }) },
    {
      weight: 4,
      arbitrary: fc.record({
        do: fc.constant('dma' as const),
        iova: fc.oneof(fc.constant(IOVA), value),
        write: fc.boolean(),
        pasid: fc.oneof(fc.constant(null), pasid),
      }),
    },
    {
      weight: 2,
      arbitrary: fc.record({
        do: fc.constant('engine' as const),
        iova: fc.oneof(fc.constant(IOVA), value),
        pasid,
      }),
    },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('poll' as const) }) },
  );
  return fc.array(one, { minLength: 1, maxLength: 80, size: 'max' });
}

/** A guest with its VMM. */
interface Party extends BootedGuest {
  readonly vm: VirtualMachine;
  readonly device: AssignedDevice;
  readonly secrets: readonly bigint[];
}

/** `device` of the machine, given to a guest that has secrets before and behind its memory. */
function party(kernel: Kernel, pid: number, device: number): Party {
  const program = new Program(kernel, pid);
  const secret = (): bigint => {
    const at = program.allocate(big(SECRET_BYTES));
    program.process.memory.write(at, new Uint8Array(SECRET_BYTES).fill(SECRET));
    return at;
  };
  const before = secret();
  const vm = ok(VirtualMachine.of(program, { base: BASE, bytes: GUEST_BYTES }));
  const secrets = [before, secret()];
  const opened = ok(vm.openDevice(`/dev/vfio/devices/vfio${device}`));
  const booted = ok(bootGuest(vm, new Map([[DEVICE, opened]])));
  attach(booted);
  return { ...booted, vm, device: opened, secrets };
}

/** A page at IOVA without PASID, and one at PASID 1. */
function attach({ driver }: BootedGuest): void {
  for (const pasid of [0, 1]) {
    const space = driver.space();
    const page = driver.pages.page(`in${pasid}`);
    space.tables.map(IOVA, page);
    driver.attach(DEVICE, space, pasid);
  }
}

const reads = ({ device }: Pick<Party, 'device'>): string[] =>
  [null, 1].map((pasid) => found(device, IOVA, pasid));

function act(dialect: Dialect, { vm, iommu, device }: Party, engine: DmaEngineGuest, step: Step): void {
  switch (step.do) {
    case 'register':
      iommu.writeRegister(step.at, step.wide ? 8 : 4, step.value);
      iommu.readRegister(step.at, step.wide ? 8 : 4);
      break;
    case 'memory':
      store(vm, BASE + step.page * 4096 + step.word * 8, [step.value]);
      break;
    case 'command':
      dialect.submit(vm, iommu, step.words);
      break;
    case 'dma': {
      if (step.write) device.dmaWrite(step.iova, new Uint8Array(16).fill(0x77), step.pasid);
      const read = device.dmaRead(step.iova, 16, step.pasid);
      if (!failed(read)) expect(read.every((byte) => byte === SECRET)).toBe(false);
      break;
    }
    case 'engine':
      engine.store({ iova: step.iova, pasid: step.pasid }, 0x1800, 0x77);
      break;
    case 'poll':
      iommu.poll();
  }
}

/** The guest starts over: its IOMMU as it finds it, and memory that it takes anew. */
function startOver({ vm, iommu, driver, device }: Party, engine: DmaEngineGuest): void {
  engine.abort();
  const again = new (driver.constructor as new (...args: unknown[]) => BootedGuest['driver'])(
    driver.pages,
    iommu,
  );
  for (let left = 200; left > 0 && iommu.poll(); left--);
  while (again.pageRequest() !== null);
  attach({ iommu, driver: again });
  expect(reads({ device })).toEqual(['in0', 'in1']);
  expect(vm.memory.bytes).toBe(GUEST_BYTES);
}

describe.each(DIALECTS)('a hostile guest behind its own $type', (dialect) => {
  const { type } = dialect;

  it('harms nobody, and can start over', async () => {
    const options = type === 'arm-smmu-v3' ? STALLING : {};
    await fc.assert(
      fc.asyncProperty(steps(dialect), async (script) => {
        const kernel = await machine(type, { ...options, devices: 2 });
        const neighbour = party(kernel, 1, 1);
        const hostile = party(kernel, 2, 0);
        const engine = new DmaEngineGuest(hostile.device);
        for (const step of script) act(dialect, hostile, engine, step);
        const bytes = new Uint8Array(SECRET_BYTES);
        for (const { vm, secrets } of [hostile, neighbour])
          for (const at of secrets) {
            vm.program.process.memory.read(at, bytes);
            expect(bytes.every((byte) => byte === SECRET)).toBe(true);
          }
        expect(reads(neighbour)).toEqual(['in0', 'in1']);
        startOver(hostile, engine);
      }),
      { numRuns: 20 },
    );
  }, 60_000);
});
