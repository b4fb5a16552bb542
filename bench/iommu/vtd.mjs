// The VT-d part of bench/iommu.mjs.
import { loadCore } from '../bundle.mjs';
import { Flat, bothStages } from './memory.mjs';

const core = await loadCore(`
export { IntelIommu } from '@viommu/core/iommu/intel/hardware/intel-iommu';
export { intelConfig } from '@viommu/core/iommu/intel/hardware/registers/config';
export { OFFSET, GCMD, TTM } from '@viommu/core/iommu/intel/spec/registers';
export { SM_ROOT_ENTRY, SM_CONTEXT_ENTRY } from '@viommu/core/iommu/intel/spec/context';
export { PASID_DIR_ENTRY, PASID_ENTRY, PGTT } from '@viommu/core/iommu/intel/spec/pasid';
export { DESC, P_IOTLB_INV_DSC } from '@viommu/core/iommu/intel/spec/invalidation';
export { encode } from '@viommu/core/base/bit-fields';
export { SS_RIGHTS, SecondStageWalker, secondStageConfig } from '@viommu/core/pagetable/vtd-second-stage';
export { X86_PERM, X86Walker, x86Config, x86Permissions } from '@viommu/core/pagetable/x86-64';
`);
const { encode, OFFSET, SS_RIGHTS, X86_PERM } = core;

const ROOT = 0;
const CONTEXT = 0x1000;
const DIRECTORY = 0x2000;
const PASIDS = 0x3000;
const QUEUE = 0x2_0000;
const QUEUE_BYTES = 4096 << 2;
/** Ways by PASID, with a domain-id each. */
const RID = 0x20;
const PASID = { stage1: 1, stage2: 2, nested: 3 };
const DID = { stage1: 11, stage2: 12, nested: 13 };

const memory = new Flat();
// P, R/W, U/S and Accessed; Dirty in leaves. R and W.
const roots = bothStages(
  memory,
  { table: () => [0x27, 0], leaf: [0x67, 0] },
  { table: () => [3, 0], leaf: [3, 0] },
);

function build() {
  const { SM_ROOT_ENTRY, SM_CONTEXT_ENTRY, PASID_DIR_ENTRY, PASID_ENTRY, PGTT } = core;
  memory.put(ROOT, encode(SM_ROOT_ENTRY, { LP: 1, LCTP: CONTEXT / 4096 }));
  const context = { P: 1, PASIDE: 1, PASIDDIRPTR: DIRECTORY / 4096 };
  memory.put(CONTEXT + RID * 32, encode(SM_CONTEXT_ENTRY, context));
  memory.put(DIRECTORY, encode(PASID_DIR_ENTRY, { P: 1, SMPTBLPTR: PASIDS / 4096 }));
  const pgtt = { stage1: PGTT.FIRST_STAGE, stage2: PGTT.SECOND_STAGE, nested: PGTT.NESTED };
  for (const way of Object.keys(PASID)) {
    const entry = { P: 1, PWSNP: 1, DID: DID[way], PGTT: pgtt[way], AW: 2 };
    const pointers = { FSPTPTR: roots.stage1 / 4096, SSPTPTR: roots.stage2 / 4096 };
    memory.put(PASIDS + PASID[way] * 64, encode(PASID_ENTRY, { ...entry, ...pointers }));
  }
}

function start(caches) {
  const { GCMD, TTM } = core;
  const config = core.intelConfig({ caches: { ...caches, contexts: 16, pasids: 16 } });
  const iommu = new core.IntelIommu({ memory, config });
  iommu.writeRegister(OFFSET.RTADDR, 8, BigInt(ROOT + TTM.SCALABLE * 1024));
  iommu.writeRegister(OFFSET.IQA, 8, BigInt(QUEUE + 0x802));
  iommu.writeRegister(OFFSET.GCMD, 4, BigInt(GCMD.SRTP.inPlace));
  iommu.writeRegister(OFFSET.GCMD, 4, BigInt((GCMD.TE.inPlace | GCMD.QIE.inPlace) >>> 0));
  return iommu;
}

/** The walkers of both stages, and how they go to memory for a write, and to a table of stage 1. */
function walkers() {
  const first = core.x86Config({
    levels: 4,
    root: roots.stage1,
    addressBits: 46,
    pages1G: true,
    accessed: true,
    dirty: true,
    permissions: core.x86Permissions({ writeProtect: true, smep: false, noExecute: false }),
  });
  const second = core.secondStageConfig({
    levels: 4,
    root: roots.stage2,
    inputBits: 48,
    addressBits: 46,
    pages2M: true,
    pages1G: true,
    snoopControl: true,
    ioReadWrite: false,
    accessedDirty: false,
    updates: true,
  });
  const one = new core.X86Walker(memory);
  const two = new core.SecondStageWalker(memory);
  return {
    one,
    two,
    first: (address, space) => one.walk(first, 0, address, X86_PERM.UW, space),
    second: (hi, lo) => two.walk(second, hi, lo, SS_RIGHTS.WRITE),
    table: (hi, lo) => two.walk(second, hi, lo, SS_RIGHTS.READ),
  };
}

/** PASID-based: of first-stage pages, and of another PASID. */
const commands = {
  count: QUEUE_BYTES / 32,
  way: 'stage1',
  put(i, kind, address) {
    const { DESC, P_IOTLB_INV_DSC } = core;
    const of = { TypeLo: DESC.P_IOTLB_INV, DID: DID.stage1, PASID: PASID.stage1 };
    const page = { ...of, G: 3, ADDR: address / 4096 };
    const fields = { page, pages: { ...page, AM: 4 }, other: { ...of, G: 2, PASID: 9 } };
    memory.put(QUEUE + i * 32, encode(P_IOTLB_INV_DSC, fields[kind]));
  },
  run(iommu, total) {
    const tail = BigInt((total * 32) % QUEUE_BYTES);
    iommu.writeRegister(OFFSET.IQT, 8, tail);
    return iommu.readRegister(OFFSET.IQH, 8) === tail;
  },
};

build();
export const vendor = {
  memory,
  roots,
  walkers,
  start,
  accessOf: (way) => ({ requesterId: RID, pasid: PASID[way], hi: 0, lo: 0, write: true }),
  empty: (iommu, way) => iommu.iotlb.invalidateDomain(DID[way]),
  commands,
};
