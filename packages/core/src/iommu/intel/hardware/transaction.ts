// What devices send to remapping hardware, and what it answers.

import type { FaultCondition } from '../spec/faults.ts';

/** A memory request of a device: untranslated, or translated by ATS. */
export interface Transaction {
  /** Bus, device and function: the source-id. */
  readonly requesterId: number;
  /** Absent or null: a request-without-PASID. */
  readonly pasid?: number | null;
  /** The input address, as two u32. */
  readonly hi: number;
  readonly lo: number;
  readonly write?: boolean;
  /** Reads and writes: both permissions are checked. */
  readonly atomic?: boolean;
  /** Privileged-mode-Requested and Execute-Requested; they come with a PASID alone. */
  readonly privileged?: boolean;
  readonly execute?: boolean;
  /** Bytes of the request; 0 is a zero-length read, 4 a DWORD. 4 where absent. */
  readonly length?: number;
  /** A translated request (AT=10b): the address comes from a Translation Completion. */
  readonly translated?: boolean;
}

/** The request goes on into the system. */
export interface Translated {
  readonly kind: 'translated';
  readonly pa: number;
  /** How many bytes from `pa` on are mapped alike, at least 1. */
  readonly bytes: number;
  /** The access snoops processor caches whatever the request says (§3.10). */
  readonly snoop: boolean;
}

/** A request-without-PASID to the interrupt address range that is not remapped: an interrupt, or a read that flushes. */
export interface InterruptRequest {
  readonly kind: 'interrupt';
  readonly address: number;
}

/** The request is blocked. */
export interface Blocked {
  readonly kind: 'blocked';
  readonly status: 'UR' | 'CA';
  /** Null where no condition of Table 30 describes it. */
  readonly fault: FaultCondition | null;
  /** Whether it went into a fault recording register. */
  readonly recorded: boolean;
}

export type Outcome = Translated | InterruptRequest | Blocked;

/** A fault on the way, and whether an FPD was met: then a qualified one is not reported (§7.1.1). */
export interface Fault {
  readonly condition: FaultCondition;
  readonly fpd: boolean;
}

/** What a fault record tells of the request (§11.4.7.6). */
export interface FaultedRequest {
  readonly requesterId: number;
  readonly pasid: number | null;
  readonly hi: number;
  readonly lo: number;
  /** FAULT_TYPE */
  readonly type: number;
  /** ADDRESS_TYPE */
  readonly addressType: number;
  readonly privileged: boolean;
  readonly execute: boolean;
}

/** The message-signaled interrupts of the hardware's own events. */
export interface EventInterrupt {
  readonly event: 'fault' | 'invalidation' | 'page-request';
  readonly address: bigint;
  readonly data: number;
}
