import type { ConfigSpace } from './config-space.ts';
import {
  PCI_ATS_CAP,
  PCI_ATS_CAP_PAGE_ALIGNED,
  PCI_ATS_CTRL,
  PCI_ATS_CTRL_ENABLE,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_PM,
  PCI_EXP_DEVCAP,
  PCI_EXP_DEVCAP2,
  PCI_EXP_DEVCAP_FLR,
  PCI_EXP_DEVCAP_RBER,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL2,
  PCI_EXP_DEVCTL_BCR_FLR,
  PCI_EXP_DEVSTA,
  PCI_EXP_FLAGS,
  PCI_EXP_LNKCAP,
  PCI_EXP_LNKCTL,
  PCI_EXP_LNKSTA,
  PCI_EXT_CAP_ID_ACS,
  PCI_EXT_CAP_ID_ATS,
  PCI_EXT_CAP_ID_PASID,
  PCI_PASID_CAP,
  PCI_PASID_CAP_EXEC,
  PCI_PASID_CAP_PRIV,
  PCI_PASID_CTRL,
  PCI_PASID_CTRL_ENABLE,
  PCI_PASID_CTRL_EXEC,
  PCI_PASID_CTRL_PRIV,
  PCI_PM_CTRL,
  PCI_PM_CTRL_NO_SOFT_RESET,
  PCI_PM_CTRL_STATE_MASK,
  PCI_PM_PMC,
} from './spec.ts';

// The capabilities that functions have here. Each answers where it is, and what of it is in effect is read from there.

/** §7.5.2: D0 and D3hot, no PME. */
export function addPowerManagement(config: ConfigSpace): number {
  const at = config.addCapability(PCI_CAP_ID_PM, 8);
  config.define({ offset: at + PCI_PM_PMC, size: 2, value: 3 });
  config.define({
    offset: at + PCI_PM_CTRL,
    size: 2,
    value: PCI_PM_CTRL_NO_SOFT_RESET,
    writable: PCI_PM_CTRL_STATE_MASK,
    onWrite: (value, before) => {
      // D1 and D2 are not there: a write of them is ignored (§7.5.2.2).
      const state = value & PCI_PM_CTRL_STATE_MASK;
      if (state === 1 || state === 2) config.set(at + PCI_PM_CTRL, 2, before);
    },
  });
  return at;
}

/** §7.5.3: an endpoint, version 2, that knows Function Level Reset. A link of 8 GT/s, one lane. */
export function addExpress(config: ConfigSpace, reset: () => void): number {
  const at = config.addCapability(PCI_CAP_ID_EXP, 60);
  config.define({ offset: at + PCI_EXP_FLAGS, size: 2, value: 0x0002 });
  const capabilities = PCI_EXP_DEVCAP_FLR | PCI_EXP_DEVCAP_RBER | 0x1;
  config.define({ offset: at + PCI_EXP_DEVCAP, size: 4, value: capabilities });
  config.define({
    offset: at + PCI_EXP_DEVCTL,
    size: 2,
    // Relaxed Ordering, No Snoop, Max_Read_Request_Size 512.
    value: 0x2810,
    writable: 0x7bff,
    onWrite: (_value, _before, written) => {
      if ((written & PCI_EXP_DEVCTL_BCR_FLR) !== 0) reset();
    },
  });
  // Correctable, non-fatal, fatal error and unsupported request detected.
  config.define({ offset: at + PCI_EXP_DEVSTA, size: 2, clearable: 0xf, sticky: true });
  config.define({ offset: at + PCI_EXP_LNKCAP, size: 4, value: 0x0013 });
  config.define({ offset: at + PCI_EXP_LNKCTL, size: 2, writable: 0x01fb, sticky: true });
  config.define({ offset: at + PCI_EXP_LNKSTA, size: 2, value: 0x1013 });
  // Completion timeouts can be disabled; end-end TLP prefixes, one of them, as PASIDs need.
  config.define({ offset: at + PCI_EXP_DEVCAP2, size: 4, value: 0x0060_0010 });
  config.define({ offset: at + PCI_EXP_DEVCTL2, size: 2, writable: 0x841f });
  return at;
}

/** §10.5.1. `queue`: invalidate requests it takes at once, 1 to 32. */
export function addAts(config: ConfigSpace, queue: number, changed: (enabled: boolean) => void): number {
  const at = config.addExtendedCapability(PCI_EXT_CAP_ID_ATS, 1, 8);
  const value = (queue & 0x1f) | PCI_ATS_CAP_PAGE_ALIGNED;
  config.define({ offset: at + PCI_ATS_CAP, size: 2, value });
  config.define({
    offset: at + PCI_ATS_CTRL,
    size: 2,
    writable: PCI_ATS_CTRL_ENABLE | 0x1f,
    onWrite: (control, before) => {
      const on = (control & PCI_ATS_CTRL_ENABLE) !== 0;
      // The Smallest Translation Unit changes only while ATS is off.
      const wasOn = (before & PCI_ATS_CTRL_ENABLE) !== 0;
      if (wasOn && on) config.set(at + PCI_ATS_CTRL, 2, before);
      if (wasOn !== on) changed(on);
    },
  });
  return at;
}

export interface PasidDescription {
  /** Bits of a PASID, 1 to 20. */
  readonly width: number;
  readonly execute?: boolean;
  readonly privileged?: boolean;
}

/** §7.8.9. */
export function addPasid(config: ConfigSpace, { width, execute, privileged }: PasidDescription): number {
  const at = config.addExtendedCapability(PCI_EXT_CAP_ID_PASID, 1, 8);
  const exec = execute === true ? PCI_PASID_CAP_EXEC : 0;
  const priv = privileged === true ? PCI_PASID_CAP_PRIV : 0;
  config.define({ offset: at + PCI_PASID_CAP, size: 2, value: (width << 8) | exec | priv });
  const writable =
    PCI_PASID_CTRL_ENABLE | (exec === 0 ? 0 : PCI_PASID_CTRL_EXEC) | (priv === 0 ? 0 : PCI_PASID_CTRL_PRIV);
  config.define({ offset: at + PCI_PASID_CTRL, size: 2, writable });
  return at;
}

/** §7.7.11: an endpoint that sends nothing to its peers has the capability, and nothing in it to control. */
export function addAcs(config: ConfigSpace): number {
  const at = config.addExtendedCapability(PCI_EXT_CAP_ID_ACS, 1, 8);
  config.define({ offset: at + 4, size: 2 });
  config.define({ offset: at + 6, size: 2 });
  return at;
}
