import type { PciFunction } from '../../pci/function.ts';
import {
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_PM,
  PCI_CAP_ID_VNDR,
  PCI_CAP_LIST_NEXT,
  PCI_CAPABILITY_LIST,
  PCI_CFG_SPACE_BYTES,
  PCI_CFG_SPACE_EXP_BYTES,
  PCI_EXP_FLAGS,
  PCI_EXP_FLAGS_VERS,
  PCI_EXT_CAP_ID_ACS,
  PCI_EXT_CAP_ID_ARI,
  PCI_EXT_CAP_ID_ATS,
  PCI_EXT_CAP_ID_DSN,
  PCI_EXT_CAP_ID_DVSEC,
  PCI_EXT_CAP_ID_ERR,
  PCI_EXT_CAP_ID_LTR,
  PCI_EXT_CAP_ID_PRI,
  PCI_EXT_CAP_ID_SRIOV,
  PCI_EXT_CAP_ID_VNDR,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_64BIT,
  PCI_MSI_FLAGS_MASKBIT,
  PCI_PM_CAP_PME_MASK,
  PCI_PM_CTRL,
  PCI_PM_CTRL_PME_ENABLE,
  PCI_PM_CTRL_PME_STATUS,
  PCI_PM_PMC,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  PCI_STD_HEADER_SIZEOF,
} from '../../pci/spec.ts';

// drivers/vfio/pci/vfio_pci_config.c vfio_cap_init() and vfio_ecap_init(): which capability each byte of configuration
// space belongs to, and the list of them as programs see it.

/** In the map: the header, and a byte that belongs to no capability. */
export const CAP_BASIC = 0;
export const CAP_INVALID = 0xff;

const CAP_BYTES = 4;
const EXT_NEXT_SHIFT = 20;
/** vfio_cap_len() of a PCI Express endpoint, by version. */
const EXP_BYTES_V1 = 20;
const EXP_BYTES_V2 = 0x34;
const VNDR_LENGTH = 2;
const VNDR_HEADER = 4;

/** pci_cap_length[]. What is not here is hidden from programs. */
function capabilityBytes(pci: PciFunction, id: number, at: number): number {
  switch (id) {
    case PCI_CAP_ID_PM:
      return 8;
    case PCI_CAP_ID_MSIX:
      return 12;
    case PCI_CAP_ID_MSI:
      return msiBytes(pci.readConfig(at + PCI_MSI_FLAGS, 2));
    case PCI_CAP_ID_VNDR:
      return pci.readConfig(at + VNDR_LENGTH, 1);
    case PCI_CAP_ID_EXP:
      return (pci.readConfig(at + PCI_EXP_FLAGS, 2) & PCI_EXP_FLAGS_VERS) === 1 ? EXP_BYTES_V1 : EXP_BYTES_V2;
    default:
      return 0;
  }
}

/** vfio_msi_cap_len() */
export function msiBytes(flags: number): number {
  return (
    10 + ((flags & PCI_MSI_FLAGS_64BIT) === 0 ? 0 : 4) + ((flags & PCI_MSI_FLAGS_MASKBIT) === 0 ? 0 : 10)
  );
}

const EXTENDED_BYTES: Readonly<Record<number, number>> = {
  [PCI_EXT_CAP_ID_ERR]: 0x2c,
  [PCI_EXT_CAP_ID_DSN]: 12,
  // Without egress control; no function here has that.
  [PCI_EXT_CAP_ID_ACS]: 8,
  [PCI_EXT_CAP_ID_ARI]: 8,
  [PCI_EXT_CAP_ID_ATS]: 8,
  [PCI_EXT_CAP_ID_SRIOV]: 0x40,
  [PCI_EXT_CAP_ID_PRI]: 16,
  [PCI_EXT_CAP_ID_LTR]: 8,
};

/** pci_ext_cap_length[]: PASID is among those that are hidden. */
function extendedBytes(pci: PciFunction, id: number, at: number): number {
  if (id === PCI_EXT_CAP_ID_VNDR || id === PCI_EXT_CAP_ID_DVSEC)
    return pci.readConfig(at + VNDR_HEADER, 4) >>> 20;
  return EXTENDED_BYTES[id] ?? 0;
}

/** pci_config_map and vconfig. */
export class CapabilityMap {
  /** The capability that each byte belongs to. */
  readonly map = new Uint8Array(PCI_CFG_SPACE_EXP_BYTES).fill(CAP_INVALID);
  /** What VFIO keeps itself; at first what the function has. */
  readonly vconfig = new Uint8Array(PCI_CFG_SPACE_EXP_BYTES);
  readonly #pci: PciFunction;
  readonly #view = new DataView(this.vconfig.buffer);

  constructor(pci: PciFunction) {
    this.#pci = pci;
    this.#take(0, PCI_STD_HEADER_SIZEOF, CAP_BASIC);
    this.#standard();
    if (pci.readConfig(PCI_CFG_SPACE_BYTES, 4) !== 0) this.#extended();
  }

  /** vfio_find_cap_start(): where the capability begins that `at` belongs to. */
  start(at: number): number {
    const id = this.map[at]!;
    if (id === CAP_BASIC) return 0;
    if (id === CAP_INVALID) return at;
    const base = at >= PCI_CFG_SPACE_BYTES ? PCI_CFG_SPACE_BYTES : PCI_STD_HEADER_SIZEOF;
    let start = at;
    while (start - 1 >= base && this.map[start - 1] === id) start--;
    return start;
  }

  /** vfio_pci_cap_remaining_dword(): bytes from `at` on that one access may have. */
  remaining(at: number): number {
    const id = this.map[at];
    let bytes = 1;
    while ((at + bytes) % 4 !== 0 && this.map[at + bytes] === id) bytes++;
    return bytes;
  }

  #take(at: number, bytes: number, id: number): void {
    this.map.fill(id, at, at + bytes);
    for (let i = at; i < at + bytes; i++) this.vconfig[i] = this.#pci.config.read(i, 1);
  }

  #standard(): void {
    const pci = this.#pci;
    let previous = PCI_CAPABILITY_LIST;
    let at = pci.readConfig(PCI_CAPABILITY_LIST, 1);
    let found = 0;
    for (let left = (PCI_CFG_SPACE_BYTES - PCI_STD_HEADER_SIZEOF) / CAP_BYTES; at !== 0 && left > 0; left--) {
      const id = pci.readConfig(at, 1);
      const next = pci.readConfig(at + PCI_CAP_LIST_NEXT, 1);
      const bytes = capabilityBytes(pci, id, at);
      if (bytes === 0) {
        this.vconfig[previous] = next;
      } else {
        this.#take(at, bytes, id);
        if (id === PCI_CAP_ID_PM) this.#withoutPme(at);
        previous = at + PCI_CAP_LIST_NEXT;
        found++;
      }
      at = next;
    }
    if (found === 0) this.vconfig[PCI_STATUS]! &= ~PCI_STATUS_CAP_LIST;
  }

  // vfio_update_pm_vconfig_bytes()
  #withoutPme(at: number): void {
    const view = this.#view;
    view.setUint16(at + PCI_PM_PMC, view.getUint16(at + PCI_PM_PMC, true) & ~PCI_PM_CAP_PME_MASK, true);
    const control = view.getUint16(at + PCI_PM_CTRL, true);
    view.setUint16(at + PCI_PM_CTRL, control & ~(PCI_PM_CTRL_PME_ENABLE | PCI_PM_CTRL_PME_STATUS), true);
  }

  #extended(): void {
    const pci = this.#pci;
    let previous = 0;
    let found = 0;
    let at = PCI_CFG_SPACE_BYTES;
    const most = (PCI_CFG_SPACE_EXP_BYTES - PCI_CFG_SPACE_BYTES) / CAP_BYTES;
    for (let left = most; left > 0 && at >= PCI_CFG_SPACE_BYTES; left--) {
      const header = pci.readConfig(at, 4);
      const next = (header >>> EXT_NEXT_SHIFT) & 0xffc;
      const id = header & 0xffff;
      const bytes = extendedBytes(pci, id, at);
      if (bytes > 0 || previous === 0) {
        this.#take(at, bytes || CAP_BYTES, id & 0xff);
        // The first cannot be left out: it stays as an empty place that leads on.
        if (bytes === 0) this.#setHeader(at, header & (0xffc << EXT_NEXT_SHIFT));
        else found++;
        previous = at;
      } else {
        const before = this.#view.getUint32(previous, true);
        this.#setHeader(previous, (before & ~(0xffc << EXT_NEXT_SHIFT)) | (next << EXT_NEXT_SHIFT));
      }
      at = next;
    }
    if (found === 0) this.#setHeader(PCI_CFG_SPACE_BYTES, 0);
  }

  #setHeader(at: number, value: number): void {
    this.#view.setUint32(at, value >>> 0, true);
  }
}
