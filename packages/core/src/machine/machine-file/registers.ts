import type { Field, LayoutInfo } from '../../base/bit-fields.ts';
import { CAP_HEADER, EFR, EFR2, MISC_INFO0 } from '../../iommu/amd/spec/features.ts';
import { AIDR, GBPA, IDR0, IDR1, IDR3, IDR5, IIDR } from '../../iommu/arm-smmu-v3/spec/registers.ts';
import { CAP, ECAP, VER } from '../../iommu/intel/spec/registers.ts';
import type { IommuType } from './parts.ts';
import type { IommuSettings } from '../iommus/vendor.ts';

/** A register that says what hardware has: its fields by name, and `$`. */
type Register = Readonly<Record<string, Field | LayoutInfo>>;

/** The registers by which a machine file says what an IOMMU has. */
const REGISTERS: Readonly<Record<IommuType, Readonly<Record<string, Register>>>> = {
  'arm-smmu-v3': { IDR0, IDR1, IDR3, IDR5, IIDR, AIDR, GBPA },
  'intel-iommu': { VER, CAP, ECAP },
  'amd-iommu': { EFR, EFR2, capHeader: CAP_HEADER, miscInfo0: MISC_INFO0 },
};

/** Tells of a setting that cannot be: where it stands below `registers`, and what is wrong with it. */
export type Refusal = (path: readonly string[], message: string) => void;

/** Looks for registers and fields that are not there, and for values that do not fit. */
export function checkRegisters(
  type: IommuType,
  registers: NonNullable<IommuSettings['registers']>,
  refuse: Refusal,
): void {
  const known = REGISTERS[type];
  for (const [name, values] of Object.entries(registers)) {
    const register = known[name];
    if (register === undefined) {
      refuse([name], `${type} has no register '${name}' here; it has ${Object.keys(known).join(', ')}`);
      continue;
    }
    const { fields } = register['$'] as LayoutInfo;
    for (const [field, value] of Object.entries(values)) {
      const found = fields.find((each) => each.name === field);
      if (found === undefined) {
        const names = fields.map((each) => each.name).join(', ');
        refuse([name, field], `${name} has no field '${field}'; it has ${names}`);
      } else if (value > 2 ** found.width - 1) {
        refuse([name, field], `${value} does not fit: ${name}.${field} has ${found.width} bits`);
      }
    }
  }
}
