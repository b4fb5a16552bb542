// What the kernel side gives up on, so that no program can make it grow or work without end.

/** The largest kmalloc() of x86-64 and arm64 with 4 KiB pages, in bytes: beyond it an allocation fails (ENOMEM). */
export const KMALLOC_BYTES_MAX = 4 << 20;
