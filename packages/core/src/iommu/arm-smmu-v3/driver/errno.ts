/** A register or a CMD_SYNC did not answer in time; no other part of the kernel side has a use for it. */
export const ETIMEDOUT = 110;
