import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { InvariantError } from '../../base/assert.ts';
import { failed, type Result } from '../../base/result.ts';
import { PINNED_PAGES_MAX } from '../../base/limits.ts';
import { big, PAGE_SIZE } from '../../base/u64.ts';
import { EFAULT, EINVAL, ENOMEM, EOVERFLOW, EPERM } from '../../abi/errno.ts';
import { Kernel } from '../../machine/kernel.ts';
import {
  SimulatedMemfd,
  SimulatedProcess,
  simulatedTask,
  type MapOptions,
} from '../../memory/simulated-process.ts';
import { ACCOUNT_USER } from './accounting.ts';
import { allocUserPages, IoptPages, type PagesHolder } from './pages.ts';

const VA = 0x10_0000n;
const PAGES = 64;

/** A process with 64 pages of memory at VA, and a way to make pages of them. */
function setUp(options: MapOptions = {}) {
  const kernel = new Kernel();
  const process = new SimulatedProcess(1);
  const task = simulatedTask(process);
  kernel.current = task;
  process.memory.map(VA, BigInt(PAGES * PAGE_SIZE), options);
  const { frames } = kernel.physical;
  const pages = (length = BigInt(PAGES * PAGE_SIZE), writable = true, startByte = 0): IoptPages =>
    new IoptPages(kernel, kernel.locked, { type: 'user', va: VA }, startByte, length, writable);
  return { kernel, process, task, frames, pages };
}

function holder(firstIndex: number, lastIndex: number): PagesHolder {
  return { firstIndex, lastIndex };
}

const errnoOf = (result: Result<unknown>): number | null => (failed(result) ? result.errno : null);

describe('pages', () => {
  test('are as many as the bytes touch', () => {
    const { pages } = setUp();
    expect(pages(4096n).npages).toBe(1);
    expect(pages(4097n).npages).toBe(2);
    expect(pages(4096n, true, 1).npages).toBe(2);
    expect(pages(1n, true, 4095).npages).toBe(1);
  });

  test('of no length, or of more than an address space, are not made', () => {
    const { kernel } = setUp();
    const make = (va: bigint, length: bigint): Result<IoptPages> =>
      allocUserPages(kernel, kernel.locked, va, length, true);
    expect(errnoOf(make(VA, 0n))).toBe(EINVAL);
    expect(errnoOf(make(0xffff_ffff_ffff_f000n, 0x2000n))).toBe(EOVERFLOW);
    expect(errnoOf(make(0n, 2n ** 64n - 1n))).toBe(EINVAL);
    expect(errnoOf(make(VA, 1n))).toBe(null);
  });

  test('are pinned with the first holder and let go with the last', () => {
    const { pages, frames, process } = setUp();
    const made = pages();
    const [one, other] = [holder(2, 9), holder(5, 12)];
    made.hold(one);
    expect([made.npinned, frames.pinned]).toEqual([8, 8]);
    made.hold(other);
    expect([made.npinned, frames.pinned, process.memory.pinnedPages]).toEqual([11, 11, 11]);
    made.release(one);
    expect([made.npinned, frames.pinned]).toEqual([8, 8]);
    made.release(other);
    expect([made.npinned, frames.pinned, process.memory.pinnedPages]).toEqual([0, 0, 0]);
  });

  test('beyond what a machine can hold are not pinned, and nothing has changed', () => {
    const kernel = new Kernel();
    const process = new SimulatedProcess(1);
    kernel.current = simulatedTask(process);
    const { frames } = kernel.physical;
    const bytes = big(PINNED_PAGES_MAX) * BigInt(PAGE_SIZE);
    process.memory.map(VA, 2n * bytes, {});
    const made = new IoptPages(kernel, kernel.locked, { type: 'user', va: VA }, 0, 2n * bytes, true);
    expect(errnoOf(made.hold(holder(0, 9)))).toBe(null);
    expect(errnoOf(made.hold(holder(0, PINNED_PAGES_MAX)))).toBe(ENOMEM);
    expect([made.npinned, frames.pinned, process.memory.pinnedPages]).toEqual([10, 10, 10]);
  });

  test('stay pinned where a holder gives its place to others', () => {
    const { pages, frames } = setUp();
    const made = pages();
    const whole = holder(0, 9);
    const [left, right] = [holder(0, 3), holder(4, 9)];
    made.hold(whole);
    made.exchange(whole, [left, right]);
    expect(frames.pinned).toBe(10);
    made.release(left);
    expect(frames.pinned).toBe(6);
    made.release(right);
    expect(frames.pinned).toBe(0);
  });

  test('are released by who held them, and freed by nobody who holds them', () => {
    const { pages } = setUp();
    const made = pages();
    const one = holder(0, 0);
    made.hold(one);
    expect(() => made.release(holder(0, 0))).toThrow(InvariantError);
    expect(() => made.put()).toThrow(InvariantError);
  });

  test('that are not there are EFAULT, and then none of them is pinned', () => {
    const { pages, frames, process } = setUp();
    process.memory.unmap(VA + 8n * 4096n, 4096n);
    const made = pages();
    made.hold(holder(2, 3));
    expect(errnoOf(made.hold(holder(0, 9)))).toBe(EFAULT);
    expect([frames.pinned, made.npinned, process.memory.pinnedPages]).toEqual([2, 2, 2]);
    expect(errnoOf(made.hold(holder(9, 12)))).toBe(null);
  });

  test('that are already pinned need not be there any more', () => {
    const { pages, process } = setUp();
    const made = pages();
    made.hold(holder(2, 3));
    process.memory.unmap(VA + 2n * 4096n, 4096n);
    expect(errnoOf(made.hold(holder(2, 3)))).toBe(null);
    expect(errnoOf(made.hold(holder(1, 3)))).toBe(null);
  });

  test('of read-only memory can be read only', () => {
    const { pages } = setUp({ writable: false });
    expect(errnoOf(pages(4096n, true).hold(holder(0, 0)))).toBe(EFAULT);
    expect(errnoOf(pages(4096n, false).hold(holder(0, 0)))).toBe(null);
  });

  test('show the frames of private memory one by one, and those of a file in one run', () => {
    const alone = setUp();
    const counts = (made: IoptPages): number[] => {
      const found: number[] = [];
      made.hold(holder(0, 2));
      made.hold(holder(3, 5));
      made.eachRun(1, 4, (_, count) => found.push(count));
      return found;
    };
    expect(counts(alone.pages())).toEqual([1, 1, 1, 1]);
    const shared = setUp({ shared: { file: new SimulatedMemfd(0x10_0000n), offset: 0n } });
    expect(counts(shared.pages())).toEqual([4]);
  });

  test('with any failing point are left as they were', () => {
    const { pages, frames, process, task } = setUp();
    process.uid = 1000;
    const made = pages();
    made.accountMode = ACCOUNT_USER;
    made.hold(holder(2, 3));
    for (let nth = 1; ; nth++) {
      task.failNth.remaining = nth;
      const held = made.hold(holder(0, 9));
      const injected = task.failNth.remaining === 0;
      task.failNth.remaining = 0;
      if (!injected) {
        expect(errnoOf(held)).toBe(null);
        break;
      }
      expect([ENOMEM, EFAULT]).toContain(errnoOf(held));
      expect([frames.pinned, made.npinned, process.memory.pinnedPages]).toEqual([2, 2, 2]);
    }
    expect(frames.pinned).toBe(10);
  });
});

describe('random holders', () => {
  const range = fc
    .tuple(fc.nat({ max: PAGES - 1 }), fc.nat({ max: PAGES - 1 }))
    .map(([a, b]) => holder(Math.min(a, b), Math.max(a, b)));
  const step = fc.record({ add: fc.boolean(), range, which: fc.nat(), cut: fc.boolean() });

  test('pin what at least one of them covers, each page once', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const { pages, frames, process } = setUp();
        const made = pages();
        const held: PagesHolder[] = [];
        for (const { add, range: wanted, which, cut } of steps) {
          if (add || held.length === 0) {
            const each = { ...wanted };
            expect(made.hold(each)).toBe(undefined);
            held.push(each);
          } else {
            const [old] = held.splice(which % held.length, 1);
            if (cut && old!.firstIndex < old!.lastIndex) {
              const halves = [
                holder(old!.firstIndex, old!.firstIndex),
                holder(old!.firstIndex + 1, old!.lastIndex),
              ];
              made.exchange(old!, halves);
              held.push(...halves);
            } else {
              made.release(old!);
            }
          }
          const covered = Array.from({ length: PAGES }, (_, index) =>
            held.some((each) => each.firstIndex <= index && index <= each.lastIndex),
          );
          const count = covered.filter(Boolean).length;
          expect([made.npinned, frames.pinned, process.memory.pinnedPages]).toEqual([count, count, count]);
          const seen: number[] = [];
          made.eachRun(0, PAGES - 1, (frame, run) => {
            for (let i = 0; i < run; i++) seen.push(frame + i);
          });
          expect(new Set(seen).size).toBe(count);
        }
        for (const each of held) made.release(each);
        made.put();
        expect([frames.pinned, frames.chunks]).toEqual([0, 0]);
      }),
    );
  });
});

describe('a copy to or from pages', () => {
  const data = (): Uint8Array => new Uint8Array([1, 2, 3, 4]);

  test('reaches the program’s memory', () => {
    const { pages, process } = setUp();
    const made = pages();
    expect(made.rw(4094n, data(), true, false)).toBe(undefined);
    const into = new Uint8Array(6);
    process.memory.read(VA + 4093n, into);
    expect([...into]).toEqual([0, 1, 2, 3, 4, 0]);
    const out = new Uint8Array(4);
    expect(made.rw(4094n, out, false, true)).toBe(undefined);
    expect([...out]).toEqual([1, 2, 3, 4]);
  });

  test('does not write read-only pages', () => {
    const { pages } = setUp();
    expect(errnoOf(pages(4096n, false).rw(0n, data(), true, false))).toBe(EPERM);
    expect(errnoOf(pages(4096n, false).rw(0n, data(), false, false))).toBe(null);
  });

  test.each([false, true])('is EFAULT where the memory is gone (slow: %s)', (slow) => {
    const { pages, process } = setUp();
    const made = pages();
    process.memory.unmap(VA + 4096n, 4096n);
    expect(errnoOf(made.rw(4094n, data(), false, slow))).toBe(EFAULT);
    expect(errnoOf(made.rw(4096n, data(), false, slow))).toBe(EFAULT);
    expect(errnoOf(made.rw(4092n, data(), false, slow))).toBe(null);
  });

  test('pins a page on the slow path, and so is EFAULT for memory of a device', () => {
    const { pages } = setUp({ pinnable: false });
    const made = pages();
    expect(errnoOf(made.rw(8n, data(), true, false))).toBe(null);
    expect(errnoOf(made.rw(8n, data(), true, true))).toBe(EFAULT);
    expect(errnoOf(made.rw(4094n, data(), true, true))).toBe(EFAULT);
  });

  test('of another program reaches the memory of who mapped it', () => {
    const { kernel, pages, process } = setUp();
    const made = pages();
    process.memory.write(VA + 8190n, data());
    const other = new SimulatedProcess(2);
    kernel.current = simulatedTask(other);
    const out = new Uint8Array(4);
    expect(made.rw(8190n, out, false, false)).toBe(undefined);
    expect([...out]).toEqual([1, 2, 3, 4]);
    expect(made.rw(0n, out, true, false)).toBe(undefined);
    process.memory.read(VA, out);
    expect([...out]).toEqual([1, 2, 3, 4]);
  });

  test('is EFAULT after who mapped it exited, but for what is pinned', () => {
    const { kernel, pages, process } = setUp({
      shared: { file: new SimulatedMemfd(0x10_0000n), offset: 0n },
    });
    const made = pages();
    made.hold(holder(1, 1));
    process.memory.write(VA + 4096n, data());
    process.exit();
    kernel.current = simulatedTask(new SimulatedProcess(2));
    const out = new Uint8Array(4);
    expect(made.rw(4096n, out, false, false)).toBe(undefined);
    expect([...out]).toEqual([1, 2, 3, 4]);
    expect(errnoOf(made.rw(0n, out, false, false))).toBe(EFAULT);
    expect(errnoOf(made.rw(8190n, out, false, false))).toBe(EFAULT);
  });
});
