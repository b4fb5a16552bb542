import { struct, u16, u32 } from '../../base/struct.ts';

// What a migration's descriptor carries: snapshots of the device's inside, one behind the other. Of these the last counts,
// and it says that it is the last. The kernel's interface leaves the format to drivers.

/** Before each snapshot. `identity` names the kind of device. */
const record = struct('migration_record', 16, {
  magic: u32,
  version: u16,
  last: u16,
  identity: u32,
  bytes: u32,
});

const MAGIC = 0x474d_4956;
const VERSION = 1;

export const RECORD_HEADER_BYTES = record.size;

/** A snapshot as it goes through the descriptor. */
export function writeRecord(identity: number, state: Uint8Array, last: boolean): Uint8Array {
  const bytes = new Uint8Array(record.size + state.length);
  const header = { magic: MAGIC, version: VERSION, last: last ? 1 : 0, identity, bytes: state.length };
  record.write(bytes, 0, header);
  bytes.set(state, record.size);
  return bytes;
}

/** The snapshot that counts, of all that came; or why there is none. */
export function lastSnapshot(
  identity: number,
  stream: Uint8Array,
): { readonly state: Uint8Array } | { readonly wrong: string } {
  for (let at = 0; at + record.size <= stream.length;) {
    const { magic, version, last, identity: of, bytes } = record.read(stream, at);
    if (magic !== MAGIC || version !== VERSION) return { wrong: 'it is no snapshot of a device' };
    if (of !== identity) return { wrong: 'it is of a device of another kind' };
    const end = at + record.size + bytes;
    if (end > stream.length) return { wrong: 'it is not complete' };
    if (last !== 0)
      return end === stream.length
        ? { state: stream.subarray(at + record.size, end) }
        : { wrong: 'there is more behind its end' };
    at = end;
  }
  return { wrong: 'its end is missing' };
}
