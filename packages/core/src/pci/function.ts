import { assert } from '../base/assert.ts';
import { big, U64_MAX } from '../base/u64.ts';
import type { DmaResult, MemoryRequest, PageResponseMessage } from '../iommu/requests/dma-port.ts';
import type { Doorbell } from '../memory/doorbells.ts';
import type { Trace } from '../trace/trace.ts';
import type { Bar, BarAccessSize, BarHandler } from './bar.ts';
import {
  addAcs,
  addAts,
  addExpress,
  addPasid,
  addPowerManagement,
  type PasidDescription,
} from './capabilities.ts';
import { ConfigSpace, type ConfigAccessSize } from './config-space.ts';
import { FunctionDma, type DmaRules } from './dma.ts';
import { addHeader, type FunctionIdentity } from './header.ts';
import type { MessageDoorbell } from './message-doorbell.ts';
import type { Migratable } from './migration.ts';
import { Msi } from './msi.ts';
import { Msix, type InterruptEvents, type InterruptMessage, type MsixDescription } from './msix.ts';
import { Pri } from './pri.ts';
import {
  PCI_ATS_CTRL,
  PCI_ATS_CTRL_ENABLE,
  PCI_BARS,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_IO,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_EXT_CAP_ID_ATS,
  PCI_EXT_CAP_ID_PASID,
  PCI_PASID_CTRL,
  PCI_PASID_CTRL_ENABLE,
  PCI_PASID_CTRL_EXEC,
  PCI_PASID_CTRL_PRIV,
  PCI_PM_CTRL,
  PCI_PM_CTRL_STATE_MASK,
  PCI_STATUS,
  PCI_STATUS_INTERRUPT,
} from './spec.ts';

// A PCI Express function. What every function has is here; what one does is its device model. docs/device-models.md

/** What of address translation a function can do itself: without, it has none of it. */
export interface TranslationFeatures {
  readonly ats?: {
    /** Invalidate Requests that it takes at once; 32 where absent. */
    readonly queue?: number;
    /** Entries of its ATC. */
    readonly entries?: number;
  };
  /** PRI with this many page requests outstanding. */
  readonly pri?: number;
  readonly pasid?: PasidDescription;
}

/** What a function is made of. */
export interface FunctionDescription extends TranslationFeatures {
  readonly identity: FunctionIdentity;
  readonly bars: readonly Bar[];
  readonly msix?: MsixDescription;
  /** MSI with this many vectors: a power of two up to 32. */
  readonly msi?: number;
  /** It has an interrupt pin. */
  readonly intx?: boolean;
  /** Adds what only this function has to its configuration space. */
  configure?(config: ConfigSpace): void;
}

/** What a function does. */
export interface DeviceModel {
  readonly description: FunctionDescription;
  /** Called once, before anything else: the function that the device sends requests and interrupts by. */
  connect(pci: PciFunction): void;
  /** Everything is as after power-on: a Function Level Reset. */
  reset(): void;
  /** A PRG Response Message came. */
  pageResponse?(response: PageResponseMessage): void;
  /**
   * Goes on with work that waits, and looks at memory that programs map ({@link Bar.memory}). True where something was
   * done and more may wait.
   */
  poll?(): boolean;
  /** What of it moves to another device; absent where it cannot be migrated. */
  readonly migration?: Migratable;
}

/** Who has a function: VFIO, or a test. */
export interface FunctionUser {
  /** The function sent a message of MSI-X or MSI. */
  message?(vector: number, message: InterruptMessage): void;
  /** The level of its interrupt pin changed. */
  intx?(asserted: boolean): void;
  /** It found an uncorrectable error. */
  error?(): void;
  /** It asks to be given back: it will be removed. */
  removalRequested?(): void;
  /** It wrote to memory, as far as the IOMMU let it. */
  wrote?(address: bigint, pasid: number | null, bytes: number): void;
  /** Work waits for {@link PciFunction.poll}. */
  wake?(): void;
}

export class PciFunction implements Doorbell {
  /** Its address, as in 0000:0a:00.0. */
  readonly name: string;
  readonly description: FunctionDescription;
  readonly model: DeviceModel;
  /** By number; null where there is none, and where the one before is of 64 bits. */
  readonly bars: readonly (Bar | null)[];
  readonly dma: FunctionDma;
  readonly msix: Msix | null;
  readonly msi: Msi | null;
  user: FunctionUser | null = null;
  /** Where messages go that the IOMMU translates; null where they are taken as they are. */
  doorbell: MessageDoorbell | null = null;
  readonly #trace: Trace | null;
  readonly #config = new ConfigSpace();
  readonly #power: number;
  #present = true;
  #intx = false;
  #intxShown = false;
  #resets = 0;
  #waiting = false;
  #paused = false;

  constructor(name: string, model: DeviceModel, trace?: Trace) {
    const { description } = model;
    const { identity, bars, msix, msi, intx = false, ats, pri, pasid } = description;
    this.name = name;
    this.#trace = trace ?? null;
    this.model = model;
    this.description = description;
    const byNumber: (Bar | null)[] = Array.from({ length: PCI_BARS }, () => null);
    for (const bar of bars) byNumber[bar.index] = bar;
    this.bars = byNumber;
    const config = this.#config;
    addHeader(config, identity, byNumber, intx, () => this.#showIntx());
    this.#power = addPowerManagement(config);
    const events: InterruptEvents = {
      send: (vector, message) => this.#send(vector, message),
      controlled: () => this.#showIntx(),
    };
    this.msi = msi === undefined ? null : new Msi(config, msi, events);
    this.msix = msix === undefined ? null : new Msix(config, msix, events);
    addExpress(config, () => this.reset());
    if (ats !== undefined) addAts(config, ats.queue ?? 32, (on) => this.dma.atc.enable(on));
    const priCapability = pri === undefined ? null : new Pri(config, pri);
    if (pasid !== undefined) addPasid(config, pasid);
    addAcs(config);
    this.dma = new FunctionDma({
      rules: () => this.#rules(),
      pri: priCapability,
      entries: ats?.entries,
      onPageResponse: (response) => model.pageResponse?.(response),
      onAccess: (request, bytes, result) => this.#accessed(request, bytes, result),
    });
    description.configure?.(config);
    model.connect(this);
    model.reset();
  }

  // ---- software's side ----

  /** False after {@link remove}. */
  get present(): boolean {
    return this.#present;
  }

  /** How often it was reset. */
  get resets(): number {
    return this.#resets;
  }

  /** The configuration space, as its register's definers and its users' drivers know it. */
  get config(): ConfigSpace {
    return this.#config;
  }

  /** A configuration read; ones where nobody answers. */
  readConfig(offset: number, size: ConfigAccessSize): number {
    const value = this.#present ? this.#config.read(offset, size) : 2 ** (8 * size) - 1;
    this.#traceAccess('config', false, offset, size, value);
    return value;
  }

  writeConfig(offset: number, size: ConfigAccessSize, value: number): void {
    this.#traceAccess('config', true, offset, size, value);
    if (this.#present) this.#config.write(offset, size, value);
  }

  /** A load from a BAR. Ones where nobody answers: the function is gone, asleep, or memory space is off. */
  readBar(index: number, offset: number, size: BarAccessSize): bigint {
    const bar = this.#decoding(index, offset, size);
    let value = U64_MAX;
    if (bar !== null) {
      const [handler, at] = this.#behind(bar, offset);
      value = handler.read(at, size);
    }
    value = BigInt.asUintN(8 * size, value);
    this.#traceAccess(`bar${index}`, false, offset, size, value);
    return value;
  }

  /** A store to a BAR. */
  writeBar(index: number, offset: number, size: BarAccessSize, value: bigint): void {
    const bar = this.#decoding(index, offset, size);
    this.#traceAccess(`bar${index}`, true, offset, size, value);
    if (bar === null) return;
    const [handler, at] = this.#behind(bar, offset);
    handler.write(at, size, BigInt.asUintN(8 * size, value));
  }

  #decoding(index: number, offset: number, size: BarAccessSize): Bar | null {
    const bar = this.bars[index] ?? null;
    assert(bar !== null && offset % size === 0 && offset + size <= bar.size, `BAR ${index} at ${offset}`);
    return this.decodes(bar) ? bar : null;
  }

  /** Whether it answers at the addresses of a BAR: it is there, awake, and the space is on. */
  decodes({ kind }: Bar): boolean {
    const space = kind === 'io' ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
    return this.#awake && (this.#config.read(PCI_COMMAND, 2) & space) !== 0;
  }

  /** What serves an offset of a BAR, and the offset there: the MSI-X table lies above whatever the model has. */
  #behind(bar: Bar, offset: number): [BarHandler, number] {
    const { msix } = this;
    if (msix !== null && msix.description.bar === bar.index) {
      const { table, pba } = msix.description;
      if (offset >= table && offset < table + msix.tableBytes) return [msix.table, offset - table];
      if (offset >= pba && offset < pba + msix.pbaBytes) return [msix.pba, offset - pba];
    }
    return [bar.handler, offset];
  }

  /** A Function Level Reset: by PCI_EXP_DEVCTL_BCR_FLR too. */
  reset(): void {
    this.#resets++;
    this.#config.reset(false);
    this.msix?.reset();
    this.msi?.reset();
    this.dma.reset();
    this.setIntx(false);
    this.#paused = false;
    this.#waiting = false;
    this.model.reset();
  }

  /** It starts nothing: no DMA, and no interrupts. What waits goes on when it is let go. */
  get paused(): boolean {
    return this.#paused;
  }

  setPaused(paused: boolean): void {
    this.#paused = paused;
    if (!paused && this.#waiting) this.user?.wake?.();
  }

  /** Lets the device go on; see {@link DeviceModel.poll}. */
  poll(): boolean {
    if (this.#paused) return false;
    this.#waiting = this.#awake && (this.model.poll?.() ?? false);
    return this.#waiting;
  }

  /** Work waits, or a program can store where the device has to look. */
  get watched(): boolean {
    return (this.#waiting && !this.#paused) || this.bars.some((bar) => bar?.memory?.shared === true);
  }

  look(): boolean {
    return this.poll();
  }

  /** Pulls the device out: from now on it answers nothing and does nothing. */
  remove(): void {
    this.#present = false;
  }

  /** The device is to be pulled out: whoever has it is asked to give it back. */
  requestRemoval(): void {
    this.user?.removalRequested?.();
  }

  // ---- the device's side ----

  /** Signals a vector, by MSI-X or by MSI, whichever is enabled. */
  signal(vector: number): void {
    if (this.msix?.enabled === true) this.msix.raise(vector);
    else if (this.msi?.enabled === true) this.msi.raise(vector);
  }

  /** Sets the level of the interrupt pin. It counts while neither MSI-X nor MSI is enabled. */
  setIntx(asserted: boolean): void {
    this.#intx = asserted;
    this.#showIntx();
  }

  /** The device found an uncorrectable error. */
  reportError(): void {
    this.user?.error?.();
  }

  /** Somebody follows the trace: {@link emit} is worth its event. */
  get traced(): boolean {
    return this.#trace?.active === true;
  }

  /** Tells the trace what the device does, in its own words. */
  emit(kind: string, fields: Readonly<Record<string, unknown>>): void {
    if (this.traced) this.#trace!.emit({ kind, device: this.name, ...fields });
  }

  /** Work waits that {@link DeviceModel.poll} would do. */
  wake(): void {
    this.#waiting = true;
    this.user?.wake?.();
  }

  get #awake(): boolean {
    return this.#present && (this.#config.read(this.#power + PCI_PM_CTRL, 2) & PCI_PM_CTRL_STATE_MASK) === 0;
  }

  #showIntx(): void {
    const status = this.#config.read(PCI_STATUS, 2) & ~PCI_STATUS_INTERRUPT;
    this.#config.set(PCI_STATUS, 2, this.#intx ? status | PCI_STATUS_INTERRUPT : status);
    const off = (this.#config.read(PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE) !== 0;
    const shown = this.#intx && !off && this.msix?.enabled !== true && this.msi?.enabled !== true;
    if (shown === this.#intxShown) return;
    this.#intxShown = shown;
    this.user?.intx?.(shown);
  }

  /** A message is a memory write of the function: it needs bus mastering, and passes the IOMMU as others do. */
  #send(vector: number, message: InterruptMessage): void {
    if (!this.#rules().master) return;
    const { doorbell } = this;
    const { address, data } = message;
    const came = doorbell?.take(() => this.dma.message(address, data)) ?? null;
    const lost = came?.arrived === false;
    if (this.#trace?.active === true) {
      const outcome = lost ? { lost: came.reason } : {};
      this.#trace.emit({ kind: 'interrupt', device: this.name, vector, address, data, ...outcome });
    }
    if (!lost) this.user?.message?.(vector, message);
  }

  #accessed(request: MemoryRequest, bytes: number, stopped: DmaResult): void {
    if (request.write) this.user?.wrote?.(request.address, request.pasid, stopped?.done ?? bytes);
    this.#traceDma(request, bytes, stopped);
  }

  // ---- the trace ----

  #traceAccess(space: string, write: boolean, offset: number, size: number, value: number | bigint): void {
    if (this.#trace?.active !== true) return;
    const bytes = typeof value === 'bigint' ? value : big(value);
    this.#trace.emit({ kind: 'pci', device: this.name, space, write, offset, size, value: bytes });
  }

  #traceDma({ write, address, pasid }: MemoryRequest, length: number, stopped: DmaResult): void {
    if (this.#trace?.active !== true) return;
    const outcome = stopped === null ? {} : { done: stopped.done, reason: stopped.reason };
    this.#trace.emit({ kind: 'dma', device: this.name, write, address, pasid, length, ...outcome });
  }

  #rules(): DmaRules {
    const config = this.#config;
    const control = (id: number, offset: number): number => {
      const at = config.extendedCapability(id);
      return at === 0 ? 0 : config.read(at + offset, 2);
    };
    const pasid = control(PCI_EXT_CAP_ID_PASID, PCI_PASID_CTRL);
    return {
      master: this.#awake && (config.read(PCI_COMMAND, 2) & PCI_COMMAND_MASTER) !== 0,
      ats: (control(PCI_EXT_CAP_ID_ATS, PCI_ATS_CTRL) & PCI_ATS_CTRL_ENABLE) !== 0,
      pasid: (pasid & PCI_PASID_CTRL_ENABLE) !== 0,
      execute: (pasid & PCI_PASID_CTRL_EXEC) !== 0,
      privileged: (pasid & PCI_PASID_CTRL_PRIV) !== 0,
    };
  }
}
