import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { FaultRun, requestOf, staysDone } from './faults.ts';
import {
  ACCESS_FD,
  DEVICE,
  FREE_PASID,
  hwptRequest,
  IOAS,
  mapRequest,
  NESTED,
  OTHER_DEVICE,
  OTHER_IOAS,
  OTHER_SELFTEST,
  PARENT,
  populate,
  request,
  SELFTEST,
  testRequest,
  USED_PASID,
  VIOMMU,
} from './populated.ts';
import { THEMES_COUNT } from './run.ts';
import { viommuResources } from './state.ts';

const LONG = process.env['VIOMMU_LONG'] !== undefined;
const SCRIPT_STEPS_MAX = 240;
const STEPS_MIN = LONG ? 1_000_000 : 8_000;
const RUNS = STEPS_MIN / 50;

const u32 = fc.noShrink(fc.nat({ max: 0xffff_ffff }));
const randomSteps = fc.array(fc.record({ choice: u32, seed: u32 }), {
  minLength: 1,
  maxLength: SCRIPT_STEPS_MAX,
  size: 'max',
});

describe('a request in which an allocation or a copy fails', () => {
  test(
    'leaves everything as it was, and answers as ever when it is asked again',
    { timeout: LONG ? 3_600_000 : 300_000 },
    () => {
      let taken = 0;
      let failures = 0;
      const script = fc.property(
        fc.noShrink(fc.nat({ max: THEMES_COUNT - 1 })),
        u32,
        randomSteps,
        (theme, seed, steps) => {
          const run = new FaultRun(theme, seed);
          for (const step of steps) run.step(step);
          run.end();
          taken += steps.length;
          failures += run.failures;
        },
      );
      fc.assert(script, { numRuns: RUNS });
      expect(taken).toBeGreaterThanOrEqual(STEPS_MIN);
      expect(failures).toBeGreaterThan(STEPS_MIN / 10);
    },
  );
});

const REQUESTS: Readonly<Record<string, string>> = {
  IOAS_ALLOC: request(0x81, 12, () => {}),
  IOAS_ALLOW_IOVAS: request(0x82, 24, (struct) => struct.u32(4, OTHER_IOAS).u32(8, 1).buffer(16, 2)),
  IOAS_COPY: request(0x83, 40, (struct) =>
    struct
      .u32(4, 7)
      .u32(8, OTHER_IOAS)
      .u32(12, IOAS)
      .u64(16, 0x4000n)
      .u64(24, 0x120_0000n)
      .u64(32, 0x100_0000n),
  ),
  IOAS_IOVA_RANGES: request(0x84, 32, (struct) => struct.u32(4, IOAS).u32(8, 8).buffer(16, 3)),
  IOAS_MAP: mapRequest(IOAS, 0x120_0000n),
  'IOAS_MAP where room is': request(0x85, 40, (struct) =>
    struct.u32(4, 6).u32(8, IOAS).arena(16, 0n).u64(24, 0x8000n),
  ),
  IOAS_MAP_FILE: request(0x8f, 40, (struct) =>
    struct.u32(4, 7).u32(8, IOAS).memfd(12, 0).u64(24, 0x4000n).u64(32, 0x120_0000n),
  ),
  IOAS_UNMAP: request(0x86, 24, (struct) => struct.u32(4, IOAS).u64(8, 0x100_0000n).u64(16, 0x4000n)),
  OPTION: request(0x87, 24, (struct) => struct.u32(4, 1).u16(8, 1).u32(12, IOAS)),
  VFIO_IOAS: request(0x88, 12, (struct) => struct.u32(4, IOAS)),
  'HWPT_ALLOC on an IOAS': hwptRequest(8, IOAS, false),
  'HWPT_ALLOC with a fault queue': hwptRequest(4, IOAS, false),
  'HWPT_ALLOC on a HWPT': hwptRequest(8, PARENT, true),
  'HWPT_ALLOC on a viommu': hwptRequest(12, VIOMMU, true),
  GET_HW_INFO: request(0x8a, 40, (struct) => struct.u32(8, DEVICE).u32(12, 8).buffer(16, 3)),
  HWPT_SET_DIRTY_TRACKING: request(0x8b, 16, (struct) => struct.u32(4, 0).u32(8, PARENT)),
  HWPT_GET_DIRTY_BITMAP: request(0x8c, 48, (struct) =>
    struct.u32(4, PARENT).u64(16, 0x100_0000n).u64(24, 0x4000n).u64(32, 4096n).buffer(40, 3),
  ),
  HWPT_INVALIDATE: request(0x8d, 32, (struct) =>
    struct.u32(4, NESTED).buffer(8, 4).u32(16, 0xdeadbeef).u32(20, 8).u32(24, 2),
  ),
  'HWPT_INVALIDATE on a viommu': request(0x8d, 32, (struct) =>
    struct.u32(4, VIOMMU).buffer(8, 5).u32(16, 0xdeadbeef).u32(20, 12).u32(24, 1),
  ),
  FAULT_QUEUE_ALLOC: request(0x8e, 16, () => {}),
  VIOMMU_ALLOC: request(0x90, 40, (struct) =>
    struct.u32(8, 0xdeadbeef).u32(12, DEVICE).u32(16, PARENT).u32(24, 24).buffer(32, 1),
  ),
  VDEVICE_ALLOC: request(0x91, 24, (struct) => struct.u32(4, VIOMMU).u32(8, OTHER_DEVICE).u64(16, 1n)),
  VEVENTQ_ALLOC: request(0x93, 32, (struct) => struct.u32(8, VIOMMU).u32(12, 1).u32(16, 4)),
  HW_QUEUE_ALLOC: request(0x94, 40, (struct) =>
    struct.u32(8, VIOMMU).u32(12, 0xdeadbeef).u64(24, 0x110_0000n).u64(32, 0x2000n),
  ),
  VFIO_IOMMU_MAP_DMA: request(0x71, 32, (struct) =>
    struct.u32(4, 3).arena(8, 0n).u64(16, 0x120_0000n).u64(24, 0x4000n),
  ),
  ADD_RESERVED: testRequest(1, (struct) => struct.u32(8, IOAS).u64(16, 0x130_0000n).u64(24, 0x1000n)),
  MOCK_DOMAIN: testRequest(2, (struct) => struct.u32(8, IOAS)),
  'MOCK_DOMAIN on a new domain': testRequest(12, (struct) => struct.u32(8, PARENT).u32(28, 4)),
  CREATE_ACCESS: testRequest(5, (struct) => struct.u32(8, IOAS).u32(20, 1)),
  ACCESS_PAGES: testRequest(7, (struct) => struct.u32(8, ACCESS_FD).u64(24, 0x100_0000n).u64(32, 0x2000n)),
  ACCESS_RW: testRequest(8, (struct) =>
    struct.u32(8, ACCESS_FD).u64(16, 0x100_0000n).u64(24, 0x1800n).u32(40, 4).arena(32, 0x20000n),
  ),
  MOCK_DOMAIN_REPLACE: testRequest(10, (struct) => struct.u32(8, SELFTEST).u32(16, PARENT)),
  'MOCK_DOMAIN_REPLACE by an IOAS': testRequest(10, (struct) => struct.u32(8, OTHER_SELFTEST).u32(16, IOAS)),
  ACCESS_REPLACE_IOAS: testRequest(11, (struct) => struct.u32(8, ACCESS_FD).u32(16, OTHER_IOAS)),
  DIRTY: testRequest(13, (struct) =>
    struct.u32(8, PARENT).u64(24, 0x100_0000n).u64(32, 0x4000n).u64(40, 4096n).buffer(48, 4),
  ),
  PASID_ATTACH: testRequest(18, (struct) => struct.u32(8, SELFTEST).u32(16, FREE_PASID).u32(20, NESTED)),
  PASID_REPLACE: testRequest(19, (struct) => struct.u32(8, SELFTEST).u32(16, USED_PASID).u32(20, NESTED)),
  DMABUF_GET: testRequest(22, (struct) => struct.u32(16, 8192).u32(20, 0o2000000)),
};

interface Attempt {
  readonly injected: boolean;
  readonly answer: string;
}

/** Asks for something in a fresh context whose nth point fails. */
function attempt(line: string, nth: number): Attempt {
  const run = populate();
  const { player } = run;
  const before = viommuResources(player.kernel, player.process);
  player.task.failNth.remaining = nth;
  player.step(line);
  const injected = player.task.failNth.remaining === 0;
  player.task.failNth.remaining = 0;
  const answer = player.lines.at(-1)!;
  const done = answer.includes('errno=14 ') && staysDone(requestOf(line)!);
  if (answer.includes('rc=-1') && !done) expect(viommuResources(player.kernel, player.process)).toBe(before);
  player.process.exit();
  expect(player.kernel.physical.frames.pinned).toBe(0);
  expect(player.kernel.physical.ram.size).toBe(0);
  return { injected, answer };
}

describe('with each point in turn failing', () => {
  test.each(Object.entries(REQUESTS))('%s fails cleanly until no point is left', (_name, line) => {
    const answers: string[] = [];
    for (let nth = 1; ; nth++) {
      const { injected, answer } = attempt(line, nth);
      if (!injected) {
        expect(answer).not.toContain('rc=-1');
        break;
      }
      answers.push(answer);
    }
    expect(answers.some((answer) => answer.includes('rc=-1'))).toBe(true);
  });
});
