import { fail, type Result } from '../../base/result.ts';
import { hi32, lo32 } from '../../base/u64.ts';
import { EFAULT } from '../../abi/errno.ts';
import type { ConfigAccessSize } from '../../pci/config-space.ts';
import type { PciFunction } from '../../pci/function.ts';
import {
  PCI_BASE_ADDRESS_0,
  PCI_BASE_ADDRESS_MEM_PREFETCH,
  PCI_BASE_ADDRESS_MEM_TYPE_64,
  PCI_BASE_ADDRESS_SPACE_IO,
  PCI_BARS,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_PM,
  PCI_CAP_ID_VNDR,
  PCI_CAP_LIST_NEXT,
  PCI_CFG_SPACE_BYTES,
  PCI_CFG_SPACE_EXP_BYTES,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_IO,
  PCI_COMMAND_MEMORY,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL_BCR_FLR,
  PCI_EXP_DEVCTL_PAYLOAD,
  PCI_EXP_DEVCTL_READRQ,
  PCI_EXT_CAP_ID_DVSEC,
  PCI_EXT_CAP_ID_VNDR,
  PCI_INTERRUPT_PIN,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_ENABLE,
  PCI_MSI_FLAGS_QSIZE,
  PCI_PM_CTRL,
  PCI_PM_CTRL_STATE_MASK,
  PCI_ROM_ADDRESS,
} from '../../pci/spec.ts';
import { CAP_BASIC, CAP_INVALID, CapabilityMap, msiBytes } from './capability-map.ts';
import {
  BASIC_PERMISSIONS,
  CAPABILITY_PERMISSIONS,
  EXTENDED_PERMISSIONS,
  msiPermissions,
  type Permissions,
} from './permissions.ts';

// drivers/vfio/pci/vfio_pci_config.c: configuration space as a program that has the device sees it. Some of it is the
// function's, some is VFIO's own; what would reach beyond the device is kept away from it.

/** What happens elsewhere when a program writes to configuration space. */
export interface ConfigEffects {
  /** PCI_COMMAND_INTX_DISABLE changed as the program sees it. */
  intxDisabled(disabled: boolean): void;
  /** A Function Level Reset by the PCI Express capability. */
  reset(): void;
  /** Memory space or the power state changed: what was mapped may no longer be reached, or again. */
  memoryChanged(): void;
  /** MSI is what interrupts come by: it cannot be turned on by configuration space. */
  readonly msiInUse: boolean;
  /** vdev->msi_qmax: vectors of MSI that were asked for, as log2. */
  readonly msiQueueMax: number;
}

/** One access of at most four bytes within one capability. */
interface Access {
  readonly at: number;
  readonly size: ConfigAccessSize;
  readonly id: number;
  /** From the start of the capability. */
  readonly offset: number;
  readonly extended: boolean;
}

/** Fields of PCI_EXP_DEVCTL, log2 of multiples of 128 bytes; and the largest request there is, 4096. */
const PAYLOAD_SHIFT = 5;
const READ_REQUEST_SHIFT = 12;
const READ_REQUEST_MAX = 5;

const ALL_BITS = [0, 0xff, 0xffff, 0, 0xffff_ffff] as const;

/** True where a dword-sized register at `offset` is one of the BARs, or the ROM's. */
function isBar(offset: number): boolean {
  const bars = offset >= PCI_BASE_ADDRESS_0 && offset < PCI_BASE_ADDRESS_0 + 4 * PCI_BARS;
  return bars || (offset >= PCI_ROM_ADDRESS && offset < PCI_ROM_ADDRESS + 4);
}

export class VfioConfig {
  readonly #pci: PciFunction;
  readonly #effects: ConfigEffects;
  readonly #capabilities: CapabilityMap;
  readonly #view: DataView;
  readonly #msi: Permissions | null;
  #barsDirty = true;
  #intxDisabled = false;

  /** vfio_config_init() */
  constructor(pci: PciFunction, effects: ConfigEffects) {
    this.#pci = pci;
    this.#effects = effects;
    this.#capabilities = new CapabilityMap(pci);
    this.#view = new DataView(this.#capabilities.vconfig.buffer);
    const msi = pci.config.capability(PCI_CAP_ID_MSI);
    const flags = msi === 0 ? 0 : pci.readConfig(msi + PCI_MSI_FLAGS, 2);
    this.#msi = msi === 0 ? null : msiPermissions(msiBytes(flags), flags);
  }

  /** The interrupt pin as programs see it: 0 for none. */
  get interruptPin(): number {
    return this.#capabilities.vconfig[PCI_INTERRUPT_PIN]!;
  }

  /** __vfio_pci_memory_enabled() */
  get memoryEnabled(): boolean {
    const command = this.#view.getUint16(PCI_COMMAND, true);
    return this.#powerState < 3 && (command & PCI_COMMAND_MEMORY) !== 0;
  }

  get #powerState(): number {
    const pm = this.#pci.config.capability(PCI_CAP_ID_PM);
    return pm === 0 ? 0 : this.#pci.readConfig(pm + PCI_PM_CTRL, 2) & PCI_PM_CTRL_STATE_MASK;
  }

  /** vfio_pci_config_rw() for read(2): EFAULT where the end is beyond configuration space. */
  read(at: number, into: Uint8Array): Result<void> {
    if (at + into.length > PCI_CFG_SPACE_EXP_BYTES) return fail(EFAULT, 'beyond configuration space');
    for (let done = 0; done < into.length;) {
      const access = this.#access(at + done, into.length - done);
      let value = this.#read(access);
      for (let i = 0; i < access.size; i++) {
        into[done + i] = value & 0xff;
        value = Math.floor(value / 256);
      }
      done += access.size;
    }
  }

  /** The same for write(2). */
  write(at: number, from: Uint8Array): Result<void> {
    if (at + from.length > PCI_CFG_SPACE_EXP_BYTES) return fail(EFAULT, 'beyond configuration space');
    for (let done = 0; done < from.length;) {
      const access = this.#access(at + done, from.length - done);
      let value = 0;
      for (let i = access.size - 1; i >= 0; i--) value = value * 256 + from[done + i]!;
      this.#write(access, value);
      done += access.size;
    }
  }

  // vfio_pci_config_rw_single(): aligned chunks within one capability.
  #access(at: number, count: number): Access {
    const left = Math.min(count, this.#capabilities.remaining(at));
    const size = left >= 4 && at % 4 === 0 ? 4 : left >= 2 && at % 2 === 0 ? 2 : 1;
    const id = this.#capabilities.map[at]!;
    const offset = at - this.#capabilities.start(at);
    return { at, size, id, offset, extended: at >= PCI_CFG_SPACE_BYTES };
  }

  #permissions({ id, extended }: Access): Permissions | null {
    if (extended) return EXTENDED_PERMISSIONS[id] ?? null;
    if (id === CAP_BASIC) return BASIC_PERMISSIONS;
    return id === PCI_CAP_ID_MSI ? this.#msi : (CAPABILITY_PERMISSIONS[id] ?? null);
  }

  #read(access: Access): number {
    const { at, size, id, offset } = access;
    const permissions = this.#permissions(access);
    if (id === CAP_INVALID) return this.#pci.readConfig(at, size);
    if (permissions === null) return this.#readDirect(access);
    if (id === CAP_BASIC && isBar(offset)) this.#fixBars();
    // vfio_msi_config_read() writes the size of the queue over the capability's id in vconfig, which nobody sees.
    const virt = bits(permissions.virt, offset, size);
    const own = this.#own(at, size);
    if (virt === ALL_BITS[size]) return own;
    return ((this.#pci.readConfig(at, size) & ~virt) | (own & virt)) >>> 0;
  }

  // vfio_direct_config_read(): the function's, but for the links of the list.
  #readDirect({ at, size, offset, extended }: Access): number {
    const hardware = this.#pci.readConfig(at, size);
    if (extended) return offset < 4 ? this.#own(at, size) : hardware;
    if (offset === 0 && size > 1) {
      const kept = size === 4 ? hardware & 0xffff_0000 : 0;
      return (kept | this.#own(at, 2)) >>> 0;
    }
    return offset === PCI_CAP_LIST_NEXT ? this.#own(at, 1) : hardware;
  }

  #write(access: Access, value: number): void {
    const { at, size, id, offset, extended } = access;
    if (id === CAP_INVALID) return this.#pci.writeConfig(at, size, value);
    const permissions = this.#permissions(access);
    if (permissions === null) {
      const raw = extended
        ? id === PCI_EXT_CAP_ID_VNDR || id === PCI_EXT_CAP_ID_DVSEC
        : id === PCI_CAP_ID_VNDR;
      if (raw) this.#pci.writeConfig(at, size, value);
      return;
    }
    const readRequest = id === PCI_CAP_ID_EXP && !extended ? this.#readRequest(at - offset) : 0;
    this.#writeDefault(permissions, access, value);
    if (extended) return;
    if (id === CAP_BASIC) this.#basicWritten(offset, value);
    else if (id === PCI_CAP_ID_PM && offset === PCI_PM_CTRL) this.#setPowerState(at, value);
    else if (id === PCI_CAP_ID_EXP) this.#expressWritten(at - offset, readRequest);
    else if (id === PCI_CAP_ID_MSI) this.#msiWritten(access);
  }

  // vfio_default_config_write()
  #writeDefault(permissions: Permissions, { at, size, offset }: Access, value: number): void {
    const write = bits(permissions.write, offset, size);
    if (write === 0) return;
    const virt = bits(permissions.virt, offset, size);
    const mine = write & virt;
    if (mine !== 0) this.#setOwn(at, size, (this.#own(at, size) & ~mine) | (value & mine));
    const theirs = write & ~virt;
    if (theirs === 0) return;
    const hardware = this.#pci.readConfig(at, size);
    this.#pci.writeConfig(at, size, ((hardware & ~theirs) | (value & theirs)) >>> 0);
  }

  // vfio_basic_config_write()
  #basicWritten(offset: number, value: number): void {
    if (offset === PCI_COMMAND) {
      const decoded = PCI_COMMAND_MEMORY | PCI_COMMAND_IO;
      this.#setOwn(PCI_COMMAND, 2, (this.#own(PCI_COMMAND, 2) & ~decoded) | (value & decoded));
      this.#effects.memoryChanged();
    }
    if (offset >= PCI_COMMAND && offset <= PCI_COMMAND + 1) {
      const disabled = (this.#own(PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE) !== 0;
      if (disabled !== this.#intxDisabled) {
        this.#intxDisabled = disabled;
        this.#effects.intxDisabled(disabled);
      }
    }
    if (isBar(offset)) this.#barsDirty = true;
  }

  // vfio_pm_config_write(): the state is set by pci_set_power_state(), and not by the write.
  #setPowerState(at: number, value: number): void {
    const control = this.#pci.readConfig(at, 2);
    const state = value & PCI_PM_CTRL_STATE_MASK;
    this.#pci.writeConfig(at, 2, (control & ~PCI_PM_CTRL_STATE_MASK) | state);
    this.#effects.memoryChanged();
  }

  #readRequest(start: number): number {
    return (this.#own(start + PCI_EXP_DEVCTL, 2) & PCI_EXP_DEVCTL_READRQ) >>> READ_REQUEST_SHIFT;
  }

  // vfio_exp_config_write(): the reset bit always reads as zero, and the size of read requests is the function's too.
  #expressWritten(start: number, readRequest: number): void {
    const at = start + PCI_EXP_DEVCTL;
    const control = this.#own(at, 2);
    if ((control & PCI_EXP_DEVCTL_BCR_FLR) !== 0) {
      this.#setOwn(at, 2, control & ~PCI_EXP_DEVCTL_BCR_FLR);
      this.#effects.reset();
    }
    const asked = this.#readRequest(start);
    if (asked === readRequest || asked > READ_REQUEST_MAX) return;
    // pcie_set_readrq(), and no smaller than the largest payload.
    const hardware = this.#pci.readConfig(at, 2);
    const payload = (hardware & PCI_EXP_DEVCTL_PAYLOAD) >>> PAYLOAD_SHIFT;
    const size = Math.max(asked, payload) << READ_REQUEST_SHIFT;
    this.#pci.writeConfig(at, 2, (hardware & ~PCI_EXP_DEVCTL_READRQ) | size);
  }

  // vfio_msi_config_write()
  #msiWritten({ at, offset, size }: Access): void {
    if (offset > PCI_MSI_FLAGS || offset + size < PCI_MSI_FLAGS) return;
    const place = at - offset + PCI_MSI_FLAGS;
    let flags = this.#own(place, 2);
    if (!this.#effects.msiInUse) flags &= ~PCI_MSI_FLAGS_ENABLE;
    if ((flags & PCI_MSI_FLAGS_QSIZE) >> 4 > this.#effects.msiQueueMax)
      flags = (flags & ~PCI_MSI_FLAGS_QSIZE) | (this.#effects.msiQueueMax << 4);
    this.#setOwn(place, 2, flags);
    this.#pci.writeConfig(place, 2, flags);
  }

  // vfio_bar_fixup(): sizing, as hardware answers it.
  #fixBars(): void {
    if (!this.#barsDirty) return;
    this.#barsDirty = false;
    for (let index = 0; index < PCI_BARS; index++) {
      const at = PCI_BASE_ADDRESS_0 + 4 * index;
      const bar = this.#pci.bars[index] ?? null;
      if (bar === null) {
        this.#setOwn(at, 4, 0);
        continue;
      }
      const mask = BigInt.asUintN(64, -BigInt(bar.size));
      const wide = bar.kind === 'memory64';
      const flags =
        bar.kind === 'io'
          ? PCI_BASE_ADDRESS_SPACE_IO
          : (bar.prefetchable === true ? PCI_BASE_ADDRESS_MEM_PREFETCH : 0) |
            (wide ? PCI_BASE_ADDRESS_MEM_TYPE_64 : 0);
      this.#setOwn(at, 4, (this.#own(at, 4) & lo32(mask)) | flags);
      if (!wide) continue;
      this.#setOwn(at + 4, 4, this.#own(at + 4, 4) & hi32(mask));
      index++;
    }
    // No function here has an expansion ROM.
    this.#setOwn(PCI_ROM_ADDRESS, 4, 0);
  }

  #own(at: number, size: ConfigAccessSize): number {
    return bits(this.#capabilities.vconfig, at, size);
  }

  #setOwn(at: number, size: ConfigAccessSize, value: number): void {
    if (size === 1) this.#view.setUint8(at, value);
    else if (size === 2) this.#view.setUint16(at, value, true);
    else this.#view.setUint32(at, value >>> 0, true);
  }
}

function bits(bytes: Uint8Array, at: number, size: ConfigAccessSize): number {
  let value = 0;
  for (let i = size - 1; i >= 0; i--) value = value * 256 + (bytes[at + i] ?? 0);
  return value;
}
