// The SMMUv3 part of bench/iommu.mjs.
import { loadCore } from '../bundle.mjs';
import { Flat, bothStages } from './memory.mjs';

const core = await loadCore(`
export { SmmuV3 } from '@viommu/core/iommu/arm-smmu-v3/hardware/smmu';
export { smmuV3Config } from '@viommu/core/iommu/arm-smmu-v3/hardware/registers/config';
export { OFFSET } from '@viommu/core/iommu/arm-smmu-v3/spec/registers';
export { STE } from '@viommu/core/iommu/arm-smmu-v3/spec/ste';
export { CD } from '@viommu/core/iommu/arm-smmu-v3/spec/cd';
export { CMD, CMD_TLBI } from '@viommu/core/iommu/arm-smmu-v3/spec/commands';
export { encode } from '@viommu/core/base/bit-fields';
export { PERM, tableGeometry } from '@viommu/core/pagetable/armv8';
export { stage1Permissions, stage2Permissions } from '@viommu/core/pagetable/armv8-permissions';
export { Stage1Walker, topMasks } from '@viommu/core/pagetable/armv8-stage1';
export { Stage2Walker } from '@viommu/core/pagetable/armv8-stage2';
`);
const { encode, OFFSET, PERM } = core;

const STRTAB = 0;
const CD_TABLE = 0x1_0000;
const CMDQ = 0x2_0000;
const CMDQ_LOG2 = 10;
const SID = { stage1: 1, stage2: 2, nested: 3 };
const VMID = { stage1: 7, stage2: 7, nested: 8 };

const memory = new Flat();
const roots = bothStages(
  memory,
  { table: () => [3, 0], leaf: [0x743, 0] },
  { table: () => [3, 0], leaf: [0x7ff, 0] },
);

function build() {
  const { STE, CD } = core;
  const stage1 = { S1ContextPtr: CD_TABLE / 64 };
  const stage2 = { S2T0SZ: 16, S2SL0: 2, S2PS: 5, S2AA64: 1, S2R: 1, S2TTB: roots.stage2 / 16 };
  for (const [way, fields] of [
    ['stage1', { ...stage1, Config: 5 }],
    ['stage2', { ...stage2, Config: 6 }],
    ['nested', { ...stage1, ...stage2, Config: 7 }],
  ]) {
    memory.put(STRTAB + SID[way] * 64, encode(STE, { V: 1, SHCFG: 1, S2VMID: VMID[way], ...fields }));
  }
  const cd = { V: 1, AA64: 1, A: 1, R: 1, ASID: 1, T0SZ: 16, EPD1: 1, IPS: 5, MAIR0: 0xff };
  memory.put(CD_TABLE, encode(CD, { ...cd, TTB0: roots.stage1 / 16 }));
}

function start(caches) {
  const config = core.smmuV3Config({ caches: { ...caches, streams: 16, contexts: 16 } });
  const smmu = new core.SmmuV3({ memory, config });
  const set = (name, size, value) => smmu.writeRegister(OFFSET[name], size, BigInt(value));
  set('STRTAB_BASE', 8, STRTAB);
  set('STRTAB_BASE_CFG', 4, 4);
  set('CMDQ_BASE', 8, CMDQ + CMDQ_LOG2);
  set('CR0', 4, 0b1001);
  return smmu;
}

/** The walkers of both stages, and how they go to memory for a write, and to a table of stage 1. */
function walkers() {
  const { Stage1Walker, Stage2Walker } = core;
  const shape = {
    granuleBits: 12,
    inputBits: 48,
    startLevel: 0,
    outputBits: 48,
    physicalBits: 48,
    ds: false,
  };
  const region = { ...core.topMasks(48, false), had: false, e0pd: false, sh: 0 };
  const common = { affd: false, ha: false, hd: false };
  const first = {
    ...common,
    regions: [
      { ...region, table: core.tableGeometry({ ...shape, base: roots.stage1 }) },
      { ...region, table: null },
    ],
    unprivileged: true,
    permissions: core.stage1Permissions({ unprivileged: true, wxn: false, pan: false, epan: false }),
    mair: new Uint8Array(8).fill(0xff),
  };
  const second = {
    ...common,
    table: core.tableGeometry({ ...shape, base: roots.stage2 }),
    permissions: core.stage2Permissions(true),
    ptw: false,
    fwb: false,
    sh: null,
  };
  const one = new Stage1Walker(memory);
  const two = new Stage2Walker(memory);
  return {
    one,
    two,
    first: (address, space) => one.walk(first, 0, address, PERM.UW, space),
    second: (hi, lo) => two.walk(second, hi, lo, PERM.UW, false),
    table: (hi, lo) => two.walk(second, hi, lo, PERM.PR | PERM.UR, true),
  };
}

/** Of pages of an ASID, with TG and TTL, and of another ASID. */
const commands = {
  count: 1 << CMDQ_LOG2,
  way: 'stage1',
  put(i, kind, address) {
    const { CMD, CMD_TLBI } = core;
    const of = { VMID: VMID.stage1, ASID: 1 };
    const page = { ...of, Opcode: CMD.TLBI_NH_VA, TG: 1, TTL: 3, Address: address / 4096 };
    const fields = {
      page,
      pages: { ...page, TTL: 0, NUM: 15 },
      other: { ...of, Opcode: CMD.TLBI_NH_ASID, ASID: 2 },
    };
    memory.put(CMDQ + i * 16, encode(CMD_TLBI, fields[kind]));
  },
  /** Puts the queue's end after `total` commands since the start; says whether all were taken. */
  run(smmu, total) {
    const prod = BigInt(total % (2 << CMDQ_LOG2));
    smmu.writeRegister(OFFSET.CMDQ_PROD, 4, prod);
    return smmu.readRegister(OFFSET.CMDQ_CONS, 4) === prod;
  },
};

build();
export const vendor = {
  memory,
  roots,
  walkers,
  start,
  accessOf: (way) => ({ streamId: SID[way], hi: 0, lo: 0, write: true }),
  empty: (smmu, way) => smmu.iotlb.invalidateVmid(VMID[way], 0),
  commands,
};
