// What a translation runs into, as the event log tells it (§2.5.3, §2.5.5).

import { AMD_V1_FAULT, type AmdV1Fault } from '../../../../pagetable/amd-v1.ts';
import { X86_FAULT, type X86Fault } from '../../../../pagetable/x86-64.ts';

/** What translation ran into. */
export interface TranslationFault {
  /** IO_PAGE_FAULT, or PAGE_TAB_HARDWARE_ERROR. */
  readonly kind: 'page-fault' | 'hardware';
  /** The address is a GVA; else it is a GPA. */
  readonly gn: boolean;
  /** The address to report, as two u32: of the access, or of the entry that memory refused. */
  readonly hi: number;
  readonly lo: number;
  /** PR, PE and RZ of IO_PAGE_FAULT. */
  readonly present: boolean;
  readonly permission: boolean;
  readonly reserved: boolean;
  /** For people. */
  readonly reason: string;
}

const V1_REASONS: Readonly<Record<AmdV1Fault, string>> = {
  [AMD_V1_FAULT.NONE]: '',
  [AMD_V1_FAULT.WIDTH]: 'the address is wider than DTE.Mode resolves',
  [AMD_V1_FAULT.NOT_PRESENT]: 'a host page table entry is not present',
  [AMD_V1_FAULT.LEVEL]: 'Next Level is not below the level of its entry',
  [AMD_V1_FAULT.SKIPPED]: 'address bits of a skipped level are not zero',
  [AMD_V1_FAULT.RESERVED]: 'a reserved bit of a host page table entry is set',
  [AMD_V1_FAULT.PAGE_SIZE]: 'a leaf says a page size that its level does not have',
  [AMD_V1_FAULT.PERMISSION]: 'IR or IW of the host page tables denies it',
  [AMD_V1_FAULT.FETCH]: 'a host page table entry could not be read',
  [AMD_V1_FAULT.UPDATE]: 'a host page table entry could not be updated',
};
const X86_REASONS: Readonly<Partial<Record<X86Fault, string>>> = {
  [X86_FAULT.NOT_CANONICAL]: 'the guest address is not canonical',
  [X86_FAULT.NOT_PRESENT]: 'a guest page table entry is not present',
  [X86_FAULT.RESERVED]: 'a reserved bit of a guest page table entry is set',
  [X86_FAULT.PERMISSION]: 'the guest page tables deny it',
  [X86_FAULT.FETCH]: 'a guest page table entry could not be read',
  [X86_FAULT.UPDATE]: 'a guest page table entry could not be updated',
};

/** A fault of host tables; `fetchAddress` is that of the entry that memory refused. */
export function hostFault(fault: AmdV1Fault, hi: number, lo: number, fetchAddress: number): TranslationFault {
  const reason = V1_REASONS[fault];
  switch (fault) {
    case AMD_V1_FAULT.FETCH:
    case AMD_V1_FAULT.UPDATE:
      return hardwareFault(false, fetchAddress, reason);
    case AMD_V1_FAULT.WIDTH:
    case AMD_V1_FAULT.NOT_PRESENT:
      return pageFault(false, hi, lo, reason);
    case AMD_V1_FAULT.PERMISSION:
      return pageFault(false, hi, lo, reason, true, true);
    default:
      return pageFault(false, hi, lo, reason, true, false, fault === AMD_V1_FAULT.RESERVED);
  }
}

/** A fault of guest tables. */
export function guestFault(fault: X86Fault, hi: number, lo: number, fetchAddress: number): TranslationFault {
  const reason = X86_REASONS[fault] ?? '';
  switch (fault) {
    case X86_FAULT.FETCH:
    case X86_FAULT.UPDATE:
      return hardwareFault(true, fetchAddress, reason);
    case X86_FAULT.PERMISSION:
      return pageFault(true, hi, lo, reason, true, true);
    default: {
      const reserved = fault === X86_FAULT.RESERVED;
      return pageFault(true, hi, lo, reason, reserved, false, reserved);
    }
  }
}

export function pageFault(
  gn: boolean,
  hi: number,
  lo: number,
  reason: string,
  present = false,
  permission = false,
  reserved = false,
): TranslationFault {
  return { kind: 'page-fault', gn, hi, lo, present, permission, reserved, reason };
}

export function hardwareFault(gn: boolean, address: number, reason: string): TranslationFault {
  const hi = (address / 0x1_0000_0000) >>> 0;
  const lo = address >>> 0;
  return { kind: 'hardware', gn, hi, lo, present: false, permission: false, reserved: false, reason };
}
