// What the kernel side tells of its devices to whoever shows them: the host, which makes a sysfs of it.

/** One line of the `resource` attribute: what a BAR was given. Zeros where there is none. */
export interface PciResource {
  readonly start: bigint;
  /** Inclusive. */
  readonly last: bigint;
  /** include/linux/ioport.h IORESOURCE_*. */
  readonly flags: number;
}

/** A range of IOVAs that a group's devices cannot use. */
export interface ReservedRange {
  readonly start: bigint;
  /** Inclusive. */
  readonly last: bigint;
  readonly type: 'direct' | 'direct-relaxable' | 'reserved' | 'msi';
}

/** A PCI function that VFIO offers. */
export interface PciFunctionView {
  /** Its address: `0000:0a:00.0`. */
  readonly name: string;
  /** The number in /dev/vfio/devices/vfioN. */
  readonly vfio: number;
  /** Its IOMMU group. */
  readonly group: number;
  /** The name of its IOMMU. */
  readonly iommu: string;
  /** Configuration space as the hardware has it: 256 or 4096 bytes. */
  config(): Uint8Array;
  /** BAR 0 to 5, then the expansion ROM. */
  resources(): readonly PciResource[];
  /** What the group's devices cannot use, ascending. */
  reserved(): readonly ReservedRange[];
  /** Takes it out of the machine. Who has it is asked to give it back, each time this is called. */
  remove(): void;
}
