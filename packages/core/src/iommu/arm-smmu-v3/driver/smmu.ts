import { fail, failed, type Result } from '../../../base/result.ts';
import { ENODEV, ENOMEM } from '../../../abi/errno.ts';
import { DeferredInterrupts } from '../../drivers/deferred-interrupts.ts';
import type { Kernel, PhysicalIommu } from '../../driver.ts';
import { CMD } from '../spec/commands.ts';
import { EVENT_BYTES } from '../spec/events.ts';
import { PRIQ_BYTES } from '../spec/queues.ts';
import { GERROR, OFFSET } from '../spec/registers.ts';
import { Mmio, type RegisterBus } from '../../drivers/mmio.ts';
import { CommandBatch, CommandQueue, type BatchTarget } from './queues/command-queue.ts';
import { opcodeOf, type Command } from './queues/commands.ts';
import type { ArmSmmuDriver } from './driver.ts';
import { OutputQueue, serveEventQueue, servePriQueue } from './queues/events.ts';
import { probeFeatures, type ArmSmmuFeatures, type Platform } from './features.ts';
import { IdAllocator } from '../../drivers/ids.ts';
import type { SmmuImplementation } from './implementation.ts';
import type { InvalidationTarget } from './domains/invalidation-list.ts';
import { CMDQ_BATCH_ENTRIES } from './limits.ts';
import type { ArmSmmuMaster } from './master.ts';
import { disableSmmu, resetSmmu } from './reset.ts';
import { StreamTable } from './configuration/tables.ts';

// One SMMU: struct arm_smmu_device.

/** Interrupts of the SMMU; those of CMD_SYNC need no handler. */
export type SmmuInterrupt = 'eventq' | 'priq' | 'gerror' | 'cmd_sync' | 'sev';

export interface ArmSmmuOptions extends Platform {
  readonly name: string;
  readonly registers: RegisterBus;
  /** cpu_relax(): called while the driver waits; lets hardware that needs it go on. */
  readonly relax?: () => void;
  /**
   * Runs an interrupt's handler soon, and not from within what raised it: hardware is then in the middle of a
   * transaction. Where absent, whoever owns the machine calls ArmSmmu.serveInterrupts() after each DMA.
   */
  readonly defer?: (serve: () => void) => void;
  /** Makes what an implementation adds to the architecture. */
  readonly implementation?: (smmu: ArmSmmu) => SmmuImplementation;
}

export class ArmSmmu implements PhysicalIommu, BatchTarget, InvalidationTarget {
  readonly name: string;
  readonly driver: ArmSmmuDriver;
  /** Its place among the SMMUs of the machine. */
  readonly index: number;
  readonly kernel: Kernel;
  readonly mmio: Mmio;
  readonly features: ArmSmmuFeatures;
  readonly commandQueue: CommandQueue;
  readonly eventQueue: OutputQueue;
  readonly priQueue: OutputQueue | null;
  readonly streamTable: StreamTable;
  readonly vmids: IdAllocator;
  readonly streams = new Map<number, ArmSmmuMaster>();
  implementation: SmmuImplementation | null = null;
  readonly #interrupts: DeferredInterrupts<SmmuInterrupt>;

  /** arm_smmu_device_probe(): finds out what the SMMU can do, gives it its queues and tables, and enables it. */
  static probe(driver: ArmSmmuDriver, options: ArmSmmuOptions): Result<ArmSmmu> {
    const { kernel } = driver;
    const log = (text: string): void => logTo(kernel, options.name, text);
    const mmio = new Mmio(options.registers, options.relax ?? (() => {}));
    const features = probeFeatures(mmio, options, log);
    if (failed(features)) return features;
    const table = StreamTable.make(kernel, features.twoLevelStrtab, features.sidBits, log);
    if (table === null) return fail(ENOMEM, 'no memory for the stream table');
    const smmu = new ArmSmmu(driver, options, mmio, features, table);
    smmu.implementation = options.implementation?.(smmu) ?? null;
    const rc = resetSmmu(smmu);
    if (failed(rc)) {
      disableSmmu(smmu);
      return rc;
    }
    return smmu;
  }

  private constructor(
    driver: ArmSmmuDriver,
    options: ArmSmmuOptions,
    mmio: Mmio,
    features: ArmSmmuFeatures,
    streamTable: StreamTable,
  ) {
    this.driver = driver;
    this.name = options.name;
    this.#interrupts = new DeferredInterrupts((which) => this.#handle(which), options.defer ?? null);
    this.index = driver.enter(this);
    this.kernel = driver.kernel;
    this.mmio = mmio;
    this.features = features;
    this.streamTable = streamTable;
    // VMID 0 is that of streams without a stage 2.
    this.vmids = new IdAllocator(1, 2 ** features.vmidBits - 1);
    this.commandQueue = new CommandQueue({
      physical: this.kernel.physical,
      mmio,
      prodOffset: OFFSET.CMDQ_PROD,
      consOffset: OFFSET.CMDQ_CONS,
      log2: features.cmdqLog2,
      signal: features.msiPoll ? 'msi' : 'event',
      service: () => this.#serveErrors(),
      log: (text) => this.log(text),
    });
    const { evtqLog2, priqLog2 } = features;
    this.eventQueue = new OutputQueue(this, evtqLog2, EVENT_BYTES, OFFSET.EVENTQ_PROD, OFFSET.EVENTQ_CONS);
    this.priQueue = features.pri
      ? new OutputQueue(this, priqLog2, PRIQ_BYTES, OFFSET.PRIQ_PROD, OFFSET.PRIQ_CONS)
      : null;
  }

  /** dev_err() and its kin. */
  log(text: string): void {
    logTo(this.kernel, this.name, text);
  }

  noMemory(what: string): Result<never> {
    return fail(ENOMEM, `no memory for ${what}`);
  }

  // ---- commands ----

  /** arm_smmu_get_cmdq() */
  queueFor(command: Command): CommandQueue {
    return this.implementation?.secondaryQueue?.(command) ?? this.commandQueue;
  }

  /** arm_smmu_cmdq_issue_cmdlist() */
  issue(queue: CommandQueue, commands: readonly Command[], sync: boolean): Result<void> {
    return this.exclusively(() => {
      const done = queue.issue(commands, sync);
      if (failed(done) || !sync || commands.length === 0 || !this.#needsRepeating(commands[0]!)) return done;
      return queue.issue(commands, sync);
    });
  }

  /** arm_smmu_erratum_cmd_needs_repeating(): every CFGI and TLBI, on affected machines. */
  #needsRepeating(command: Command): boolean {
    const opcode = opcodeOf(command);
    return this.driver.options.repeatTlbiCfgi === true && opcode >= CMD.CFGI_STE && opcode < CMD.ATC_INV;
  }

  /** arm_smmu_cmdq_batch_force_sync() */
  forcesSync(first: Command, count: number): boolean {
    if (this.features.cmdqForceSync && count === CMDQ_BATCH_ENTRIES - 1) return true;
    return count === CMDQ_BATCH_ENTRIES && this.#needsRepeating(first);
  }

  issueOne(command: Command): void {
    this.issue(this.queueFor(command), [command], false);
  }

  issueWithSync(command: Command): Result<void> {
    return this.issue(this.queueFor(command), [command], true);
  }

  batch(first: Command): CommandBatch {
    return new CommandBatch(this, first, CMDQ_BATCH_ENTRIES);
  }

  // ---- interrupts ----

  /**
   * An interrupt line of the SMMU went up. Its handler runs later, at the latest when the driver is done with what it is
   * doing; errors of the command queue are handled while a command is waited for.
   */
  interrupt(which: SmmuInterrupt): void {
    this.#interrupts.raise(which);
  }

  /** Runs the handlers of interrupts that wait. */
  serveInterrupts(): void {
    this.#interrupts.serve();
  }

  /** Keeps handlers out while tables and lists change: arm_smmu_asid_lock and streams_mutex. */
  exclusively<T>(work: () => T): T {
    return this.#interrupts.exclusively(work);
  }

  #handle(which: SmmuInterrupt): void {
    if (which === 'gerror') this.#handleErrors();
    else this.#serveErrors();
    if (which === 'eventq') serveEventQueue(this);
    if (which === 'priq' && this.priQueue !== null) servePriQueue(this);
  }

  /** Errors of the command queue are handled while a command is waited for. */
  #serveErrors(): void {
    if (this.#interrupts.take('gerror')) this.#handleErrors();
  }

  /** arm_smmu_gerror_handler() */
  #handleErrors(): void {
    const gerror = this.mmio.read32(OFFSET.GERROR);
    const active = gerror ^ this.mmio.read32(OFFSET.GERRORN);
    const has = (field: { readonly inPlace: number }): boolean => (active & field.inPlace) !== 0;
    if (active === 0) return;
    this.log(
      `unexpected global error reported (0x${active.toString(16).padStart(8, '0')}), this could be serious`,
    );
    if (has(GERROR.SFM_ERR)) {
      this.log('device has entered Service Failure Mode!');
      disableSmmu(this);
    }
    if (has(GERROR.MSI_GERROR_ABT_ERR)) this.log('GERROR MSI write aborted');
    if (has(GERROR.MSI_PRIQ_ABT_ERR)) this.log('PRIQ MSI write aborted');
    if (has(GERROR.MSI_EVENTQ_ABT_ERR)) this.log('EVTQ MSI write aborted');
    if (has(GERROR.MSI_CMDQ_ABT_ERR)) this.log('CMDQ MSI write aborted');
    if (has(GERROR.PRIQ_ABT_ERR)) this.log('PRIQ write aborted -- events may have been lost');
    if (has(GERROR.EVENTQ_ABT_ERR)) this.log('EVTQ write aborted -- events may have been lost');
    if (has(GERROR.CMDQ_ERR)) this.commandQueue.skipError();
    this.mmio.write32(OFFSET.GERRORN, gerror);
  }

  // ---- devices ----

  /**
   * arm_smmu_probe_device(): a device that was made for this SMMU joins it and its group. ERANGE where a StreamID is
   * beyond the table, ENODEV where another device has it, EOPNOTSUPP where it needs ATS and cannot have it.
   */
  probeDevice<Master extends ArmSmmuMaster>(master: Master): Result<Master> {
    const undo = (failure: Result<never>): Result<never> => {
      for (const sid of master.streamIds) if (this.streams.get(sid) === master) this.streams.delete(sid);
      return failure;
    };
    for (const sid of master.streamIds) {
      const reached = this.streamTable.reach(sid);
      if (failed(reached)) return undo(reached);
      const other = this.streams.get(sid);
      if (other !== undefined && other !== master)
        return undo(fail(ENODEV, `${other.name} has StreamID ${sid} already`));
      this.streams.set(sid, master);
    }
    const prepared = master.prepareAts();
    if (failed(prepared)) return undo(prepared);
    master.group.devices.push(master);
    return master;
  }

  /** arm_smmu_release_device(): the device must not be attached to anything that translates. */
  releaseDevice(master: ArmSmmuMaster): void {
    this.driver.blockedDomain.attachDevice(master, master.group.domain);
    for (const sid of master.streamIds) this.streams.delete(sid);
    const at = master.group.devices.indexOf(master);
    if (at >= 0) master.group.devices.splice(at, 1);
    master.cdTable?.free();
    master.cdTable = null;
  }

  /** arm_smmu_device_shutdown(): the SMMU is disabled, its memory given back. */
  remove(): void {
    this.implementation?.disable?.();
    disableSmmu(this);
    this.commandQueue.free();
    this.eventQueue.free();
    this.priQueue?.free();
    this.streamTable.free();
  }
}

function logTo(kernel: Kernel, device: string, text: string): void {
  if (kernel.trace.active) kernel.trace.emit({ kind: 'log', device, text });
}
