import {
  PCI_BASE_ADDRESS_0,
  PCI_BIST,
  PCI_CACHE_LINE_SIZE,
  PCI_CAPABILITY_LIST,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_PM,
  PCI_CAP_LIST_NEXT,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_DEVICE_ID,
  PCI_ERR_CAP,
  PCI_ERR_COR_MASK,
  PCI_ERR_COR_STATUS,
  PCI_ERR_UNCOR_MASK,
  PCI_ERR_UNCOR_SEVER,
  PCI_ERR_UNCOR_STATUS,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL2,
  PCI_EXP_DEVCTL2_ARI,
  PCI_EXP_DEVCTL_BCR_FLR,
  PCI_EXP_DEVCTL_PAYLOAD,
  PCI_EXP_DEVCTL_PHANTOM,
  PCI_EXP_DEVCTL_READRQ,
  PCI_EXT_CAP_ID_ERR,
  PCI_INTERRUPT_LINE,
  PCI_INTERRUPT_PIN,
  PCI_LATENCY_TIMER,
  PCI_MSI_ADDRESS_HI,
  PCI_MSI_ADDRESS_LO,
  PCI_MSI_DATA_32,
  PCI_MSI_DATA_64,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_64BIT,
  PCI_MSI_FLAGS_MASKBIT,
  PCI_MSI_MASK_32,
  PCI_MSI_MASK_64,
  PCI_MSI_PENDING_32,
  PCI_MSI_PENDING_64,
  PCI_PM_CTRL,
  PCI_PM_CTRL_PME_ENABLE,
  PCI_PM_CTRL_PME_STATUS,
  PCI_PM_CTRL_STATE_MASK,
  PCI_PM_CAP_PME_MASK,
  PCI_PM_PMC,
  PCI_ROM_ADDRESS,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  PCI_STD_HEADER_SIZEOF,
  PCI_VENDOR_ID,
} from '../../pci/spec.ts';

// drivers/vfio/pci/vfio_pci_config.c struct perm_bits: which bits of configuration space VFIO keeps itself, and which a
// program may write. Offsets count from the capability.

const ALL = 0xffff_ffff;
const NONE = 0;
const ALL16 = 0xffff;

/** A bit that is set in `virt` is VFIO's own; one that is set in `write` may be written. */
export class Permissions {
  readonly virt: Uint8Array;
  readonly write: Uint8Array;

  constructor(bytes: number) {
    const size = (bytes + 3) & ~3;
    this.virt = new Uint8Array(size);
    this.write = new Uint8Array(size);
  }

  set(offset: number, size: 1 | 2 | 4, virt: number, write: number): this {
    for (let i = 0; i < size; i++) {
      this.virt[offset + i] = Math.floor((virt >>> 0) / 2 ** (8 * i)) & 0xff;
      this.write[offset + i] = Math.floor((write >>> 0) / 2 ** (8 * i)) & 0xff;
    }
    return this;
  }
}

// init_pci_cap_basic_perm()
function basic(): Permissions {
  const perm = new Permissions(PCI_STD_HEADER_SIZEOF)
    .set(PCI_VENDOR_ID, 2, ALL16, NONE)
    .set(PCI_DEVICE_ID, 2, ALL16, NONE)
    .set(PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE, ALL16)
    .set(PCI_STATUS, 2, PCI_STATUS_CAP_LIST, NONE)
    .set(PCI_CACHE_LINE_SIZE, 1, NONE, 0xff)
    .set(PCI_LATENCY_TIMER, 1, NONE, 0xff)
    .set(PCI_BIST, 1, NONE, 0xff)
    .set(PCI_ROM_ADDRESS, 4, ALL, ALL)
    .set(PCI_CAPABILITY_LIST, 1, 0xff, NONE)
    .set(PCI_INTERRUPT_LINE, 1, 0xff, 0xff)
    .set(PCI_INTERRUPT_PIN, 1, 0xff, NONE);
  for (let bar = 0; bar < 6; bar++) perm.set(PCI_BASE_ADDRESS_0 + 4 * bar, 4, ALL, ALL);
  return perm;
}

// init_pci_cap_pm_perm()
function powerManagement(): Permissions {
  const pme = PCI_PM_CTRL_PME_ENABLE | PCI_PM_CTRL_PME_STATUS;
  return new Permissions(8)
    .set(PCI_CAP_LIST_NEXT, 1, 0xff, NONE)
    .set(PCI_PM_PMC, 2, PCI_PM_CAP_PME_MASK, NONE)
    .set(PCI_PM_CTRL, 4, pme, ~(pme | PCI_PM_CTRL_STATE_MASK));
}

// init_pci_cap_exp_perm()
function express(): Permissions {
  const own = PCI_EXP_DEVCTL_BCR_FLR | PCI_EXP_DEVCTL_PAYLOAD | PCI_EXP_DEVCTL_READRQ;
  return new Permissions(60)
    .set(PCI_CAP_LIST_NEXT, 1, 0xff, NONE)
    .set(PCI_EXP_DEVCTL, 2, own, ~PCI_EXP_DEVCTL_PHANTOM)
    .set(PCI_EXP_DEVCTL2, 2, NONE, ~PCI_EXP_DEVCTL2_ARI);
}

// init_pci_ext_cap_err_perm(): the masks name every error that there was a bit for.
function advancedErrors(): Permissions {
  const uncorrectable = 0x03ff_f031;
  const correctable = 0x0000_f1c1;
  const perm = new Permissions(0x2c).set(0, 4, ALL, NONE);
  for (const offset of [PCI_ERR_UNCOR_STATUS, PCI_ERR_UNCOR_MASK, PCI_ERR_UNCOR_SEVER])
    perm.set(offset, 4, NONE, uncorrectable);
  for (const offset of [PCI_ERR_COR_STATUS, PCI_ERR_COR_MASK]) perm.set(offset, 4, NONE, correctable);
  return perm.set(PCI_ERR_CAP, 4, NONE, 0x140);
}

/** init_pci_cap_msi_perm(): MSI's layout depends on its flags. */
export function msiPermissions(length: number, flags: number): Permissions {
  const perm = new Permissions(length)
    .set(PCI_CAP_LIST_NEXT, 1, 0xff, NONE)
    .set(PCI_MSI_FLAGS, 1, 0xff, 0xff)
    .set(PCI_MSI_ADDRESS_LO, 4, ALL, ALL);
  const wide = (flags & PCI_MSI_FLAGS_64BIT) !== 0;
  if (wide) perm.set(PCI_MSI_ADDRESS_HI, 4, ALL, ALL);
  perm.set(wide ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32, 2, ALL16, ALL16);
  if ((flags & PCI_MSI_FLAGS_MASKBIT) === 0) return perm;
  return perm
    .set(wide ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32, 4, NONE, ALL)
    .set(wide ? PCI_MSI_PENDING_64 : PCI_MSI_PENDING_32, 4, NONE, ALL);
}

export const BASIC_PERMISSIONS = basic();

/** By capability. Those that are not here can be read and not written, but for their places in the list. */
export const CAPABILITY_PERMISSIONS: Readonly<Record<number, Permissions>> = {
  [PCI_CAP_ID_PM]: powerManagement(),
  [PCI_CAP_ID_EXP]: express(),
};

export const EXTENDED_PERMISSIONS: Readonly<Record<number, Permissions>> = {
  [PCI_EXT_CAP_ID_ERR]: advancedErrors(),
};
