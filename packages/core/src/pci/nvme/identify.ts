import type { BlockBackend } from './block.ts';
import { WARNING_KELVINS } from './health.ts';
import { ASYNC_EVENTS_MAX, ERROR_ENTRIES, MDTS } from './limits.ts';
import { CNS, IDENTIFY_BYTES, NVME_VENDOR, NVME_VERSION } from './spec.ts';

// What Identify answers, §5.15.

const NAMESPACES = 1;
const MODEL = 'viommu NVMe controller';
const FIRMWARE = '1.0';

export interface DiskIdentity {
  readonly serial: string;
  /** 16 bytes that no other namespace has. */
  readonly uuid: Uint8Array;
}

/** What the disk of a device of that name is known by: the same each time. */
export function diskIdentity(name: string): DiskIdentity {
  const uuid = new Uint8Array(16);
  // FNV-1a, once for each byte.
  for (const at of uuid.keys()) {
    let hash = 0x811c_9dc5 ^ at;
    for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x0100_0193);
    uuid[at] = hash >>> 16;
  }
  // RFC 9562: version 8, variant 10.
  uuid[6] = (uuid[6]! & 0x0f) | 0x80;
  uuid[8] = (uuid[8]! & 0x3f) | 0x80;
  return { serial: name.replaceAll(/[^0-9a-zA-Z]/g, ''), uuid };
}

/** The data of a CNS, or null where there is none. */
export function identifyData(
  cns: number,
  nsid: number,
  csi: number,
  disk: BlockBackend,
  identity: DiskIdentity,
): Uint8Array | 'no-namespace' | null {
  const data = new Uint8Array(IDENTIFY_BYTES);
  const view = new DataView(data.buffer);
  const present = nsid >= 1 && nsid <= NAMESPACES;
  switch (cns) {
    case CNS.NAMESPACE:
      if (!present) return 'no-namespace';
      writeNamespace(view, disk);
      return data;
    case CNS.CONTROLLER:
      writeController(data, view, identity);
      return data;
    case CNS.ACTIVE_NAMESPACES:
      if (nsid >= 0xffff_fffe) return 'no-namespace';
      if (nsid < NAMESPACES) view.setUint32(0, 1, true);
      return data;
    case CNS.NAMESPACE_DESCRIPTORS:
      if (!present) return 'no-namespace';
      // UUID, then the command set: NVM.
      data.set([3, 16], 0);
      data.set(identity.uuid, 4);
      data.set([4, 1], 20);
      return data;
    case CNS.CSI_NAMESPACE:
      if (csi !== 0) return null;
      return present ? data : 'no-namespace';
    case CNS.CSI_CONTROLLER:
      return csi === 0 ? data : null;
    default:
      return null;
  }
}

function writeController(data: Uint8Array, view: DataView, { serial }: DiskIdentity): void {
  view.setUint16(0, NVME_VENDOR, true);
  view.setUint16(2, NVME_VENDOR, true);
  writeText(data, 4, 20, serial);
  writeText(data, 24, 40, MODEL);
  writeText(data, 64, 8, FIRMWARE);
  view.setUint8(72, 6); // RAB
  view.setUint8(77, MDTS);
  view.setUint32(80, NVME_VERSION, true);
  view.setUint8(111, 1); // CNTRLTYPE: I/O
  view.setUint8(258, 3); // ACL
  view.setUint8(259, ASYNC_EVENTS_MAX - 1);
  view.setUint8(260, 0x3); // FRMW: one slot, read-only
  view.setUint8(261, 0x6); // LPA: commands supported and effects, extended data
  view.setUint8(262, ERROR_ENTRIES - 1);
  view.setUint16(266, WARNING_KELVINS, true); // WCTEMP
  view.setUint16(268, 0x175, true); // CCTEMP
  view.setUint8(512, 0x66); // SQES
  view.setUint8(513, 0x44); // CQES
  view.setUint32(516, NAMESPACES, true);
  view.setUint16(520, (1 << 0) | (1 << 2) | (1 << 3), true); // ONCS: Compare, Dataset Management, Write Zeroes
  view.setUint8(525, 0x7); // VWC: present; Flush knows all namespaces
  view.setUint32(536, 0x1, true); // SGLS: supported, dword granularity not asked for
  writeText(data, 768, 256, `nqn.2014-08.org.nvmexpress:viommu:${serial}`, 0);
  view.setUint16(2048, 2500, true); // PSD0: maximum power, in centiwatts
  view.setUint32(2048 + 4, 16, true);
  view.setUint32(2048 + 8, 4, true);
}

/** ASCII fields are padded, with blanks where nothing else is said. */
function writeText(data: Uint8Array, at: number, length: number, text: string, padding = 0x20): void {
  data.fill(padding, at, at + length);
  for (let i = 0; i < Math.min(length, text.length); i++) data[at + i] = text.charCodeAt(i) & 0x7f;
}

function writeNamespace(view: DataView, disk: BlockBackend): void {
  for (const at of [0, 8, 16]) view.setBigUint64(at, disk.blocks, true);
  view.setUint8(33, 0x9); // DLFEAT: zeros; Write Zeroes may deallocate
  if (disk.readOnly) view.setUint8(99, 1); // NSATTR: write protected
  view.setUint32(128, Math.log2(disk.blockBytes) << 16, true); // LBAF0
}
