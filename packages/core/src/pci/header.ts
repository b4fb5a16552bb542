import { assert } from '../base/assert.ts';
import { hi32, lo32, u64 } from '../base/u64.ts';
import type { Bar } from './bar.ts';
import type { ConfigSpace } from './config-space.ts';
import {
  PCI_BARS,
  PCI_BASE_ADDRESS_0,
  PCI_BASE_ADDRESS_MEM_PREFETCH,
  PCI_BASE_ADDRESS_MEM_TYPE_64,
  PCI_BASE_ADDRESS_SPACE_IO,
  PCI_CACHE_LINE_SIZE,
  PCI_CLASS_PROG,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_IO,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_COMMAND_PARITY,
  PCI_COMMAND_SERR,
  PCI_DEVICE_ID,
  PCI_INTERRUPT_LINE,
  PCI_INTERRUPT_PIN,
  PCI_REVISION_ID,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  PCI_STATUS_DETECTED_PARITY,
  PCI_STATUS_PARITY,
  PCI_STATUS_REC_MASTER_ABORT,
  PCI_STATUS_REC_TARGET_ABORT,
  PCI_STATUS_SIG_SYSTEM_ERROR,
  PCI_STATUS_SIG_TARGET_ABORT,
  PCI_SUBSYSTEM_ID,
  PCI_SUBSYSTEM_VENDOR_ID,
  PCI_VENDOR_ID,
} from './spec.ts';

// The header of type 0: PCI Express Base §7.5.1.

export interface FunctionIdentity {
  readonly vendor: number;
  readonly device: number;
  readonly revision?: number;
  /** Class, subclass and programming interface, 24 bits. */
  readonly classCode: number;
  readonly subsystemVendor?: number;
  readonly subsystem?: number;
}

const ERRORS =
  PCI_STATUS_PARITY |
  PCI_STATUS_SIG_TARGET_ABORT |
  PCI_STATUS_REC_TARGET_ABORT |
  PCI_STATUS_REC_MASTER_ABORT |
  PCI_STATUS_SIG_SYSTEM_ERROR |
  PCI_STATUS_DETECTED_PARITY;

/** Defines the header. `intx`: the function has an interrupt pin, INTA#. */
export function addHeader(
  config: ConfigSpace,
  identity: FunctionIdentity,
  bars: readonly (Bar | null)[],
  intx: boolean,
  commandChanged: () => void,
): void {
  const { classCode } = identity;
  config.define({ offset: PCI_VENDOR_ID, size: 2, value: identity.vendor });
  config.define({ offset: PCI_DEVICE_ID, size: 2, value: identity.device });
  const io = bars.some((bar) => bar?.kind === 'io') ? PCI_COMMAND_IO : 0;
  const memory = bars.some((bar) => bar !== null && bar.kind !== 'io') ? PCI_COMMAND_MEMORY : 0;
  config.define({
    offset: PCI_COMMAND,
    size: 2,
    writable:
      io |
      memory |
      PCI_COMMAND_MASTER |
      PCI_COMMAND_PARITY |
      PCI_COMMAND_SERR |
      (intx ? PCI_COMMAND_INTX_DISABLE : 0),
    onWrite: commandChanged,
  });
  // Every function here has capabilities.
  config.define({ offset: PCI_STATUS, size: 2, value: PCI_STATUS_CAP_LIST, clearable: ERRORS });
  config.define({ offset: PCI_REVISION_ID, size: 1, value: identity.revision ?? 0 });
  config.define({ offset: PCI_CLASS_PROG, size: 1, value: classCode & 0xff });
  config.define({ offset: PCI_CLASS_PROG + 1, size: 2, value: classCode >>> 8 });
  config.define({ offset: PCI_CACHE_LINE_SIZE, size: 1, writable: 0xff });
  for (const bar of bars) if (bar !== null) addBar(config, bar);
  config.define({ offset: PCI_SUBSYSTEM_VENDOR_ID, size: 2, value: identity.subsystemVendor ?? 0 });
  config.define({ offset: PCI_SUBSYSTEM_ID, size: 2, value: identity.subsystem ?? 0 });
  config.define({ offset: PCI_INTERRUPT_LINE, size: 1, writable: 0xff });
  config.define({ offset: PCI_INTERRUPT_PIN, size: 1, value: intx ? 1 : 0 });
}

function addBar(config: ConfigSpace, { index, size, kind, prefetchable }: Bar): void {
  const wide = kind === 'memory64';
  assert(index >= 0 && index + (wide ? 2 : 1) <= PCI_BARS, `BAR ${index} is one of six`);
  const smallest = kind === 'io' ? 4 : 16;
  assert(size >= smallest && Number.isInteger(Math.log2(size)), `BAR ${index}: ${size} is a power of two`);
  assert(wide || size <= 2 ** 31, `BAR ${index}: ${size} bytes need 64 bits`);
  const flags =
    (kind === 'io' ? PCI_BASE_ADDRESS_SPACE_IO : 0) |
    (wide ? PCI_BASE_ADDRESS_MEM_TYPE_64 : 0) |
    (prefetchable === true ? PCI_BASE_ADDRESS_MEM_PREFETCH : 0);
  const mask = BigInt.asUintN(64, -BigInt(size));
  const offset = PCI_BASE_ADDRESS_0 + 4 * index;
  config.define({ offset, size: 4, value: flags, writable: lo32(mask) });
  if (wide) config.define({ offset: offset + 4, size: 4, writable: hi32(mask) });
}

/** Where software put a BAR. */
export function barAddress(config: ConfigSpace, { index, kind }: Bar): bigint {
  const offset = PCI_BASE_ADDRESS_0 + 4 * index;
  const low = config.read(offset, 4) & (kind === 'io' ? ~3 : ~15);
  return u64(kind === 'memory64' ? config.read(offset + 4, 4) : 0, low);
}
