// NVM Express Base Specification, revision 1.4. Data only; names as in the specification and in Linux's
// include/linux/nvme.h.

export const NVME_VENDOR = 0x1209;
export const NVME_DEVICE = 0x7d3b;
export const NVME_CLASS_CODE = 0x010802;
/** VS: 1.4.0. */
export const NVME_VERSION = 0x0001_0400;

/** Controller registers, §3.1. */
export const REG = {
  CAP: 0x00,
  VS: 0x08,
  INTMS: 0x0c,
  INTMC: 0x10,
  CC: 0x14,
  CSTS: 0x1c,
  NSSR: 0x20,
  AQA: 0x24,
  ASQ: 0x28,
  ACQ: 0x30,
} as const;
export const REGISTER_BYTES = 0x38;
export const DOORBELLS = 0x1000;

export const CC_EN = 1 << 0;
export const CC_CSS_SHIFT = 4;
export const CC_MPS_SHIFT = 7;
export const CC_AMS_SHIFT = 11;
export const CC_SHN_SHIFT = 14;
export const CC_IOSQES_SHIFT = 16;
export const CC_IOCQES_SHIFT = 20;

export const CSTS_RDY = 1 << 0;
export const CSTS_CFS = 1 << 1;
export const CSTS_SHST_COMPLETE = 2 << 2;

export const SQE_BYTES = 64;
export const CQE_BYTES = 16;

/** Offsets in a submission queue entry, §4.2. */
export const SQE = {
  OPCODE: 0,
  FLAGS: 1,
  CID: 2,
  NSID: 4,
  PRP1: 24,
  PRP2: 32,
  CDW10: 40,
  CDW11: 44,
  CDW12: 48,
  CDW13: 52,
  CDW14: 56,
  CDW15: 60,
} as const;
export const PSDT_SHIFT = 6;
export const FUSE_MASK = 3;

export const ADMIN = {
  DELETE_SQ: 0x00,
  CREATE_SQ: 0x01,
  GET_LOG_PAGE: 0x02,
  DELETE_CQ: 0x04,
  CREATE_CQ: 0x05,
  IDENTIFY: 0x06,
  ABORT: 0x08,
  SET_FEATURES: 0x09,
  GET_FEATURES: 0x0a,
  ASYNC_EVENT: 0x0c,
} as const;

export const IO = {
  FLUSH: 0x00,
  WRITE: 0x01,
  READ: 0x02,
  COMPARE: 0x05,
  WRITE_ZEROES: 0x08,
  DSM: 0x09,
} as const;

/** Status codes with their type in bits 10:8, §4.6.1. */
export const SC = {
  SUCCESS: 0x000,
  INVALID_OPCODE: 0x001,
  INVALID_FIELD: 0x002,
  DATA_TRANSFER_ERROR: 0x004,
  ABORT_REQUESTED: 0x007,
  INVALID_NAMESPACE: 0x00b,
  SGL_INVALID_SEGMENT: 0x00d,
  SGL_INVALID_COUNT: 0x00e,
  SGL_INVALID_LENGTH: 0x00f,
  SGL_INVALID_TYPE: 0x011,
  PRP_INVALID_OFFSET: 0x013,
  LBA_RANGE: 0x080,
  CQ_INVALID: 0x100,
  QID_INVALID: 0x101,
  QUEUE_SIZE: 0x102,
  ASYNC_LIMIT: 0x105,
  INVALID_VECTOR: 0x108,
  INVALID_LOG_PAGE: 0x109,
  INVALID_QUEUE: 0x10c,
  FEATURE_NOT_SAVEABLE: 0x10d,
  FEATURE_NOT_CHANGEABLE: 0x10e,
  READ_ONLY: 0x182,
  WRITE_FAULT: 0x280,
  READ_ERROR: 0x281,
  COMPARE_FAILED: 0x285,
} as const;
/** Do Not Retry, in the place that SC has. */
export const SC_DNR = 1 << 14;

export const CNS = {
  NAMESPACE: 0x00,
  CONTROLLER: 0x01,
  ACTIVE_NAMESPACES: 0x02,
  NAMESPACE_DESCRIPTORS: 0x03,
  CSI_NAMESPACE: 0x05,
  CSI_CONTROLLER: 0x06,
} as const;
export const IDENTIFY_BYTES = 4096;

export const FEATURE = {
  ARBITRATION: 0x01,
  POWER: 0x02,
  TEMPERATURE: 0x04,
  ERROR_RECOVERY: 0x05,
  WRITE_CACHE: 0x06,
  QUEUES: 0x07,
  COALESCING: 0x08,
  VECTOR: 0x09,
  ATOMICITY: 0x0a,
  ASYNC_EVENTS: 0x0b,
} as const;

export const LOG = {
  ERROR: 0x01,
  SMART: 0x02,
  FIRMWARE: 0x03,
  CHANGED_NAMESPACES: 0x04,
  EFFECTS: 0x05,
} as const;

/** SGL descriptors, §4.4: type in bits 7:4 of byte 15. */
export const SGL_BYTES = 16;
export const SGL = { DATA_BLOCK: 0x0, SEGMENT: 0x2, LAST_SEGMENT: 0x3 } as const;

/** Asynchronous events of type error, Figure 147. */
export const EVENT_ERROR = 0x00;
export const EVENT_INVALID_DOORBELL = 0x00;
export const EVENT_INVALID_DOORBELL_VALUE = 0x01;
