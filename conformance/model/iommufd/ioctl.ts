import { EINVAL, ENOENT, ENOTTY, EOPNOTSUPP, EOVERFLOW, must } from './errno.ts';
import { Call } from './call.ts';
import type { Context } from './context.ts';
import { destroy } from './destroy.ts';
import { faultAlloc, veventqAlloc } from './events.ts';
import { getDirtyBitmap, hwptAlloc, hwptInvalidate, setDirtyTracking } from './hwpt.ts';
import {
  ioasAlloc,
  ioasAllowIovas,
  ioasChangeProcess,
  ioasCopy,
  ioasIovaRanges,
  ioasMap,
  ioasMapFile,
  ioasUnmap,
  option,
} from './ioas.ts';
import { copyStruct, PAGE, PAGE_N, U64_MAX } from './memory.ts';
import { test } from './selftest.ts';
import { vfioIoas, vfioIoctl } from './vfio.ts';
import { hwQueueAlloc, vdeviceAlloc, viommuAlloc } from './viommu.ts';

// drivers/iommu/iommufd/main.c iommufd_fops_ioctl() and its table.

const TYPE = 0x3b00;
const FIRST = 0x80;
const LAST = 0xa0;

interface Operation {
  readonly size: number;
  readonly sizeMin: number;
  execute(call: Call): number | void;
}

function op(size: number, sizeMin: number, execute: (call: Call) => number | void): Operation {
  return { size, sizeMin, execute };
}

const OPERATIONS: Readonly<Record<number, Operation>> = {
  0x80: op(8, 8, (call) => destroy(call.context, call.context.find(call.u32(4)))),
  0x81: op(12, 12, ioasAlloc),
  0x82: op(24, 24, ioasAllowIovas),
  0x83: op(40, 40, ioasCopy),
  0x84: op(32, 32, ioasIovaRanges),
  0x85: op(40, 40, ioasMap),
  0x86: op(24, 24, ioasUnmap),
  0x87: op(24, 24, option),
  0x88: op(12, 12, vfioIoas),
  0x89: op(48, 24, hwptAlloc),
  0x8a: op(40, 32, getHwInfo),
  0x8b: op(16, 16, setDirtyTracking),
  0x8c: op(48, 48, getDirtyBitmap),
  0x8d: op(32, 32, hwptInvalidate),
  0x8e: op(16, 16, faultAlloc),
  0x8f: op(40, 40, ioasMapFile),
  0x90: op(40, 24, viommuAlloc),
  0x91: op(24, 24, vdeviceAlloc),
  0x92: op(8, 8, ioasChangeProcess),
  0x93: op(32, 28, veventqAlloc),
  0x94: op(40, 40, hwQueueAlloc),
  0x95: op(40, 40, noiommuGetPa),
  0xa0: op(72, 68, test),
};

/** iommufd_ioas_noiommu_get_pa(): there are no devices without an IOMMU. */
function noiommuGetPa(call: Call): void {
  must(call.u32(4) === 0 && call.u32(12) === 0, EOPNOTSUPP);
  must(call.u64(24) !== 0n, EINVAL);
  must(call.u64(16) !== U64_MAX, EOVERFLOW);
  const { iopt } = call.context.get(call.u32(8), 'ioas');
  const area = iopt.touching(call.u64(16), call.u64(16))[0];
  must(area !== undefined, ENOENT);
  must(!area.pages.revoked, EINVAL);
  must(false, EOPNOTSUPP);
}

/** iommufd_get_hw_info(), mock_domain_hw_info(). */
function getHwInfo(call: Call): void {
  const flags = call.u32(4);
  must((flags & ~1) === 0 && call.u8(29) === 0 && call.u8(30) === 0 && call.u8(31) === 0, EOPNOTSUPP);
  const type = (flags & 1) === 0 ? 0 : call.u32(24);
  const device = call.context.get(call.u32(8), 'device');
  must(type === 0 || type === 0xfeedbeef, EOPNOTSUPP);
  const length = call.u32(12);
  const info = new Uint8Array(8);
  new DataView(info.buffer).setUint32(4, 0xdeadbeef, true);
  call.memory.write(call.u64(16), info.subarray(0, length));
  // clear_user() stops where there is no memory, and leaves cleared what was before.
  for (let at = 8; at < length;) {
    const va = call.u64(16) + BigInt(at);
    const count = Math.min(PAGE - Number(va % PAGE_N), length - at);
    call.memory.write(va, new Uint8Array(count));
    at += count;
  }
  call.setU32(12, 8);
  call.setU32(24, 0xfeedbeef);
  call.setU8(28, Math.log2(device.mock.maxPasids));
  call.setU64(32, (device.mock.noDirty ? 0n : 1n) | 8n);
  call.respond();
}

/** ioctl(2) on a context: 0 or more, or throws. */
export function ioctl(context: Context, command: number, arg: bigint): number {
  const number = command & 0xff;
  if (number < FIRST || number > LAST) return vfioIoctl(context, command, arg);
  const { memory } = context.machine;
  const userSize = new DataView(memory.read(arg, 4).buffer).getUint32(0, true);
  const operation = OPERATIONS[number];
  must(operation !== undefined && command === (TYPE | number), ENOTTY);
  must(userSize >= operation.sizeMin, EINVAL);
  const bytes = copyStruct(memory, arg, operation.size, userSize);
  return operation.execute(new Call(context, arg, userSize, bytes)) ?? 0;
}
