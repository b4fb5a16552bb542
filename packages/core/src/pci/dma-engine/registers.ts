// The registers of the DMA engine, in BAR 0. docs/dma-engine.md describes them.

export const DMA_ENGINE_VENDOR = 0x1209;
export const DMA_ENGINE_DEVICE = 0x7d3a;
export const DMA_ENGINE_VERSION = 1;
export const BAR_BYTES = 0x4000;
export const TABLE_OFFSET = 0x2000;
export const PBA_OFFSET = 0x3000;
export const VECTORS = 4;

/** Offsets of registers, 32 bits each; 64-bit ones are two, the lower half first. */
export const REGISTER = {
  ID: 0x00,
  COMMAND: 0x04,
  STATUS: 0x08,
  ERROR: 0x0c,
  SOURCE: 0x10,
  DESTINATION: 0x18,
  LENGTH: 0x20,
  FLAGS: 0x24,
  PASID: 0x28,
  PATTERN: 0x2c,
  DONE: 0x30,
  RESULT: 0x34,
  VECTOR: 0x38,
  SIGNAL: 0x3c,
  TRANSLATED: 0x40,
  PERMISSIONS: 0x48,
  RESPONSE: 0x4c,
} as const;
export const REGISTER_BYTES = 0x50;

export const COMMAND = {
  NONE: 0,
  COPY: 1,
  FILL: 2,
  CHECKSUM: 3,
  TRANSLATE: 4,
  REQUEST_PAGE: 5,
  ABORT: 6,
} as const;

export const STATUS = { IDLE: 0, DONE: 1, ERROR: 2, WAITING: 3, RUNNING: 4 } as const;

export const ERROR = {
  NONE: 0,
  COMMAND: 1,
  LENGTH: 2,
  READ: 3,
  WRITE: 4,
  TRANSLATION: 5,
  PAGE_REQUEST: 6,
  PAGE_RESPONSE: 7,
  ABORTED: 8,
} as const;

export const FLAG = {
  /** What SOURCE names is of PASID. */
  SOURCE_PASID: 1 << 0,
  DESTINATION_PASID: 1 << 1,
  /** Privileged Mode Requested, with a PASID. */
  PRIVILEGED: 1 << 2,
  /** Execute Requested, of reads with a PASID. */
  EXECUTE: 1 << 3,
  /** VECTOR is signalled when the command has ended. */
  INTERRUPT: 1 << 4,
  /** Requests are untranslated even where ATS is enabled. */
  UNTRANSLATED: 1 << 5,
  /** Where a translation is refused the page is asked for by PRI, and the command goes on when it is there. */
  PAGE_REQUESTS: 1 << 6,
  /** TRANSLATE and REQUEST_PAGE are for writing. */
  WRITE: 1 << 7,
  /** The store that starts the command returns at once, and the command goes on a part at a time. */
  BACKGROUND: 1 << 8,
} as const;

export const PERMISSION = { READ: 1, WRITE: 2, EXECUTE: 4, UNTRANSLATED_ONLY: 8 } as const;
/** log2 of the bytes of the translation is in bits 15:8 of PERMISSIONS. */
export const PERMISSION_SIZE_SHIFT = 8;

export const LENGTH_MAX = 16 << 20;
