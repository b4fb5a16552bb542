import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Fifo } from './fifo.ts';

describe('a queue', () => {
  test('gives what came first', () => {
    const queue = new Fifo<string>();
    queue.push('a');
    queue.push('b');
    queue.push('c');
    expect([queue.first, queue.last, queue.length]).toEqual(['a', 'c', 3]);
    expect([queue.shift(), queue.shift(), queue.shift(), queue.shift()]).toEqual(['a', 'b', 'c', undefined]);
  });

  test('has no first and no last where it is empty', () => {
    const queue = new Fifo<number>();
    queue.push(1);
    queue.shift();
    expect([queue.first, queue.last, queue.pop(), queue.length]).toEqual([
      undefined,
      undefined,
      undefined,
      0,
    ]);
  });

  test('lets some of those that wait go', () => {
    const queue = new Fifo<number>();
    for (let i = 0; i < 6; i++) queue.push(i);
    queue.shift();
    expect(queue.take((item) => item % 2 === 0)).toEqual([2, 4]);
    expect([...queue]).toEqual([1, 3, 5]);
  });

  test('is what an array is, after any operations', () => {
    const operation = fc.oneof(fc.nat(9), fc.constantFrom('shift' as const, 'pop' as const, 'take' as const));
    fc.assert(
      fc.property(fc.array(operation, { size: 'large' }), (operations) => {
        const queue = new Fifo<number>();
        let array: number[] = [];
        for (const each of operations) {
          if (typeof each === 'number') {
            queue.push(each);
            array.push(each);
          } else if (each === 'take') {
            expect(queue.take((item) => item > 6)).toEqual(array.filter((item) => item > 6));
            array = array.filter((item) => item <= 6);
          } else {
            expect(queue[each]()).toBe(array[each]());
          }
          expect([[...queue], queue.first, queue.last]).toEqual([array, array[0], array.at(-1)]);
        }
      }),
    );
  });

  test('of half a million empties in a moment', () => {
    const queue = new Fifo<number>();
    for (let i = 0; i < 1 << 19; i++) queue.push(i);
    let sum = 0;
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) sum += item;
    expect(sum).toBe(((1 << 19) * ((1 << 19) - 1)) / 2);
  });
});
