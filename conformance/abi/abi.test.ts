import { readFileSync } from 'node:fs';
import { describe as suite, expect, test } from 'vitest';
import * as errno from '@viommu/core/abi/errno';
import * as ioctl from '@viommu/core/abi/ioctl';
import * as iommufd from '@viommu/core/abi/iommufd';
import * as iommufdData from '@viommu/core/abi/iommufd-data';
import * as iommufdTest from '@viommu/core/abi/iommufd-test';
import * as vfio from '@viommu/core/abi/vfio';
import * as vfioType1 from '@viommu/core/abi/vfio-type1';
import { pad, struct, u32, u64 } from '@viommu/core/base/struct';
import { describe, differences } from './describe.mjs';
import { inventory, missing } from './inventory.mjs';
import { parseProbe, probeSource } from './probe.mjs';

const modules = [errno, ioctl, iommufd, iommufdData, iommufdTest, vfio, vfioType1];

suite('the uAPI of packages/core/src/abi', () => {
  test("has every size, offset and value that Linux 7.3's headers gave a C compiler", () => {
    const record = JSON.parse(readFileSync(new URL('../data/abi/linux-7.3.json', import.meta.url), 'utf8'));
    expect(differences(describe(modules), record)).toEqual([]);
  });
});

suite('the comparison', () => {
  const s = struct('s', 16, { a: u32, __hole: pad(4), b: u64 });
  const ours = describe([{ s, X: 1, Y: -1, Z: 1n << 40n }]);

  test('takes what C prints', () => {
    const output = 'S s 16\nF s a 0 4 0\nF s b 8 8 0\nC X 4 1\nC Y 4 ffffffffffffffff\nC Z 8 10000000000\n';
    expect(differences(ours, parseProbe(output))).toEqual([]);
  });

  test('tells a size, an offset, a sign and a value that differ, and what is missing', () => {
    const output = 'S s 24\nF s a 4 4 1\nC X 4 2\nC Y 4 ffffffffffffffff\nC Z 8 10000000000\nC W 4 0\n';
    expect(differences(ours, parseProbe(output))).toEqual([
      'X: 0x1 here, 0x2 in the headers',
      'W: absent here, 0x0 in the headers',
      'sizeof(struct s): 16 here, 24 in the headers',
      'struct s, a: offset: 0 here, 4 in the headers',
      'struct s, a: signed: false here, true in the headers',
      'struct s, b: offset: 8 here, absent in the headers',
      'struct s, b: size: 8 here, absent in the headers',
      'struct s, b: signed: false here, absent in the headers',
    ]);
  });

  test('asks for the fields of a union under their C names', () => {
    const source = probeSource(describe([{ check: iommufdTest.iommu_test_cmd_check_iotlb }]), [
      '<linux/iommufd.h>',
    ]);
    expect(source).toContain('F(iommu_test_cmd_check_iotlb, struct iommu_test_cmd, check_iotlb.id);');
    expect(source).toContain('F(iommu_test_cmd_check_iotlb, struct iommu_test_cmd, last);');
  });

  test('refuses a table that contradicts a constant', () => {
    expect(() => describe([{ X: 1, table: { X: 2 } }])).toThrow('X is both 0x1 and 0x2');
  });
});

suite('the inventory of a header', () => {
  const header = [
    '/* struct not_this { int a; }; */',
    '#define FUNCTION(x) (x)',
    '#define VALUE 1',
    'enum kind { A = VALUE, B };',
    'struct s {',
    '\t__u32 size; // bytes',
    '#define FLAG (1 << 0)',
    '\tunion {',
    '\t\tstruct { __u32 x; __u64 *y; } named;',
    '\t\t__u32 plain[4];',
    '\t};',
    '\tstruct s inner;',
    '\t__u8 data[];',
    '};',
  ].join('\n');

  test('has its structs, with the members of unions, its enums and its macros', () => {
    expect(inventory(header)).toEqual({
      structs: new Map([['s', ['named.x', 'named.y', 'plain', 'size', 'inner']]]),
      constants: ['A', 'B', 'VALUE', 'FLAG'],
    });
  });

  test('shows what a description lacks', () => {
    const description = describe([{ s: struct('s', 4, { size: u32 }), VALUE: 1, A: 1, B: 2 }]);
    expect(missing(header, description)).toEqual([
      'FLAG is not described',
      'struct s: named.x is not described',
      'struct s: named.y is not described',
      'struct s: plain is not described',
      'struct s: inner is not described',
    ]);
    expect(missing('struct t {\n__u32 a;\n};', description)).toEqual(['struct t is not described']);
  });
});
