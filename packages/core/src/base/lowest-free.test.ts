import fc from 'fast-check';
import { expect, test } from 'vitest';
import { LowestFree } from './lowest-free.ts';

test('the lowest number that is free is given, whatever was taken and given back before', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 5 }),
      fc.array(fc.nat({ max: 99 }), { maxLength: 400 }),
      (first, steps) => {
        const numbers = new LowestFree(first);
        const taken = new Set<number>();
        for (const step of steps) {
          if (step % 3 === 0 && taken.size > 0) {
            const victim = [...taken][step % taken.size]!;
            taken.delete(victim);
            numbers.give(victim);
            continue;
          }
          let lowest = first;
          while (taken.has(lowest)) lowest++;
          expect(numbers.take()).toBe(lowest);
          taken.add(lowest);
        }
      },
    ),
  );
});
