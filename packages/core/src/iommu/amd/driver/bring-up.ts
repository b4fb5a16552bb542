import { encode, type Field } from '../../../base/bit-fields.ts';
import { failed, type Result } from '../../../base/result.ts';
import { big, u64 } from '../../../base/u64.ts';
import { CONTROL, DEV_TAB_BASE, OFFSET, RING_BASE } from '../spec/registers.ts';
import type { Ivhd } from './ivhd.ts';
import { RING_LOG2 } from './limits.ts';

// From reset to translating: drivers/iommu/amd/init.c. As of a kernel without CONFIG_IRQ_REMAP: interrupts of devices
// pass as they are (DTE.IV is 0).

/** CTRL_INV_TO_1S */
const INV_TIMEOUT_1S = 4;
/** CONTROL_NUM_INT_REMAP_MODE_2K */
const INTERRUPTS_2K = 1;

/** iommu_feature_set() */
function setControl(ivhd: Ivhd, field: Field, value: number | boolean): void {
  const { mmio } = ivhd;
  const shift = big(field.lsb);
  const mask = ((1n << big(field.width)) - 1n) << shift;
  const control = mmio.read64(OFFSET.CONTROL) & ~mask;
  mmio.write64(OFFSET.CONTROL, control | ((BigInt(value) << shift) & mask));
}

function ringBase(base: number): bigint {
  const words = encode(RING_BASE, { Base: base / 4096, Len: RING_LOG2 });
  return u64(words[1]!, words[0]!);
}

/** iommu_disable() */
export function disableIommu(ivhd: Ivhd): void {
  const { CmdBufEn, EventIntEn, EventLogEn, GALogEn, GAIntEn, PPRLogEn, PprIntEn, IommuEn } = CONTROL;
  const off = [CmdBufEn, EventIntEn, EventLogEn, GALogEn, GAIntEn, PPRLogEn, PprIntEn, IommuEn];
  for (const field of [...off, CONTROL.IRTCacheDis]) setControl(ivhd, field, false);
}

/** state_next() from IOMMU_IVRS_DETECTED on, as far as it concerns this IOMMU. */
export function enableIommu(ivhd: Ivhd): Result<void> {
  disableIommu(ivhd);
  const early = earlyEnable(ivhd);
  if (failed(early)) return early;
  enableEventLog(ivhd);
  // iommu_init_pci() once more, now that MMIO has confirmed the features.
  enableGuestTranslation(ivhd);
  ivhd.driver.initIdentityDomain();
  ivhd.segment.blockAll();
  const flushed = ivhd.flushAllCaches();
  if (failed(flushed)) return flushed;
  setControl(ivhd, CONTROL.EventIntEn, true);
  if (ivhd.driver.features.gtPpr) enablePprLog(ivhd);
  if (ivhd.viommu !== null) enableViommu(ivhd);
}

// early_enable_iommu()
function earlyEnable(ivhd: Ivhd): Result<void> {
  disableIommu(ivhd);
  initFlags(ivhd);
  setDeviceTable(ivhd);
  enableCommandBuffer(ivhd);
  enableGuestTranslation(ivhd);
  if (ivhd.driver.features.interrupts2K) setControl(ivhd, CONTROL.NumIntRemapMode, INTERRUPTS_2K);
  setControl(ivhd, CONTROL.IommuEn, true);
  return ivhd.flushAllCaches();
}

// iommu_init_flags()
function initFlags(ivhd: Ivhd): void {
  const flags = ivhd.options.acpiFlags ?? {};
  setControl(ivhd, CONTROL.HtTunEn, flags.htTunnel ?? false);
  setControl(ivhd, CONTROL.PassPW, flags.passPW ?? false);
  setControl(ivhd, CONTROL.ResPassPW, flags.resPassPW ?? false);
  setControl(ivhd, CONTROL.Isoc, flags.isoc ?? false);
  setControl(ivhd, CONTROL.Coherent, true);
  setControl(ivhd, CONTROL.InvTimeOut, INV_TIMEOUT_1S);
  if (ivhd.driver.features.eph) setControl(ivhd, CONTROL.EPHEn, true);
}

// iommu_set_device_table()
function setDeviceTable(ivhd: Ivhd): void {
  const { table, tableBytes } = ivhd.segment;
  const words = encode(DEV_TAB_BASE, { Size: tableBytes / 4096 - 1, DevTabBase: table / 4096 });
  ivhd.mmio.write64(OFFSET.DEV_TAB_BASE, u64(words[1]!, words[0]!));
}

// iommu_enable_command_buffer()
function enableCommandBuffer(ivhd: Ivhd): void {
  ivhd.mmio.write64(OFFSET.CMD_BUF_BASE, ringBase(ivhd.commands.base));
  setControl(ivhd, CONTROL.CmdBufEn, false);
  ivhd.commands.rewind();
  setControl(ivhd, CONTROL.CmdBufEn, true);
}

// iommu_enable_gt()
function enableGuestTranslation(ivhd: Ivhd): void {
  const { gt, gcr3TrpMode } = ivhd.driver.features;
  if (!gt) return;
  setControl(ivhd, CONTROL.GTEn, true);
  if (gcr3TrpMode) setControl(ivhd, CONTROL.GCR3TRPMode, true);
}

// iommu_enable_event_buffer()
function enableEventLog(ivhd: Ivhd): void {
  ivhd.mmio.write64(OFFSET.EVT_LOG_BASE, ringBase(ivhd.eventLog.base));
  ivhd.eventLog.rewind();
  setControl(ivhd, CONTROL.EventLogEn, true);
}

// amd_iommu_enable_ppr_log()
function enablePprLog(ivhd: Ivhd): void {
  const log = ivhd.pprLog!;
  setControl(ivhd, CONTROL.PPREn, true);
  ivhd.mmio.write64(OFFSET.PPR_LOG_BASE, ringBase(log.base));
  log.rewind();
  setControl(ivhd, CONTROL.PprIntEn, true);
  setControl(ivhd, CONTROL.PPRLogEn, true);
}

/** viommu_enable() of the tree that HwViommu follows. */
function enableViommu(ivhd: Ivhd): void {
  for (const field of [CONTROL.GstBufferTRPMode, CONTROL.vCmdEn, CONTROL.vIommuEn])
    setControl(ivhd, field, true);
}

/** amd_iommu_restart_log(): a log that overflowed begins again, unless it runs. */
export function restartLog(ivhd: Ivhd, which: 'Event' | 'PPR', run: number, overflow: number): void {
  if ((ivhd.mmio.read32(OFFSET.STATUS) & run) !== 0) return;
  ivhd.log(`IOMMU ${which} log restarting`);
  const [log, interrupt] =
    which === 'Event' ? [CONTROL.EventLogEn, CONTROL.EventIntEn] : [CONTROL.PPRLogEn, CONTROL.PprIntEn];
  setControl(ivhd, log, false);
  setControl(ivhd, interrupt, false);
  ivhd.mmio.write32(OFFSET.STATUS, overflow);
  setControl(ivhd, interrupt, true);
  setControl(ivhd, log, true);
}
