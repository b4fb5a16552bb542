import { expect, test } from 'vitest';
import { chooseWindow } from './spawn.ts';

test('the window of stopped reads is the upper quarter of what select(2) takes and the limit allows', () => {
  expect(chooseWindow(20_000)).toEqual({ low: 768, high: 1024 });
  expect(chooseWindow(1024)).toEqual({ low: 768, high: 1024 });
  expect(chooseWindow(256)).toEqual({ low: 192, high: 256 });
  expect(chooseWindow(4)).toEqual({ low: 3, high: 4 });
});
