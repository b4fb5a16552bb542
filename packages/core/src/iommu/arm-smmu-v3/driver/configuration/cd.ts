import { CD } from '../../spec/cd.ts';
import { emptyEntry, genmask, getField, setField, type Entry } from './entry.ts';
import type { Tcr } from '../domains/page-table.ts';

// The CDs that the driver writes: arm-smmu-v3.c arm_smmu_make_s1_cd() and arm_smmu_get_cd_used().

/** CTXDESC_CD_1_TTB0_MASK */
const TTB0_MASK = genmask(51, 4);
/** T0SZ, TG0, IR0, OR0 and SH0: without meaning where EPD0 is set. */
const TCR0_MASK = genmask(13, 0);

/** The bits of `cd` that hardware looks at: all of a valid one, less what EPD0 disables. */
export function cdUsed(cd: Entry): Entry {
  const used = emptyEntry();
  if (getField(cd, CD.V) === 0n) {
    setField(used, CD.V, 1);
    return used;
  }
  used.fill(genmask(63, 0));
  if (getField(cd, CD.EPD0) !== 0n) {
    used[0]! &= ~TCR0_MASK;
    used[1]! &= ~TTB0_MASK;
  }
  return used;
}

export interface Stage1Cd {
  readonly asid: number;
  readonly tcr: Tcr;
  readonly ttbr: bigint;
  readonly mair: bigint;
  readonly stall: boolean;
  /** Hardware sets the Access flag and the dirty state. */
  readonly dirty: boolean;
}

/** A CD for a table of the kernel: TTB0 only. */
export function makeStage1Cd(options: Stage1Cd): Entry {
  const { tcr } = options;
  const cd = emptyEntry();
  setField(cd, CD.T0SZ, tcr.tsz);
  setField(cd, CD.TG0, tcr.tg);
  setField(cd, CD.IR0, tcr.irgn);
  setField(cd, CD.OR0, tcr.orgn);
  setField(cd, CD.SH0, tcr.sh);
  setField(cd, CD.EPD1, 1);
  setField(cd, CD.V, 1);
  setField(cd, CD.IPS, tcr.ips);
  setField(cd, CD.AA64, 1);
  setField(cd, CD.S, options.stall);
  setField(cd, CD.R, 1);
  setField(cd, CD.A, 1);
  setField(cd, CD.ASET, 1);
  setField(cd, CD.ASID, options.asid);
  setField(cd, CD.HA, options.dirty);
  setField(cd, CD.HD, options.dirty);
  cd[1] = options.ttbr & TTB0_MASK;
  cd[3] = options.mair;
  return cd;
}
