import { expect, test } from 'vitest';
import { FlatPort } from '@viommu/core/pci/testing/flat-port';
import { sumOf } from './device-model.ts';

test('the example of a device model adds up what it may read', () => {
  const port = new FlatPort(0x3000);
  port.bytes.fill(2, 0x1000, 0x1100);
  expect(sumOf(port, 0x1000n, 0x100)).toBe(0x200);
  expect(sumOf(port, 0x3000n, 1)).toBe(null);
});
