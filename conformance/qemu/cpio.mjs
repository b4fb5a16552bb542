// Archives in the format that Linux unpacks its first file system from (Documentation/driver-api/early-userspace/
// buffer-format.rst, "newc").

const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const ALIGNMENT = 4;
const TRAILER = 'TRAILER!!!';

/**
 * @typedef {{ name: string, mode?: number, data?: Uint8Array, link?: string }} Entry a file where it has data, a
 *   symbolic link where it has a link, else a directory; `mode` is what chmod takes, 0755 where there is none
 */

/**
 * The archive of those entries, which belong to root. A directory comes before what is in it.
 *
 * @param {Entry[]} entries
 * @returns {Buffer}
 */
export function newc(entries) {
  const all = [...entries, { name: TRAILER, data: new Uint8Array(0) }];
  return Buffer.concat(all.flatMap((entry, index) => member(entry, index + 1)));
}

function member({ name, mode = 0o755, data, link }, inode) {
  const type = link !== undefined ? S_IFLNK : data !== undefined ? S_IFREG : S_IFDIR;
  const bytes = link !== undefined ? Buffer.from(link) : (data ?? new Uint8Array(0));
  const links = type === S_IFDIR ? 2 : 1;
  const fields = [inode, type | mode, 0, 0, links, 0, bytes.length, 0, 0, 0, 0, name.length + 1, 0];
  const head = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}${name}\0`;
  return [padded(Buffer.from(head, 'latin1')), padded(bytes)];
}

function padded(bytes) {
  const rest = bytes.length % ALIGNMENT;
  return rest === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(ALIGNMENT - rest)]);
}
