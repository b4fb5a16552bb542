import { Run } from './run.ts';
import { StructWriter } from './script/script.ts';

// One context with some of everything. Ids and descriptors are the lowest free ones, so they are known.

export const IOAS = 1;
export const SELFTEST = 2;
export const DEVICE = 3;
export const PARENT = 5;
export const VIOMMU = 6;
export const FAULT = 8;
export const NESTED = 9;
/** The id of the domain that the device had at first. */
const VEVENTQ = 4;
export const OTHER_IOAS = 10;
export const OTHER_SELFTEST = 11;
export const OTHER_DEVICE = 12;
export const ACCESS_FD = 9;
export const FREE_PASID = 7;
export const USED_PASID = 5;

export function request(command: number, size: number, fill: (struct: StructWriter) => void): string {
  const struct = new StructWriter(size);
  fill(struct);
  return struct.line(0, command);
}

export function testRequest(op: number, fill: (struct: StructWriter) => void): string {
  return request(0xa0, 72, (struct) => {
    struct.u32(4, op);
    fill(struct);
  });
}

export function mapRequest(ioas: number, iova: bigint, length = 0x4000n): string {
  return request(0x85, 40, (struct) =>
    struct.u32(4, 7).u32(8, ioas).arena(16, 0x8000n).u64(24, length).u64(32, iova),
  );
}

export function hwptRequest(flags: number, on: number, nested: boolean): string {
  return request(0x89, 48, (struct) => {
    struct.u32(4, flags).u32(8, DEVICE).u32(12, on).u32(40, FAULT);
    if (nested) struct.u32(24, 0xdead).u32(28, 8).buffer(32, 0);
  });
}

const POPULATION: readonly (readonly [line: string, id: number | null])[] = [
  ['A 0 0500000000000000', null],
  [request(0x81, 12, () => {}), IOAS],
  [mapRequest(IOAS, 0x100_0000n), null],
  [
    request(0x8f, 40, (struct) =>
      struct.u32(4, 7).u32(8, IOAS).memfd(12, 0).u64(24, 0x4000n).u64(32, 0x110_0000n),
    ),
    null,
  ],
  [testRequest(12, (struct) => struct.u32(8, IOAS).u32(28, 4)), SELFTEST],
  [hwptRequest(11, IOAS, false), PARENT],
  [
    request(0x90, 40, (struct) =>
      struct.u32(8, 0xdeadbeef).u32(12, DEVICE).u32(16, PARENT).u32(24, 24).buffer(32, 1),
    ),
    VIOMMU,
  ],
  [request(0x91, 24, (struct) => struct.u32(4, VIOMMU).u32(8, DEVICE).u64(16, 0x99n)), 7],
  [request(0x8e, 16, () => {}), FAULT],
  [hwptRequest(12, VIOMMU, true), NESTED],
  [testRequest(10, (struct) => struct.u32(8, SELFTEST).u32(16, NESTED)), null],
  [testRequest(18, (struct) => struct.u32(8, SELFTEST).u32(16, USED_PASID).u32(20, PARENT)), null],
  [request(0x93, 32, (struct) => struct.u32(8, VIOMMU).u32(12, 0xbeefbeef).u32(16, 4)), VEVENTQ],
  [request(0x81, 12, () => {}), OTHER_IOAS],
  [testRequest(12, (struct) => struct.u32(8, OTHER_IOAS).u32(28, 4)), OTHER_SELFTEST],
  [testRequest(5, (struct) => struct.u32(8, IOAS).u32(20, 1)), null],
  [request(0x8b, 16, (struct) => struct.u32(4, 1).u32(8, PARENT)), null],
  [request(0x88, 12, (struct) => struct.u32(4, IOAS).u16(8, 1)), null],
];

/** A run of a script that made all of it. */
export function populate(): Run {
  const run = new Run(0);
  run.script.add(`A 2 ${Buffer.from(new BigUint64Array([0x100_0000n, 0x1ff_ffffn]).buffer).toString('hex')}`);
  run.script.add(`A 4 ${'0000000001000000'.repeat(2)}`);
  run.script.add('A 5 000000009900000001000000');
  for (const [line, id] of POPULATION) {
    run.script.add(line);
    const answer = run.player.lines.at(-1)!;
    if (line.startsWith('I') && !answer.includes('rc=0')) throw new Error(`${line} answers ${answer}`);
    if (id !== null) run.script.context(0)!.find(id);
  }
  return run;
}
