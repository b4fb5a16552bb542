// What packages/core/src/abi says about C, as plain data: the size of every struct, offset, size and signedness of
// every field, the value of every constant. The kernel's headers are asked for the same (probe.mjs).

/**
 * @typedef {{ offset: number, size: number, signed: boolean | null }} Field  `signed` is null where a field is no integer
 * @typedef {{ size: number, fields: Record<string, Field> }} Layout  by the name that C has for the field
 * @typedef {{ structs: Record<string, Layout>, constants: Record<string, string> }} Description
 */

// struct iommu_test_cmd has a union; abi/iommufd-test.ts has one struct per member of it, under names that do not clash.
const UNION = 'iommu_test_cmd';
const UNION_HEAD = ['size', 'op', 'id', '__reserved', 'last'];
const RENAMED = {
  'check_iotlb.iotlb_id': 'check_iotlb.id',
  'check_dev_cache.cache_id': 'check_dev_cache.id',
};

/** Fields that a union of the header puts at the place of another one. */
const ALIASES = {
  iommu_hw_info: { in_data_type: 'out_data_type' },
  vfio_pci_dependent_device: { group_id: 'devid' },
};

/** The C struct behind a described one: `iommu_test_cmd` for each of `iommu_test_cmd_*`. */
export function cStruct(name) {
  return name.startsWith(`${UNION}_`) ? UNION : name;
}

function cField(name, field) {
  if (cStruct(name) === name || UNION_HEAD.includes(field)) return field;
  const path = `${name.slice(UNION.length + 1)}.${field}`;
  return RENAMED[path] ?? path;
}

function describeStruct(struct) {
  const fields = {};
  for (const { name, type, offset, size } of struct.fields) {
    if (type.padding) continue;
    const signed = /^__[su]\d+$|^__aligned_u64$/.test(type.name) ? type.name.startsWith('__s') : null;
    fields[cField(struct.name, name)] = { offset, size, signed };
  }
  for (const [alias, name] of Object.entries(ALIASES[struct.name] ?? {})) fields[alias] = fields[name];
  return { size: struct.size, fields };
}

/** A constant as C prints it: unsigned, in the width of its C type, which is 8 bytes where it does not fit 4. */
export function normalise(value) {
  const wide = BigInt(value);
  const unsigned =
    wide >= -(2n ** 31n) && wide < 2n ** 32n ? BigInt.asUintN(32, wide) : BigInt.asUintN(64, wide);
  return `0x${unsigned.toString(16)}`;
}

/**
 * Describes the exports of the modules. Throws where a table of values differs from the constants of the same names, or
 * two modules give one name two values.
 *
 * @param {Record<string, unknown>[]} modules
 * @returns {Description}
 */
export function describe(modules) {
  const structs = {};
  const constants = {};
  const add = (name, value) => {
    const text = normalise(value);
    if (constants[name] !== undefined && constants[name] !== text) {
      throw new Error(`${name} is both ${constants[name]} and ${text}`);
    }
    constants[name] = text;
  };
  for (const module of modules) {
    for (const [name, value] of Object.entries(module)) {
      if (typeof value === 'number' || typeof value === 'bigint') add(name, value);
      else if (typeof value === 'object' && 'fields' in value) structs[value.name] = describeStruct(value);
      else if (typeof value === 'object') for (const [key, each] of Object.entries(value)) add(key, each);
    }
  }
  return { structs, constants };
}

/**
 * Every difference, a line each.
 *
 * @param {Description} ours
 * @param {Description} theirs
 * @returns {string[]}
 */
export function differences(ours, theirs) {
  const lines = [];
  const compare = (what, mine, real) => {
    if (mine !== real) lines.push(`${what}: ${mine ?? 'absent'} here, ${real ?? 'absent'} in the headers`);
  };
  const each = (a, b, visit) => {
    for (const name of new Set([...Object.keys(a ?? {}), ...Object.keys(b ?? {})]))
      visit(name, a?.[name], b?.[name]);
  };
  each(ours.constants, theirs.constants, compare);
  each(ours.structs, theirs.structs, (name, mine, real) => {
    compare(`sizeof(struct ${name})`, mine?.size, real?.size);
    each(mine?.fields, real?.fields, (field, a, b) => {
      const where = `struct ${name}, ${field}`;
      compare(`${where}: offset`, a?.offset, b?.offset);
      compare(`${where}: size`, a?.size, b?.size);
      if (a?.signed !== null) compare(`${where}: signed`, a?.signed, b?.signed);
    });
  });
  return lines;
}
