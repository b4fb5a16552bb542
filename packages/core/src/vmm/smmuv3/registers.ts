import { encode, type Field, readField } from '../../base/bit-fields.ts';
import { smmuV3Config, type SmmuV3Config } from '../../iommu/arm-smmu-v3/hardware/registers/config.ts';
import { IDR0, IDR1, IDR3, IDR5, ST_LEVEL } from '../../iommu/arm-smmu-v3/spec/registers.ts';

// What the guest's SMMU says that it has: no more than the physical ones, of which it is a part.

/**
 * Fields of the physical SMMU that the guest's has as they are. The guest has stage 1 alone, and no queue of page
 * requests: Linux refuses those itself (arm-smmu-v3.c arm_smmu_priq_thread()).
 */
const KEPT = {
  IDR0: [
    'COHACC',
    'HTTU',
    'ATS',
    'NS1ATS',
    'ASID16',
    'CD2L',
    'TTENDIAN',
    'ATSRECERR',
    'TERM_MODEL',
    'STALL_MODEL',
  ],
  IDR1: ['SSIDSIZE'],
  IDR3: ['HAD', 'RIL', 'STT', 'BBML', 'E0PD'],
  IDR5: ['OAS', 'GRAN4K', 'GRAN16K', 'GRAN64K', 'DS', 'VAX', 'STALL_MAX'],
} as const;

/** Fields in which more is not enough. */
const EQUAL: ReadonlySet<string> = new Set(['STALL_MODEL', 'TERM_MODEL', 'TTENDIAN']);

const NUMBER = { IDR0: 0, IDR1: 1, IDR3: 3, IDR5: 5 } as const;

/** Queues of at most 256 entries, and 16 bits of StreamID: the guest's bus. */
const QUEUE_LOG2 = 8;
const SID_BITS = 16;

type Register = keyof typeof KEPT;

const LAYOUTS: Readonly<Record<Register, object>> = { IDR0, IDR1, IDR3, IDR5 };
const REGISTERS = ['IDR0', 'IDR1', 'IDR3', 'IDR5'] as const;

function valueOf(register: Register, name: string, idr: readonly number[]): number {
  const field = (LAYOUTS[register] as Readonly<Record<string, Field>>)[name]!;
  return readField(field, [idr[NUMBER[register]]!]);
}

/** The first field that an SMMU has less of than the guest was told, or otherwise; null where it has all. */
export function lacks(idr: readonly number[], told: readonly number[]): string | null {
  for (const register of REGISTERS) {
    for (const name of KEPT[register]) {
      const [has, wanted] = [valueOf(register, name, idr), valueOf(register, name, told)];
      const differs = EQUAL.has(name) ? has !== wanted : has < wanted;
      if (differs) return `${register}.${name}`;
    }
  }
  return null;
}

/** From SMMU_IDR0 to SMMU_IDR5 of the physical one, as IOMMU_GET_HW_INFO tells them. */
export function guestConfig(idr: readonly number[]): SmmuV3Config {
  const kept = (register: Register): Record<string, number> =>
    Object.fromEntries(KEPT[register].map((name) => [name, valueOf(register, name, idr)]));
  const plain = smmuV3Config();
  return {
    ...plain,
    idr: [
      encode(IDR0, {
        ...kept('IDR0'),
        S1P: 1,
        MSI: 1,
        TTF: readField(IDR0.TTF, [plain.idr[0]]),
        ST_LEVEL: ST_LEVEL.TWO_LEVEL,
      })[0]!,
      encode(IDR1, {
        ...kept('IDR1'),
        SIDSIZE: SID_BITS,
        CMDQS: QUEUE_LOG2,
        EVENTQS: QUEUE_LOG2,
      })[0]!,
      0,
      encode(IDR3, kept('IDR3'))[0]!,
      0,
      encode(IDR5, kept('IDR5'))[0]!,
    ],
  };
}
