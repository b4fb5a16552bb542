import type { Field } from '../../../../base/bit-fields.ts';

// STEs and CDs as software builds them: eight 64-bit words each, of which hardware reads any one atomically and the whole
// never. drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c arm_smmu_write_entry().

export const ENTRY_QWORDS = 8;
/** The words of an STE or CD. */
export type Entry = BigUint64Array;

export function emptyEntry(): Entry {
  return new BigUint64Array(ENTRY_QWORDS);
}

/** Ones from bit `msb` to bit `lsb`. */
export function genmask(msb: number, lsb: number): bigint {
  return ((1n << BigInt(msb - lsb + 1)) - 1n) << BigInt(lsb);
}

function fieldMask(field: Field): bigint {
  return genmask(field.msb & 63, field.lsb & 63);
}

/** Stores a field; bits of `value` that do not fit are dropped. No field crosses a 64-bit word. */
export function setField(entry: Entry, field: Field, value: number | bigint | boolean): void {
  const mask = fieldMask(field);
  const qword = field.lsb >>> 6;
  entry[qword] = (entry[qword]! & ~mask) | ((BigInt(value) << BigInt(field.lsb & 63)) & mask);
}

/** Reads a field of up to 64 bits. */
export function getField(entry: Entry, field: Field): bigint {
  return (entry[field.lsb >>> 6]! & fieldMask(field)) >> BigInt(field.lsb & 63);
}

/** Sets all bits of the fields. */
export function addMasks(mask: Entry, ...fields: Field[]): Entry {
  for (const field of fields) mask[field.lsb >>> 6]! |= fieldMask(field);
  return mask;
}

/** An entry that hardware may read at any time, and how its bits matter. */
export interface EntryWriter {
  /** The bits that hardware looks at, given the entry's own values: arm_smmu_entry_writer_ops.get_used(). */
  used(entry: Entry): Entry;
  /** Used bits whose change at any point harms nothing: get_update_safe(). */
  updateSafe?(current: Entry, target: Entry): Entry;
  /** Stores one word where hardware reads it. */
  store(qword: number, value: bigint): void;
  /** Makes hardware forget what it cached of the entry, and waits until it has. */
  sync(): void;
}

/** Which words still differ in bits that count, once everything that does not count has its new value. */
interface Difference {
  readonly qwords: number[];
  /** `current` with the bits that it does not use taken from the target. */
  readonly unusedUpdate: Entry;
}

// arm_smmu_entry_qword_diff()
function qwordDiff(writer: EntryWriter, current: Entry, target: Entry): Difference {
  const currentUsed = writer.used(current);
  const targetUsed = writer.used(target);
  const safe = writer.updateSafe?.(current, target) ?? emptyEntry();
  const unusedUpdate = emptyEntry();
  const qwords: number[] = [];
  for (let i = 0; i < ENTRY_QWORDS; i++) {
    const keep = currentUsed[i]! & ~(safe[i]! & targetUsed[i]! & currentUsed[i]!);
    unusedUpdate[i] = (current[i]! & keep) | (target[i]! & ~keep);
    if ((unusedUpdate[i]! & targetUsed[i]!) !== target[i]!) qwords.push(i);
  }
  return { qwords, unusedUpdate };
}

// entry_set(): words that change, and a sync where one did.
function setQwords(writer: EntryWriter, current: Entry, to: Entry, start: number, count: number): void {
  let changed = false;
  for (let i = start; i < start + count; i++) {
    if (current[i] === to[i]) continue;
    current[i] = to[i]!;
    writer.store(i, to[i]!);
    changed = true;
  }
  if (changed) writer.sync();
}

/**
 * Makes `current`, which hardware may be using, into `target`: without a moment in which hardware could see something
 * that is neither where one word decides (hitless), else by way of an entry that is not valid. `current` follows.
 */
export function writeEntry(writer: EntryWriter, current: Entry, target: Entry): void {
  const { qwords, unusedUpdate } = qwordDiff(writer, current, target);
  const [critical] = qwords;
  if (critical === undefined) {
    setQwords(writer, current, target, 0, ENTRY_QWORDS);
  } else if (qwords.length === 1) {
    // The critical word is written in the next step anyway; leaving its unused bits alone now can save a sync.
    unusedUpdate[critical] = current[critical]!;
    setQwords(writer, current, unusedUpdate, 0, ENTRY_QWORDS);
    setQwords(writer, current, target, critical, 1);
    setQwords(writer, current, target, 0, ENTRY_QWORDS);
  } else {
    unusedUpdate[0] = 0n;
    setQwords(writer, current, unusedUpdate, 0, 1);
    setQwords(writer, current, target, 1, ENTRY_QWORDS - 1);
    setQwords(writer, current, target, 0, 1);
  }
}
