// What this controller takes.

/** I/O queues, besides the admin queues. */
export const IO_QUEUES = 16;
export const QUEUE_ENTRIES_MAX = 1024;
/** log2 of the pages of the largest transfer. */
export const MDTS = 7;
/** CAP.MPSMAX: pages of 4 KiB to 64 KiB. */
export const MPS_MAX = 4;
export const ASYNC_EVENTS_MAX = 4;
/** Events that wait for a request to report them. */
export const PENDING_EVENTS_MAX = 16;
export const ERROR_ENTRIES = 64;
/** Commands that one poll executes and that one read fetches; completions that one write shows. */
export const COMMANDS_A_POLL = 64;
export const COMMANDS_A_FETCH = 32;
export const COMPLETIONS_A_WRITE = 16;
/** Segments of one SGL, and descriptors of one of its segments. */
export const SGL_SEGMENTS_MAX = 64;
export const SGL_DESCRIPTORS_MAX = 256;
