// The VT-d model beside C: iommu.mjs says what each row is.
//
//   node bench/vtd.mjs
import { loadCore } from './bundle.mjs';
import { ABSENT, COLD, Flat, WARM, bothStages, must, report, translated } from './iommu.mjs';

const core = await loadCore(`
export { IntelIommu } from '@viommu/core/iommu/intel/hardware/intel-iommu';
export { intelConfig } from '@viommu/core/iommu/intel/hardware/config';
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

const requestOf = (way) => ({ requesterId: RID, pasid: PASID[way], hi: 0, lo: 0, write: true });

function walks() {
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
  const space = {
    descriptorHi: 0,
    descriptorLo: 0,
    descriptor(hi, lo) {
      if (!two.walk(second, hi, lo, SS_RIGHTS.READ)) return false;
      this.descriptorHi = two.outHi;
      this.descriptorLo = two.outLo | (lo & 0xfff);
      return true;
    },
  };
  return {
    stage1(order, sum) {
      for (const address of order) {
        must(one.walk(first, 0, address, X86_PERM.UW, null));
        sum[0] += one.outLo + one.permissions;
      }
    },
    stage2(order, sum) {
      for (const address of order) {
        must(two.walk(second, 0, address, SS_RIGHTS.WRITE));
        sum[0] += two.outLo + two.rights;
      }
    },
    nested(order, sum) {
      for (const address of order) {
        must(one.walk(first, 0, address, X86_PERM.UW, space));
        must(two.walk(second, one.outHi, one.outLo, SS_RIGHTS.WRITE));
        sum[0] += two.outLo + two.rights;
      }
    },
  };
}

function accesses(way) {
  const iommu = start(COLD);
  const request = requestOf(way);
  const did = DID[way];
  return (order) => {
    for (const address of order) {
      iommu.iotlb.invalidateDomain(did);
      request.lo = address;
      if (translated(iommu.translate(request)) !== address) throw new Error('translated elsewhere');
    }
  };
}

function hits(way) {
  const iommu = start(WARM);
  const request = requestOf(way);
  return (order, sum) => {
    for (const address of order) {
      request.lo = address;
      sum[0] += translated(iommu.translate(request));
    }
  };
}

/** PASID-based: of first-stage pages, and of another PASID. */
function invalidations(mixed, entries) {
  const iommu = start(WARM);
  const { DESC, P_IOTLB_INV_DSC } = core;
  for (let i = 0; i < entries; i++) translated(iommu.translate({ ...requestOf('stage1'), lo: i * 4096 }));
  const of = { TypeLo: DESC.P_IOTLB_INV, DID: DID.stage1, PASID: PASID.stage1 };
  const ring = QUEUE_BYTES / 32;
  for (let i = 0; i < ring; i++) {
    const page = { ...of, G: 3, ADDR: (ABSENT + i * 4096) / 4096 };
    const others = { 8: { ...page, AM: 4 }, 9: { ...of, G: 2, PASID: 9 } };
    memory.put(QUEUE + i * 32, encode(P_IOTLB_INV_DSC, (mixed ? others[i % 10] : undefined) ?? page));
  }
  let tail = 0;
  const batch = ring / 2;
  const round = () => {
    tail = (tail + batch * 32) % QUEUE_BYTES;
    iommu.writeRegister(OFFSET.IQT, 8, BigInt(tail));
    if (Number(iommu.readRegister(OFFSET.IQH, 8)) !== tail) throw new Error('descriptors are left');
  };
  return { batch, round };
}

build();
report({ name: 'vtd', memory, roots, walks: walks(), accesses, hits, invalidations });
