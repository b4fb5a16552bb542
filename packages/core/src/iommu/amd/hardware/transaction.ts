// What devices send to an AMD IOMMU, and what it answers.

import type { EVENT } from '../spec/events.ts';

/** A memory transaction of a device. */
export interface Transaction {
  /** Bus, device and function. */
  readonly deviceId: number;
  /** Absent or null: the transaction has no PASID TLP prefix. */
  readonly pasid?: number | null;
  /** The input address, as two u32. */
  readonly hi: number;
  readonly lo: number;
  readonly write?: boolean;
  /** Execute Requested; counts for reads with a PASID. */
  readonly execute?: boolean;
  /** Privileged Mode Requested; counts with a PASID. */
  readonly privileged?: boolean;
  /** Reads and writes: both permissions are checked. */
  readonly atomic?: boolean;
  /** An ATS Translated transaction: the address comes from a Translation Completion. */
  readonly translated?: boolean;
}

/** The transaction goes on into the system. */
export interface Translated {
  readonly kind: 'translated';
  readonly pa: number;
  /** How many bytes from `pa` on are mapped alike, at least 1. */
  readonly bytes: number;
  /** PTE.FC, or DTE.Mode0FC where nothing is translated: the transaction is coherent whatever it says itself. */
  readonly forceCoherent: boolean;
}

/** A write to the interrupt range: AmdIommu.interrupt() has to be told what was written. */
export interface InterruptWrite {
  readonly kind: 'interrupt';
}

/** A target abort. */
export interface Aborted {
  readonly kind: 'aborted';
  /** What ended it, null where no event describes it. */
  readonly event: EventRecord | null;
  /** Whether the record went into the event log. */
  readonly recorded: boolean;
  /** For people. */
  readonly reason: string;
}

export type Outcome = Translated | InterruptWrite | Aborted;

export type EventType = (typeof EVENT)[keyof typeof EVENT];

/** An event record: its four words, as they stand in the log. */
export interface EventRecord {
  readonly type: EventType;
  readonly words: Uint32Array;
}

/** What an IOMMU interrupts for (§2.8). */
export type InterruptSource = 'event-log' | 'completion-wait' | 'ppr-log';

/** An MSI: a 32-bit write. The address has up to 64 bits where it names an x2APIC destination. */
export interface Msi {
  readonly hi: number;
  readonly lo: number;
  readonly data: number;
}
