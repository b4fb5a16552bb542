import type { PciFunction } from './function.ts';
import type { Msix } from './msix.ts';
import {
  PCI_ATS_CTRL,
  PCI_ATS_CTRL_ENABLE,
  PCI_CFG_SPACE_EXP_BYTES,
  PCI_EXT_CAP_ID_ATS,
  PCI_EXT_CAP_ID_PASID,
  PCI_EXT_CAP_ID_PRI,
  PCI_PASID_CAP,
  PCI_PASID_CAP_EXEC,
  PCI_PASID_CAP_PRIV,
  PCI_PASID_CTRL,
  PCI_PASID_CTRL_ENABLE,
  PCI_PRI_ALLOC_REQ,
  PCI_PRI_CTRL,
  PCI_PRI_CTRL_ENABLE,
  PCI_PRI_CTRL_RESET,
  PCI_PRI_MAX_REQ,
} from './spec.ts';

// What Linux's PCI core does to functions on behalf of IOMMU drivers and VFIO: drivers/pci.

const STU_SHIFT = 12;

/** drivers/pci/ats.c pci_enable_ats(): `stu` is log2 of the bytes of the smallest translation unit. */
export function pciEnableAts(pci: PciFunction, stu: number): void {
  const at = pci.config.extendedCapability(PCI_EXT_CAP_ID_ATS);
  if (at !== 0) pci.writeConfig(at + PCI_ATS_CTRL, 2, PCI_ATS_CTRL_ENABLE | (stu - STU_SHIFT));
}

/** pci_disable_ats() */
export function pciDisableAts(pci: PciFunction): void {
  const at = pci.config.extendedCapability(PCI_EXT_CAP_ID_ATS);
  if (at === 0) return;
  const control = pci.readConfig(at + PCI_ATS_CTRL, 2);
  pci.writeConfig(at + PCI_ATS_CTRL, 2, control & ~PCI_ATS_CTRL_ENABLE);
}

/** pci_reset_pri() and pci_enable_pri(): at most so many page requests wait for an answer. */
export function pciEnablePri(pci: PciFunction, outstanding: number): void {
  const at = pci.config.extendedCapability(PCI_EXT_CAP_ID_PRI);
  if (at === 0) return;
  pci.writeConfig(at + PCI_PRI_CTRL, 2, PCI_PRI_CTRL_RESET);
  const capacity = pci.readConfig(at + PCI_PRI_MAX_REQ, 4);
  pci.writeConfig(at + PCI_PRI_ALLOC_REQ, 4, Math.min(capacity, outstanding));
  pci.writeConfig(at + PCI_PRI_CTRL, 2, PCI_PRI_CTRL_ENABLE);
}

/** pci_disable_pri() */
export function pciDisablePri(pci: PciFunction): void {
  const at = pci.config.extendedCapability(PCI_EXT_CAP_ID_PRI);
  if (at === 0) return;
  const control = pci.readConfig(at + PCI_PRI_CTRL, 2);
  pci.writeConfig(at + PCI_PRI_CTRL, 2, control & ~PCI_PRI_CTRL_ENABLE);
}

/** pci_pasid_features(), and pci_enable_pasid() with all of them. */
export function pciEnablePasid(pci: PciFunction): { pasidExec: boolean; pasidPriv: boolean } {
  const at = pci.config.extendedCapability(PCI_EXT_CAP_ID_PASID);
  if (at === 0) return { pasidExec: false, pasidPriv: false };
  const features = pci.readConfig(at + PCI_PASID_CAP, 2) & (PCI_PASID_CAP_EXEC | PCI_PASID_CAP_PRIV);
  pci.writeConfig(at + PCI_PASID_CTRL, 2, PCI_PASID_CTRL_ENABLE | features);
  return {
    pasidExec: (features & PCI_PASID_CAP_EXEC) !== 0,
    pasidPriv: (features & PCI_PASID_CAP_PRIV) !== 0,
  };
}

/** What a reset must not lose. */
export interface SavedState {
  readonly config: readonly number[];
  readonly msix: ReturnType<Msix['entries']>;
}

/** drivers/pci/pci.c pci_save_state(): the configuration and the MSI-X table. Traces do not show it: it is long. */
export function pciSaveState(pci: PciFunction): SavedState {
  const config: number[] = [];
  for (let at = 0; at < PCI_CFG_SPACE_EXP_BYTES; at += 4) config.push(pci.config.read(at, 4));
  return { config, msix: pci.msix?.entries() ?? [] };
}

/** pci_restore_state(): what differs is written. */
export function pciRestoreState(pci: PciFunction, { config, msix }: SavedState): void {
  for (const [vector, { message, masked }] of msix.entries()) {
    pci.msix!.program(vector, message);
    pci.msix!.mask(vector, masked);
  }
  for (const [index, value] of config.entries()) {
    const at = index * 4;
    if (pci.config.read(at, 4) !== value) pci.writeConfig(at, 4, value);
  }
}

/**
 * drivers/pci/pci.c pci_reset_function(): a Function Level Reset, with the configuration and the MSI-X table saved before
 * and restored after it. Translations that the function had are gone.
 */
export function pciResetFunction(pci: PciFunction): void {
  const saved = pciSaveState(pci);
  pci.reset();
  pciRestoreState(pci, saved);
}
