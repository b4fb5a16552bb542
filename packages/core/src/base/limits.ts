// What the kernel side gives up on, so that no program can make it grow or work without end.

/** The largest kmalloc() of x86-64 and arm64 with 4 KiB pages, in bytes: beyond it an allocation fails (ENOMEM). */
export const KMALLOC_BYTES_MAX = 4 << 20;

/**
 * Pages that may be pinned at a time, those twice that are pinned twice: 2 TiB. Linux ends where its memory does; ours is
 * not used up by a pin, and programs may map what they never touch.
 */
export const PINNED_PAGES_MAX = 2 ** 29;

/** Bytes of a program's memory that one IOMMU_TEST_OP_MD_CHECK_REFS looks at, page by page: some seconds. */
export const CHECKED_BYTES_MAX = 4n << 30n;
