import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import * as iommufd from '@viommu/core/abi/iommufd';
import { IOC_NR } from '@viommu/core/abi/ioctl';
import * as rfc from '@viommu/core/abi/rfc-2023-12';
import { IOCTL_OPS, TRIAL_OPS } from '@viommu/core/iommufd/dispatch';
import { describe, differences } from './describe.mjs';
import { missing } from './inventory.mjs';
import { askHeaders } from './probe.mjs';

const header = fileURLToPath(new URL('../../packages/core/include/viommu/rfc-2023-12.h', import.meta.url));

test('the header of rfc-2023-12 is the uAPI of packages/core/src/abi in C', () => {
  const text = readFileSync(header, 'utf8');
  const ours = describe([rfc]);
  expect(missing(text, ours)).toEqual([]);
  expect(Object.keys(ours.structs)).toHaveLength(8);
  expect(differences(ours, askHeaders(ours, [`"${header}"`], []))).toEqual([]);
});

test('its header shares no name with Linux’s', () => {
  const linux = describe([iommufd]);
  const ours = describe([rfc]);
  const names = (all: typeof ours): string[] => [...Object.keys(all.structs), ...Object.keys(all.constants)];
  const taken = new Set(names(linux));
  expect(names(ours).filter((name) => taken.has(name))).toEqual([]);
});

test('its numbers are none of Linux’s, nor VFIO’s', () => {
  const linux = new Set(IOCTL_OPS.map((op) => IOC_NR(op.cmd)));
  const ours = TRIAL_OPS.map((op) => IOC_NR(op.cmd));
  expect(new Set(ours).size).toBe(ours.length);
  expect(ours.filter((number) => linux.has(number) || number < 0x96)).toEqual([]);
});
