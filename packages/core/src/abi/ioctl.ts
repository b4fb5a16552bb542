// asm-generic/ioctl.h: how an ioctl number is put together. iommufd and VFIO use _IO() alone: no direction, no size.

const NR_BITS = 8;
const TYPE_BITS = 8;

/** The type byte of iommufd and VFIO, ';' (Documentation/userspace-api/ioctl/ioctl-number.rst). */
export const IOMMUFD_TYPE = 0x3b;

/** _IO(type, nr). */
export function IO(type: number, nr: number): number {
  return (type << NR_BITS) | nr;
}

/** _IOC_NR(cmd). */
export function IOC_NR(cmd: number): number {
  return cmd & ((1 << NR_BITS) - 1);
}

/** _IOC_TYPE(cmd). */
export function IOC_TYPE(cmd: number): number {
  return (cmd >>> NR_BITS) & ((1 << TYPE_BITS) - 1);
}
