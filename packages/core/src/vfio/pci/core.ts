import { fail, failed, type Result } from '../../base/result.ts';
import { big } from '../../base/u64.ts';
import { EFAULT, EINVAL, ENOTTY } from '../../abi/errno.ts';
import {
  VFIO_DEVICE_FEATURE,
  VFIO_DEVICE_GET_INFO,
  VFIO_DEVICE_GET_IRQ_INFO,
  VFIO_DEVICE_GET_REGION_INFO,
  VFIO_DEVICE_IOEVENTFD,
  VFIO_DEVICE_RESET,
  VFIO_DEVICE_SET_IRQS,
  VFIO_PCI_BAR5_REGION_INDEX,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_ERR_IRQ_INDEX,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_REQ_IRQ_INDEX,
} from '../../abi/vfio.ts';
import type { FileBacking } from '../../memory/file.ts';
import type { Eventfd, Task } from '../../memory/process.ts';
import { pciResetFunction, pciRestoreState, pciSaveState, type SavedState } from '../../pci/bus-driver.ts';
import type { FunctionUser, PciFunction } from '../../pci/function.ts';
import {
  PCI_CAP_ID_PM,
  PCI_CFG_SPACE_EXP_BYTES,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_IO,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_PM_CTRL,
  PCI_PM_CTRL_STATE_MASK,
} from '../../pci/spec.ts';
import { VfioBars } from './bars.ts';
import { VfioConfig, type ConfigEffects } from './config.ts';
import { readFeature, type FeatureAnswer } from '../feature.ts';
import { deviceFeature } from '../features.ts';
import { DmaLog } from '../migration/dma-log.ts';
import { VfioMigration, type MigrationSettings } from '../migration/migration.ts';
import { VfioDmaBufs } from './dma-bufs.ts';
import { pciFeature, type PowerControl } from './features.ts';
import { getInfo, getIrqInfo, getRegionInfo } from './info.ts';
import { VfioInterrupts, type PrepareMessages } from './interrupts.ts';
import { VfioIoeventfds } from './ioeventfd.ts';
import { regionAt, regionOffset } from './regions.ts';
import { setIrqs } from './set-irqs.ts';

// drivers/vfio/pci/vfio_pci_core.c: a PCI function while a program has it, from open_device() to close_device().

/** Bytes that read(2) and write(2) move at once between a program and a device. */
const CHUNK = 4096;

type Handler = (core: VfioPciCore, task: Task, arg: bigint) => Result<number | void>;

/** What a function's user is told. */
export interface CoreOptions {
  /** Which Linux it is. */
  readonly version: number;
  /** That it can be migrated; null where it cannot. */
  readonly migration: MigrationSettings | null;
  /** Null where messages are not translated. */
  readonly prepareMessages: PrepareMessages | null;
}

export class VfioPciCore implements FunctionUser, ConfigEffects, PowerControl {
  readonly #pci: PciFunction;
  readonly #saved: SavedState;
  readonly #config: VfioConfig;
  readonly #bars: VfioBars;
  readonly #interrupts: VfioInterrupts;
  readonly #ioeventfds: VfioIoeventfds;
  readonly #dmaBufs: VfioDmaBufs;
  readonly #version: number;
  readonly #migration: VfioMigration | null;
  readonly #dmaLog: DmaLog | null;
  #lowPower: { wakeup: Eventfd | null } | null = null;
  /** It is suspended: asleep until the next use. */
  #suspended = false;

  /** vfio_pci_core_enable(): the function starts anew, without bus mastering. */
  constructor(pci: PciFunction, { version, migration: settings, prepareMessages }: CoreOptions) {
    this.#pci = pci;
    this.#version = version;
    const { migration } = pci.model;
    this.#migration =
      settings === null || migration === undefined ? null : new VfioMigration(pci, migration, settings);
    this.#dmaLog = settings?.dmaLogging === true ? new DmaLog() : null;
    setCommand(pci, PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE, decodedSpaces(pci));
    pciResetFunction(pci);
    this.#saved = pciSaveState(pci);
    this.#interrupts = new VfioInterrupts(pci, prepareMessages);
    this.#config = new VfioConfig(pci, this);
    const memoryEnabled = (): boolean => this.#config.memoryEnabled;
    this.#bars = new VfioBars(pci, memoryEnabled, version);
    this.#dmaBufs = new VfioDmaBufs(pci, memoryEnabled);
    this.#ioeventfds = new VfioIoeventfds(pci, this.#bars, memoryEnabled);
    pci.user = this;
  }

  /** vfio_pci_core_close_device() */
  disable(): void {
    const pci = this.#pci;
    this.#dmaBufs.cleanup();
    this.exitLowPower();
    this.#setPower(0);
    setCommand(pci, PCI_COMMAND_MASTER, 0);
    this.#interrupts.disable();
    this.#ioeventfds.release();
    this.#bars.unmap();
    pci.user = null;
    this.#migration?.reset();
    pci.reset();
    pciRestoreState(pci, this.#saved);
  }

  // ---- what the function does ----

  message(vector: number): void {
    this.#interrupts.message(vector);
  }

  intx(asserted: boolean): void {
    this.#interrupts.intxLevel(asserted);
  }

  wrote(address: bigint, pasid: number | null, bytes: number): void {
    if (pasid === null) this.#dmaLog?.record(address, bytes);
    this.#migration?.touched();
  }

  error(): void {
    this.#interrupts.error?.signal();
  }

  removalRequested(): void {
    this.#interrupts.request?.signal();
  }

  // ---- what configuration space does ----

  get msiInUse(): boolean {
    return this.#interrupts.type === 'msi';
  }

  get msiQueueMax(): number {
    return this.#interrupts.msiQueueMax;
  }

  intxDisabled(disabled: boolean): void {
    this.#interrupts.setIntxDisabled(disabled);
  }

  memoryChanged(): void {
    if (this.#config.memoryEnabled) this.#dmaBufs.offer();
    else this.#dmaBufs.revoke();
    this.#showBars();
  }

  /** vfio_pci_vmf_insert_pfn(): whether mappings of BARs reach them. */
  #showBars(): void {
    this.#bars.setReachable(this.#lowPower === null && this.#config.memoryEnabled);
  }

  /** vfio_pci_ioctl_reset(), and the reset bit of the PCI Express capability. */
  reset(): void {
    this.#setPower(0);
    this.#dmaBufs.revoke();
    pciResetFunction(this.#pci);
    this.#migration?.reset();
    this.#dmaBufs.offer();
    this.#showBars();
  }

  /** vfio_pci_dev_set_hot_reset(): the device is woken for it. */
  resetByBus(): void {
    this.resume();
    this.reset();
    this.idle();
  }

  #setPower(state: number): void {
    const at = this.#pci.config.capability(PCI_CAP_ID_PM) + PCI_PM_CTRL;
    const control = this.#pci.readConfig(at, 2);
    if ((control & PCI_PM_CTRL_STATE_MASK) !== state)
      this.#pci.writeConfig(at, 2, (control & ~PCI_PM_CTRL_STATE_MASK) | state);
  }

  // ---- power ----

  enterLowPower(wakeup: Eventfd | null): Result<void> {
    this.#dmaBufs.revoke();
    if (this.#lowPower !== null) return fail(EINVAL, 'the device sleeps already');
    this.#lowPower = { wakeup };
    this.#showBars();
  }

  exitLowPower(): void {
    this.#endLowPower();
    this.#dmaBufs.offer();
    this.#showBars();
  }

  // __vfio_pci_runtime_pm_exit()
  #endLowPower(): void {
    this.#lowPower?.wakeup?.release();
    this.#lowPower = null;
  }

  /** vfio_pci_core_runtime_resume(): every use wakes the device; with a wake-up eventfd it stays awake. */
  resume(): void {
    if (!this.#suspended) return;
    this.#suspended = false;
    this.#setPower(0);
    const wakeup = this.#lowPower?.wakeup ?? null;
    if (wakeup !== null) {
      wakeup.signal();
      this.#endLowPower();
      this.#showBars();
    }
    this.#interrupts.resume();
  }

  /** vfio_pci_core_runtime_suspend(): the use has ended, and the device sleeps where the program wants it to. */
  idle(): void {
    this.#migration?.touched();
    if (this.#lowPower === null || this.#suspended) return;
    this.#suspended = true;
    this.#interrupts.suspend();
    this.#setPower(PCI_PM_CTRL_STATE_MASK);
  }

  // ---- requests ----

  /** vfio_pci_core_ioctl() and what of vfio_device_fops_unl_ioctl() asks about the function. */
  ioctl(task: Task, cmd: number, arg: bigint): Result<number | void> {
    const handler = HANDLERS[cmd];
    return handler === undefined
      ? fail(ENOTTY, `there is no request 0x${cmd.toString(16)}`)
      : handler(this, task, arg);
  }

  getRegionInfo({ process }: Task, arg: bigint): Result<void> {
    return getRegionInfo(this.#bars, process.memory, arg);
  }

  getIrqInfo({ process }: Task, arg: bigint): Result<void> {
    return getIrqInfo((index) => this.#interruptCount(index), process.memory, arg);
  }

  setIrqs(task: Task, arg: bigint): Result<void> {
    return setIrqs(this.#interrupts, (index) => this.#interruptCount(index), task, arg);
  }

  feature(task: Task, arg: bigint): FeatureAnswer {
    const request = readFeature(task, arg);
    if (failed(request)) return request;
    const device = { version: this.#version, migration: this.#migration, dmaLog: this.#dmaLog };
    const pci = { version: this.#version, power: this, dmaBufs: this.#dmaBufs };
    return deviceFeature(device, request, (other) => pciFeature(pci, other));
  }

  setIoeventfd(task: Task, arg: bigint): Result<void> {
    return this.#ioeventfds.set(task, arg);
  }

  // vfio_pci_get_irq_count()
  #interruptCount(index: number): number {
    switch (index) {
      case VFIO_PCI_INTX_IRQ_INDEX:
        return this.#config.interruptPin === 0 ? 0 : 1;
      case VFIO_PCI_MSI_IRQ_INDEX:
        return this.#pci.msi?.vectors ?? 0;
      case VFIO_PCI_MSIX_IRQ_INDEX:
        return this.#pci.msix?.vectors ?? 0;
      case VFIO_PCI_ERR_IRQ_INDEX:
      case VFIO_PCI_REQ_IRQ_INDEX:
        return 1;
      default:
        return 0;
    }
  }

  // ---- regions ----

  /** vfio_pci_rw() for read(2): the bytes that were read. */
  read({ process }: Task, va: bigint, count: number, offset: bigint): Result<number> {
    return this.#each(offset, count, (index, at, bytes, done) => {
      const into = new Uint8Array(bytes);
      const got =
        index === VFIO_PCI_CONFIG_REGION_INDEX
          ? this.#readConfig(at, into)
          : this.#bars.read(index, at, into);
      if (failed(got)) return got;
      const copied = process.memory.write(va + BigInt(done), into.subarray(0, got));
      return copied ? got : fail(EFAULT, 'the buffer cannot be written');
    });
  }

  /** The same for write(2). */
  write({ process }: Task, va: bigint, count: number, offset: bigint): Result<number> {
    return this.#each(offset, count, (index, at, bytes, done) => {
      const from = new Uint8Array(bytes);
      if (!process.memory.read(va + BigInt(done), from)) return fail(EFAULT, 'the buffer cannot be read');
      return index === VFIO_PCI_CONFIG_REGION_INDEX
        ? this.#writeConfig(at, from)
        : this.#bars.write(index, at, from);
    });
  }

  #readConfig(at: number, into: Uint8Array): Result<number> {
    const got = this.#config.read(at, into);
    return failed(got) ? got : into.length;
  }

  #writeConfig(at: number, from: Uint8Array): Result<number> {
    const put = this.#config.write(at, from);
    return failed(put) ? put : from.length;
  }

  // A piece at a time; an error counts, whatever was moved before it, as in Linux.
  #each(
    offset: bigint,
    count: number,
    move: (index: number, at: number, bytes: number, done: number) => Result<number>,
  ): Result<number> {
    if (count === 0) return 0;
    const place = regionAt(offset);
    if (place === null) return fail(EINVAL, 'the offset is of no region');
    const { index, at } = place;
    // No function here has an expansion ROM, or is VGA.
    if (index > VFIO_PCI_BAR5_REGION_INDEX && index !== VFIO_PCI_CONFIG_REGION_INDEX)
      return fail(EINVAL, `region ${index} is empty`);
    if (index === VFIO_PCI_CONFIG_REGION_INDEX && at + count > PCI_CFG_SPACE_EXP_BYTES)
      return fail(EFAULT, 'beyond configuration space');
    this.resume();
    const moved = this.#pieces(index, at, count, move);
    this.idle();
    return moved;
  }

  #pieces(
    index: number,
    at: number,
    count: number,
    move: (index: number, at: number, bytes: number, done: number) => Result<number>,
  ): Result<number> {
    let done = 0;
    while (done < count) {
      const bytes = Math.min(CHUNK - ((at + done) % CHUNK), count - done);
      const got = move(index, at + done, bytes, done);
      // Beyond the end of a BAR the count is cut short; where nothing at all is there, it is an error.
      if (failed(got)) return done > 0 && got.errno === EINVAL ? done : got;
      done += got;
      if (got < bytes) break;
    }
    return done;
  }

  /** vfio_pci_core_mmap(). `backing`: the pages of the file that is mapped. */
  mmap(offset: bigint, length: bigint, backing: FileBacking | undefined): Result<void> {
    const place = regionAt(offset);
    // Pages are shared where the region was said to be, and nowhere else.
    if (place === null || offset !== regionOffset(place.index) + big(place.at))
      return fail(EINVAL, 'the offset is of no region that was told');
    return this.#bars.map(place.index, place.at, length, backing);
  }

  /** An open file of the device is going away, and the pages with it. */
  unmap(backing: FileBacking): void {
    this.#bars.unmap(backing);
  }
}

const HANDLERS: Readonly<Record<number, Handler>> = {
  [VFIO_DEVICE_GET_INFO]: (_core, { process }, arg) => getInfo(process.memory, arg),
  [VFIO_DEVICE_GET_REGION_INFO]: (core, task, arg) => core.getRegionInfo(task, arg),
  [VFIO_DEVICE_GET_IRQ_INFO]: (core, task, arg) => core.getIrqInfo(task, arg),
  [VFIO_DEVICE_SET_IRQS]: (core, task, arg) => core.setIrqs(task, arg),
  [VFIO_DEVICE_RESET]: (core) => core.reset(),
  [VFIO_DEVICE_IOEVENTFD]: (core, task, arg) => core.setIoeventfd(task, arg),
  [VFIO_DEVICE_FEATURE]: (core, task, arg) => core.feature(task, arg),
};

// pci_enable_resources()
function decodedSpaces(pci: PciFunction): number {
  let spaces = 0;
  for (const bar of pci.bars)
    if (bar !== null) spaces |= bar.kind === 'io' ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
  return spaces;
}

function setCommand(pci: PciFunction, clear: number, set: number): void {
  const command = pci.readConfig(PCI_COMMAND, 2);
  pci.writeConfig(PCI_COMMAND, 2, (command & ~clear) | set);
}
