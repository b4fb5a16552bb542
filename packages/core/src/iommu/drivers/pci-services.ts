// What Linux's PCI core does to a function on behalf of an IOMMU's driver: drivers/pci/ats.c.

/** The function's translation cache. */
export interface PciAts {
  /** pci_enable_ats(): `stu` is log2 of the bytes of the smallest translation unit. */
  enable(stu: number): void;
  /** pci_disable_ats(): the function has forgotten its translations when it comes back. */
  disable(): void;
}

/** Page requests. */
export interface PciPri {
  /** pci_reset_pri() and pci_enable_pri(): at most so many may wait for an answer. */
  enable(outstanding: number): void;
  /** pci_disable_pri() */
  disable(): void;
}
