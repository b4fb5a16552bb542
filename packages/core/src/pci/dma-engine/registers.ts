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
} as const;

export const COMMAND = { NONE: 0, COPY: 1, FILL: 2, CHECKSUM: 3 } as const;

export const STATUS = { IDLE: 0, DONE: 1, ERROR: 2 } as const;

export const ERROR = { NONE: 0, COMMAND: 1, LENGTH: 2, READ: 3, WRITE: 4 } as const;

export const FLAG = {
  /** Reads have PASID. */
  SOURCE_PASID: 1 << 0,
  /** Writes have PASID. */
  DESTINATION_PASID: 1 << 1,
  /** VECTOR is signalled when the command has ended. */
  INTERRUPT: 1 << 4,
} as const;

export const LENGTH_MAX = 16 << 20;
