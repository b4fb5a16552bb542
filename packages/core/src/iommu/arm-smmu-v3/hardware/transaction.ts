// What devices send to an SMMU, and what it answers.

import type { EVENT } from '../spec/events.ts';

/** A transaction of a client device (§3.9, §13.1). */
export interface Transaction {
  readonly streamId: number;
  /** Absent or null: no SubstreamID (PASID) comes with it. */
  readonly substreamId?: number | null;
  /** The input address, as two u32. */
  readonly hi: number;
  readonly lo: number;
  readonly write?: boolean;
  /** A read of instructions; writes are always data. */
  readonly instruction?: boolean;
  readonly privileged?: boolean;
  /** Reads and writes: both permissions are checked. */
  readonly atomic?: boolean;
  /** An ATS Translated transaction: the address comes from a Translation Completion. */
  readonly translated?: boolean;
  /** False for devices that cannot wait (PCIe): they are terminated where configuration says stall (§3.12). */
  readonly stallable?: boolean;
  /** Memory attributes as pagetable/armv8-attributes.ts has them; cacheable, Non-shareable where absent. */
  readonly attributes?: number;
  /** An IMPLEMENTATION DEFINED reason why the transaction is not supported: ends in F_UUT. */
  readonly unsupported?: number;
}

/** The transaction goes on into the system. */
export interface Translated {
  readonly kind: 'translated';
  readonly pa: number;
  /** As pagetable/armv8-attributes.ts has them. */
  readonly attributes: number;
  /** How many bytes from `pa` on are mapped alike, at least 1. */
  readonly bytes: number;
}

/** The transaction is terminated: with an abort, or as if reads gave zero and writes went nowhere. */
export interface Terminated {
  readonly kind: 'terminated';
  readonly abort: boolean;
  /** What ended it, null where no event describes it (Config 0b000, GBPA.ABORT, and so on). */
  readonly event: EventRecord | null;
  /** Whether the record went into the Event queue. */
  readonly recorded: boolean;
}

/** The transaction waits for CMD_RESUME or CMD_STALL_TERM. */
export interface Stalled {
  readonly kind: 'stalled';
  readonly stall: StalledTransaction;
}

export type Outcome = Translated | Terminated | Stalled;

/** A transaction that waits. */
export interface StalledTransaction {
  readonly transaction: Transaction;
  /** The Stall Tag; -1 until the event could be recorded. */
  readonly stag: number;
  /** What became of it; null while it waits. */
  readonly outcome: Exclude<Outcome, Stalled> | null;
  /** Called when `outcome` is there. */
  onOutcome: ((outcome: Exclude<Outcome, Stalled>) => void) | null;
}

export type EventType = (typeof EVENT)[keyof typeof EVENT];

/** An event record: its eight words, as they stand in the queue. */
export interface EventRecord {
  readonly type: EventType;
  readonly words: Uint32Array;
}

/** Wired interrupts, and the WFE wake-up event (§3.18). */
export type Interrupt = 'eventq' | 'priq' | 'gerror' | 'cmd_sync' | 'sev';
