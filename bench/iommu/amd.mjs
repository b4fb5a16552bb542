// The AMD IOMMU part of bench/iommu.mjs. Stage 1 are guest tables, stage 2 host tables; QEMU has the latter alone.
import { loadCore } from '../bundle.mjs';
import { Flat, bothStages } from './memory.mjs';

const core = await loadCore(`
export { AmdIommu } from '@viommu/core/iommu/amd/hardware/amd-iommu';
export { amdIommuConfig } from '@viommu/core/iommu/amd/hardware/registers/config';
export { CONTROL, OFFSET } from '@viommu/core/iommu/amd/spec/registers';
export { DTE } from '@viommu/core/iommu/amd/spec/dte';
export { CMD, CMD_INVALIDATE_PAGES } from '@viommu/core/iommu/amd/spec/commands';
export { encode } from '@viommu/core/base/bit-fields';
export { AMD_V1_PERM, AmdV1Walker, amdV1Config } from '@viommu/core/pagetable/amd-v1';
export { X86_PERM, X86Walker, x86Config, x86Permissions } from '@viommu/core/pagetable/x86-64';
`);
const { encode, OFFSET, AMD_V1_PERM, X86_PERM } = core;

const DEVICE_TABLE = 0;
const GCR3_TABLE = 0x1_0000;
const COMMANDS = 0x2_0000;
const COMMANDS_LOG2 = 10;
/** DeviceIDs, and domain ids. */
const DEVICE = { stage1: 1, stage2: 2, nested: 3 };
const PASID = 5;
const IR_IW = 0x6000_0000;

const memory = new Flat();
// P, R/W, U/S, A and D. PR and Next Level, IR and IW.
const roots = bothStages(
  memory,
  { table: () => [0x67, 0], leaf: [0x67, 0] },
  { table: (level) => [((level - 1) << 9) | 1, IR_IW], leaf: [1, IR_IW] },
);

function build() {
  const translates = { V: 1, TV: 1, IR: 1, IW: 1 };
  const guest = { GV: 1, GCR3_14_12: (GCR3_TABLE >>> 12) & 7, GCR3_30_15: (GCR3_TABLE >>> 15) & 0xffff };
  const host = { Mode: 4, HostPTRoot: roots.stage2 / 4096 };
  for (const [way, fields] of [
    ['stage1', guest],
    ['stage2', host],
    ['nested', { ...host, ...guest }],
  ]) {
    const dte = encode(core.DTE, { ...translates, DomainID: DEVICE[way], ...fields });
    memory.put(DEVICE_TABLE + DEVICE[way] * 32, dte);
  }
  memory.put(GCR3_TABLE + PASID * 8, [roots.stage1 | 1, 0]);
}

function start(caches) {
  const config = core.amdIommuConfig({ caches: { ...caches, devices: 16, gcr3: 16 } });
  const iommu = new core.AmdIommu({ memory, config });
  const set = (name, value) => iommu.writeRegister(OFFSET[name], 8, BigInt(value));
  set('DEV_TAB_BASE', DEVICE_TABLE);
  set('CMD_BUF_BASE', BigInt(COMMANDS) | (BigInt(COMMANDS_LOG2) << 56n));
  const { IommuEn, CmdBufEn, GTEn } = core.CONTROL;
  set('CONTROL', IommuEn.inPlace | CmdBufEn.inPlace | GTEn.inPlace);
  return iommu;
}

/** The walkers of both stages, and how they go to memory for a write, and to a table of stage 1. */
function walkers() {
  const guest = core.x86Config({
    levels: 4,
    root: roots.stage1,
    addressBits: 52,
    pages1G: true,
    accessed: true,
    dirty: true,
    permissions: core.x86Permissions({ writeProtect: true, smep: false, noExecute: true }),
  });
  const host = core.amdV1Config({ mode: 4, root: roots.stage2, accessed: false, dirty: false });
  const one = new core.X86Walker(memory);
  const two = new core.AmdV1Walker(memory);
  return {
    one,
    two,
    first: (address, space) => one.walk(guest, 0, address, X86_PERM.UW, space),
    second: (hi, lo) => two.walk(host, hi, lo, AMD_V1_PERM.IW),
    table: (hi, lo) => two.walk(host, hi, lo, AMD_V1_PERM.IR),
  };
}

/** Of host pages, and of another domain; with PDE, so that tables go too. */
const commands = {
  count: 1 << COMMANDS_LOG2,
  way: 'stage2',
  put(i, kind, address) {
    const { CMD, CMD_INVALIDATE_PAGES } = core;
    const page = address / 4096;
    const of = { Opcode: CMD.INVALIDATE_IOMMU_PAGES, DomainID: DEVICE.stage2, PDE: 1 };
    const fields = {
      page: { ...of, Address: BigInt(page) },
      pages: { ...of, S: 1, Address: BigInt((page & ~0xf) | 7) },
      other: { ...of, DomainID: 9, S: 1, Address: 0x7_ffff_ffff_ffffn },
    };
    memory.put(COMMANDS + i * 16, encode(CMD_INVALIDATE_PAGES, fields[kind]));
  },
  run(iommu, total) {
    const tail = BigInt((total * 16) % (16 << COMMANDS_LOG2));
    iommu.writeRegister(OFFSET.CMD_TAIL, 8, tail);
    return iommu.readRegister(OFFSET.CMD_HEAD, 8) === tail;
  },
};

build();
export const vendor = {
  memory,
  roots,
  walkers,
  start,
  accessOf: (way) => ({
    deviceId: DEVICE[way],
    pasid: way === 'stage2' ? null : PASID,
    hi: 0,
    lo: 0,
    write: true,
  }),
  empty({ iotlb }, way) {
    if (way !== 'stage1') iotlb.invalidateHost(DEVICE[way], null, false);
    if (way !== 'stage2') iotlb.invalidateGuest(DEVICE[way], PASID, null, false);
  },
  commands,
};
