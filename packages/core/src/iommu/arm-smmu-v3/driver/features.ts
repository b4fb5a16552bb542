import { readField, type Field } from '../../../base/bit-fields.ts';
import { fail, type Result } from '../../../base/result.ts';
import { ENXIO } from '../../../abi/errno.ts';
import { CMD_BYTES } from '../spec/commands.ts';
import { EVENT_BYTES } from '../spec/events.ts';
import { PRIQ_BYTES } from '../spec/queues.ts';
import {
  ADDRESS_BITS,
  HTTU,
  IDR0,
  IDR1,
  IDR3,
  IDR5,
  IIDR,
  OFFSET,
  STALL_MODEL,
  ST_LEVEL,
  TTENDIAN,
  TTF,
} from '../spec/registers.ts';
import type { Mmio } from '../../drivers/mmio.ts';
import { CMDQ_BATCH_ENTRIES, QUEUE_BYTES_LOG2_MAX, STRTAB_SPLIT } from './limits.ts';

// What an SMMU can do and this driver uses: arm-smmu-v3.c arm_smmu_device_hw_probe() and arm_smmu_device_iidr_probe().

/** What the machine's firmware and CPUs say beside the ID registers. */
export interface Platform {
  /** IORT's COHACC override, or dma-coherent; what IDR0.COHACC says where absent. */
  readonly coherent?: boolean;
  /** The CPUs have the Virtualization Host Extensions: stage 1 runs as EL2-E2H. True where absent. */
  readonly vhe?: boolean;
  /** disable_msipolling: CMD_SYNC signals by event instead of a write to memory. */
  readonly disableMsiPolling?: boolean;
}

/** struct arm_smmu_device's features and sizes; names are those of ARM_SMMU_FEAT_*. */
export interface ArmSmmuFeatures {
  readonly twoLevelStrtab: boolean;
  readonly twoLevelCdtab: boolean;
  readonly pri: boolean;
  readonly ats: boolean;
  readonly msiPoll: boolean;
  readonly coherency: boolean;
  readonly transS1: boolean;
  readonly transS2: boolean;
  readonly nesting: boolean;
  readonly stalls: boolean;
  readonly stallForce: boolean;
  readonly hyp: boolean;
  readonly e2h: boolean;
  readonly rangeInv: boolean;
  readonly attrTypesOvr: boolean;
  /** Hardware updates the Access flag (ha), and the dirty state (hd). */
  readonly ha: boolean;
  readonly hd: boolean;
  readonly s2fwb: boolean;
  readonly ds: boolean;
  readonly vax: boolean;
  /** Arm erratum 2812531: a full batch must end in a CMD_SYNC. */
  readonly cmdqForceSync: boolean;
  readonly oas: number;
  readonly asidBits: number;
  readonly vmidBits: number;
  readonly ssidBits: number;
  readonly sidBits: number;
  /** log2 of the entries of the queues. */
  readonly cmdqLog2: number;
  readonly evtqLog2: number;
  readonly priqLog2: number;
  /** log2 of the page sizes, ascending. */
  readonly pageSizes: readonly number[];
}

const IMPLEMENTER_ARM = 0x43b;
const MMU_600 = 0x483;
const MMU_700 = 0x487;

/** ENXIO where the driver cannot run the SMMU. `warn` takes what Linux would log. */
export function probeFeatures(
  mmio: Mmio,
  platform: Platform,
  warn: (text: string) => void,
): Result<ArmSmmuFeatures> {
  const idr0 = [mmio.read32(OFFSET.IDR0)];
  const idr1 = [mmio.read32(OFFSET.IDR1)];
  const idr3 = [mmio.read32(OFFSET.IDR3)];
  const idr5 = [mmio.read32(OFFSET.IDR5)];
  const has0 = (field: Field): boolean => readField(field, idr0) !== 0;
  const refused = refuse(idr0, idr1);
  if (refused !== null) return fail(ENXIO, refused);
  const cmdqLog2 = queueLog2(readField(IDR1.CMDQS, idr1), CMD_BYTES);
  if (2 ** cmdqLog2 <= CMDQ_BATCH_ENTRIES)
    return fail(ENXIO, `a command queue of ${CMDQ_BATCH_ENTRIES} entries or less is not supported`);
  const coherency = platform.coherent ?? has0(IDR0.COHACC);
  if (coherency !== has0(IDR0.COHACC)) warn('IDR0.COHACC overridden by FW configuration');
  const sidBits = readField(IDR1.SIDSIZE, idr1);
  const httu = readField(IDR0.HTTU, idr0);
  const stall = readField(IDR0.STALL_MODEL, idr0);
  const oas = outputSize(readField(IDR5.OAS, idr5), warn);
  const errata = errataOf(mmio.read32(OFFSET.IIDR));
  return {
    twoLevelStrtab: readField(IDR0.ST_LEVEL, idr0) === ST_LEVEL.TWO_LEVEL && sidBits > STRTAB_SPLIT,
    twoLevelCdtab: has0(IDR0.CD2L),
    pri: has0(IDR0.PRI),
    ats: has0(IDR0.ATS),
    msiPoll: has0(IDR0.MSI) && coherency && platform.disableMsiPolling !== true,
    coherency,
    transS1: has0(IDR0.S1P),
    transS2: has0(IDR0.S2P),
    nesting: has0(IDR0.S1P) && has0(IDR0.S2P) && !errata.noNesting,
    stalls: stall === STALL_MODEL.BOTH || stall === STALL_MODEL.STALL,
    stallForce: stall === STALL_MODEL.STALL,
    hyp: has0(IDR0.Hyp),
    e2h: has0(IDR0.Hyp) && platform.vhe !== false,
    rangeInv: readField(IDR3.RIL, idr3) !== 0,
    attrTypesOvr: readField(IDR1.ATTR_TYPES_OVR, idr1) !== 0,
    ha: httu >= HTTU.ACCESS,
    hd: httu >= HTTU.ACCESS_DIRTY,
    s2fwb: readField(IDR3.FWB, idr3) !== 0,
    ds: readField(IDR5.DS, idr5) !== 0,
    vax: readField(IDR5.VAX, idr5) === 1,
    cmdqForceSync: errata.forceSync,
    oas,
    asidBits: has0(IDR0.ASID16) ? 16 : 8,
    vmidBits: has0(IDR0.VMID16) ? 16 : 8,
    ssidBits: readField(IDR1.SSIDSIZE, idr1),
    sidBits,
    cmdqLog2,
    evtqLog2: queueLog2(readField(IDR1.EVENTQS, idr1), EVENT_BYTES),
    priqLog2: queueLog2(readField(IDR1.PRIQS, idr1), PRIQ_BYTES),
    pageSizes: pageSizes(idr5, oas),
  };
}

function refuse(idr0: readonly number[], idr1: readonly number[]): string | null {
  const endian = readField(IDR0.TTENDIAN, idr0);
  if (endian !== TTENDIAN.MIXED && endian !== TTENDIAN.LITTLE) return 'unsupported endianness of tables';
  if (readField(IDR0.S1P, idr0) === 0 && readField(IDR0.S2P, idr0) === 0) return 'no translation support';
  if ((readField(IDR0.TTF, idr0) & TTF.AARCH64) === 0) return 'the AArch64 table format is not supported';
  const preset = [IDR1.TABLES_PRESET, IDR1.QUEUES_PRESET, IDR1.REL];
  if (preset.some((field) => readField(field, idr1) !== 0))
    return 'an embedded implementation is not supported';
  return null;
}

/** Queues are allocated in one piece and aligned to their size, which bounds it. */
function queueLog2(implemented: number, entryBytes: number): number {
  return Math.min(QUEUE_BYTES_LOG2_MAX - Math.log2(entryBytes), implemented);
}

function outputSize(encoding: number, warn: (text: string) => void): number {
  if (encoding === 7) {
    warn('unknown output address size. Truncating to 48-bit');
    return 48;
  }
  return ADDRESS_BITS[encoding]!;
}

function pageSizes(idr5: readonly number[], oas: number): number[] {
  const sizes: number[] = [];
  if (readField(IDR5.GRAN64K, idr5) !== 0) sizes.push(16, 29);
  if (readField(IDR5.GRAN16K, idr5) !== 0) sizes.push(14, 25);
  if (readField(IDR5.GRAN4K, idr5) !== 0) sizes.push(12, 21, 30);
  if (oas === 52) sizes.push(42);
  return sizes.toSorted((a, b) => a - b);
}

function errataOf(iidr: number): { readonly noNesting: boolean; readonly forceSync: boolean } {
  const get = (field: Field): number => readField(field, [iidr]);
  const product = get(IIDR.Implementer) === IMPLEMENTER_ARM ? get(IIDR.ProductID) : 0;
  const variant = get(IIDR.Variant);
  // Arm errata 1209401 (MMU-600), 2268618 and 2812531 (MMU-700).
  const mmu700 = product === MMU_700 && (variant < 1 || get(IIDR.Revision) < 1);
  return { noNesting: mmu700 || (product === MMU_600 && variant < 2), forceSync: mmu700 };
}
