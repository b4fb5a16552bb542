import { encode, type Field, readField } from '../../base/bit-fields.ts';
import { smmuV3Config, type SmmuV3Config } from '../../iommu/arm-smmu-v3/hardware/config.ts';
import { IDR0, IDR1, IDR3, IDR5, STALL_MODEL, ST_LEVEL } from '../../iommu/arm-smmu-v3/spec/registers.ts';

// What the guest's SMMU says that it has: no more than the physical one, of which it is a part.

/** Fields of the physical SMMU that the guest's has as they are. The guest has stage 1 alone, and no queue of pages. */
const KEPT = {
  IDR0: ['COHACC', 'HTTU', 'ATS', 'NS1ATS', 'ASID16', 'CD2L', 'TTENDIAN', 'ATSRECERR', 'TERM_MODEL'],
  IDR1: ['SSIDSIZE'],
  IDR3: ['HAD', 'RIL', 'STT', 'BBML', 'E0PD'],
  IDR5: ['OAS', 'GRAN4K', 'GRAN16K', 'GRAN64K', 'DS', 'VAX'],
} as const;

const NUMBER = { IDR0: 0, IDR1: 1, IDR3: 3, IDR5: 5 } as const;

/** Queues of at most 256 entries, and 16 bits of StreamID: the guest's bus. */
const QUEUE_LOG2 = 8;
const SID_BITS = 16;

/** From SMMU_IDR0 to SMMU_IDR5 of the physical one, as IOMMU_GET_HW_INFO tells them. */
export function guestConfig(idr: readonly number[]): SmmuV3Config {
  const layouts = { IDR0, IDR1, IDR3, IDR5 };
  const kept = (name: keyof typeof KEPT): Record<string, number> => {
    const word = [idr[NUMBER[name]]!];
    const layout: object = layouts[name];
    return Object.fromEntries(
      KEPT[name].map((field) => [
        field,
        readField((layout as Readonly<Record<string, Field>>)[field]!, word),
      ]),
    );
  };
  const plain = smmuV3Config();
  return {
    ...plain,
    idr: [
      encode(IDR0, {
        ...kept('IDR0'),
        S1P: 1,
        MSI: 1,
        TTF: readField(IDR0.TTF, [plain.idr[0]]),
        STALL_MODEL: STALL_MODEL.TERMINATE,
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
