// The AMD IOMMU model beside C: iommu.mjs says what each row is. Stage 1 are guest tables, stage 2 host tables; QEMU has
// the latter alone.
//
//   node bench/amd.mjs
import { loadCore } from './bundle.mjs';
import { ABSENT, COLD, Flat, WARM, bothStages, must, report, translated } from './iommu.mjs';

const core = await loadCore(`
export { AmdIommu } from '@viommu/core/iommu/amd/hardware/amd-iommu';
export { amdIommuConfig } from '@viommu/core/iommu/amd/hardware/config';
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

const accessOf = (way) => ({
  deviceId: DEVICE[way],
  pasid: way === 'stage2' ? null : PASID,
  hi: 0,
  lo: 0,
  write: true,
});

function walks() {
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
  const space = {
    descriptorHi: 0,
    descriptorLo: 0,
    descriptor(hi, lo) {
      if (!two.walk(host, hi, lo, AMD_V1_PERM.IR)) return false;
      this.descriptorHi = two.outHi;
      this.descriptorLo = two.outLo | (lo & 0xfff);
      return true;
    },
  };
  return {
    stage1(order, sum) {
      for (const address of order) {
        must(one.walk(guest, 0, address, X86_PERM.UW, null));
        sum[0] += one.outLo + one.permissions;
      }
    },
    stage2(order, sum) {
      for (const address of order) {
        must(two.walk(host, 0, address, AMD_V1_PERM.IW));
        sum[0] += two.outLo + two.permissions;
      }
    },
    nested(order, sum) {
      for (const address of order) {
        must(one.walk(guest, 0, address, X86_PERM.UW, space));
        must(two.walk(host, one.outHi, one.outLo, AMD_V1_PERM.IW));
        sum[0] += two.outLo + two.permissions;
      }
    },
  };
}

function accesses(way) {
  const iommu = start(COLD);
  const { iotlb } = iommu;
  const access = accessOf(way);
  const domain = DEVICE[way];
  return (order) => {
    for (const address of order) {
      if (way !== 'stage1') iotlb.invalidateHost(domain, null, false);
      if (way !== 'stage2') iotlb.invalidateGuest(domain, PASID, null, false);
      access.lo = address;
      if (translated(iommu.translate(access)) !== address) throw new Error('translated elsewhere');
    }
  };
}

function hits(way) {
  const iommu = start(WARM);
  const access = accessOf(way);
  return (order, sum) => {
    for (const address of order) {
      access.lo = address;
      sum[0] += translated(iommu.translate(access));
    }
  };
}

/** Of host pages, and of another domain; with PDE, so that tables go too. */
function invalidations(mixed, entries) {
  const iommu = start(WARM);
  const { CMD, CMD_INVALIDATE_PAGES } = core;
  for (let i = 0; i < entries; i++) translated(iommu.translate({ ...accessOf('stage2'), lo: i * 4096 }));
  const ring = 1 << COMMANDS_LOG2;
  for (let i = 0; i < ring; i++) {
    const page = ABSENT / 4096 + i;
    const of = { Opcode: CMD.INVALIDATE_IOMMU_PAGES, DomainID: DEVICE.stage2, PDE: 1 };
    const others = {
      8: { ...of, S: 1, Address: BigInt((page & ~0xf) | 7) },
      9: { ...of, DomainID: 9, S: 1, Address: 0x7_ffff_ffff_ffffn },
    };
    const fields = (mixed ? others[i % 10] : undefined) ?? { ...of, Address: BigInt(page) };
    memory.put(COMMANDS + i * 16, encode(CMD_INVALIDATE_PAGES, fields));
  }
  let tail = 0;
  const batch = ring / 2;
  const round = () => {
    tail = (tail + batch * 16) % (ring * 16);
    iommu.writeRegister(OFFSET.CMD_TAIL, 8, BigInt(tail));
    if (Number(iommu.readRegister(OFFSET.CMD_HEAD, 8)) !== tail) throw new Error('commands are left');
  };
  return { batch, round };
}

build();
report({ name: 'amd', memory, roots, walks: walks(), accesses, hits, invalidations });
