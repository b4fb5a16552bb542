import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import * as iommufd from '@viommu/core/abi/iommufd';
import * as iommufdData from '@viommu/core/abi/iommufd-data';
import * as iommufdTest from '@viommu/core/abi/iommufd-test';
import { cStruct, describe, differences } from '../../conformance/abi/describe.mjs';
import { inventory } from '../../conformance/abi/inventory.mjs';
import { askHeaders } from '../../conformance/abi/probe.mjs';

const header = fileURLToPath(new URL('iommufd.h', import.meta.url));
/** The header's own. */
const OWN = /^(?:EXAMPLES_|IOMMUFD_(?:REQUEST|SIZE)$|__largest$)/;

test("the examples' header is the uAPI of packages/core/src/abi in C, as far as it goes", () => {
  const { structs, constants } = inventory(readFileSync(header, 'utf8'));
  const all = describe([iommufd, iommufdData, iommufdTest]);
  const here = <T>(entries: Record<string, T>, keep: (name: string) => boolean) =>
    Object.fromEntries(Object.entries(entries).filter(([name]) => keep(name)));

  const constantsHere = here(all.constants, (name) => constants.includes(name));
  const structsHere: typeof all.structs = {};
  for (const [name, { size, fields }] of Object.entries(all.structs)) {
    const members = structs.get(cStruct(name));
    if (members === undefined) continue;
    structsHere[name] = { size, fields: here(fields, (field) => members.includes(field)) };
  }
  expect(constants.filter((name) => constantsHere[name] === undefined && !OWN.test(name))).toEqual([]);
  const described = Object.entries(structsHere).flatMap(([name, { fields }]) =>
    Object.keys(fields).map((field) => `${cStruct(name)}.${field}`),
  );
  const members = [...structs].flatMap(([name, fields]) => fields.map((field) => `${name}.${field}`));
  expect(members.filter((name) => !described.includes(name) && !name.endsWith('.__largest'))).toEqual([]);

  const ours = { structs: structsHere, constants: constantsHere };
  expect(Object.keys(ours.constants).length).toBeGreaterThan(20);
  expect(differences(ours, askHeaders(ours, [`"${header}"`], []))).toEqual([]);
});
