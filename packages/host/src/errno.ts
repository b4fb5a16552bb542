// Errnos of system calls that iommufd itself never answers (uapi/asm-generic/errno-base.h, errno.h).

export const ESRCH = 3;
export const ENFILE = 23;
export const ELOOP = 40;
export const ENODATA = 61;
