import { encode, readField } from '../../../base/bit-fields.ts';
import { fail, failed, type Result } from '../../../base/result.ts';
import { EINVAL, ENOMEM, ENOSPC, EOPNOTSUPP } from '../../../abi/errno.ts';
import {
  IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV,
  IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV,
  IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV,
} from '../../../abi/iommufd.ts';
import { iommu_hw_info_tegra241_cmdqv, iommu_vevent_tegra241_cmdqv } from '../../../abi/iommufd-data.ts';
import type { AddressSpace } from '../../../memory/process.ts';
import type { PagingDomain, ViommuCore, ViommuDriver } from '../../driver.ts';
import type { UserData } from '../../user-data.ts';
import { SYNC_CS } from '../spec/commands.ts';
import { Mmio, type RegisterBus } from '../../drivers/mmio.ts';
import { CommandQueue } from '../driver/queues/command-queue.ts';
import { sync, type Command } from '../driver/queues/commands.ts';
import type { ArmSmmuDomain } from '../driver/domains/domain.ts';
import { IdAllocator } from '../../drivers/ids.ts';
import type { SmmuImplementation } from '../driver/implementation.ts';
import type { ArmSmmu } from '../driver/smmu.ts';
import {
  CMDQ_ALLOC,
  CONFIG,
  lvcmdqPage0,
  lvcmdqPage1,
  OFFSET,
  PARAM,
  STATUS,
  VCMDQ,
  VCMDQ_BASE,
  VCMDQ_CONFIG,
  VCMDQ_PAGE1,
  VCMDQ_STATUS,
  VINTF,
  VINTF_CONFIG,
  VINTF_STATUS,
  vintfBase,
} from './spec.ts';
import { Tegra241Vintf } from './viommu.ts';

// drivers/iommu/arm/arm-smmu-v3/tegra241-cmdqv.c: interface 0 takes commands of the kernel, the others are for VMs.

export interface Tegra241Options {
  readonly registers: RegisterBus;
  /** Physical address of the first page of an interface, which programs may map. */
  readonly page0: (vintf: number) => number;
  readonly relax?: () => void;
  /** bypass_vcmdq: the kernel's commands go to the SMMU's own queue all the same. */
  readonly bypass?: boolean;
}

/** A queue of an interface: struct tegra241_vcmdq. */
export interface Vcmdq {
  readonly vintf: number;
  readonly lvcmdq: number;
  /** VCMDQ_BASE. */
  readonly base: bigint;
  /** The kernel's; null for one of a guest. */
  readonly queue: CommandQueue | null;
}

/** The interface as its owner sees it. */
export interface VintfState {
  readonly index: number;
  readonly vmid: number;
  /** By logical number. */
  readonly queues: (Vcmdq | null)[];
}

/** struct tegra241_cmdqv. */
export class Tegra241Driver implements SmmuImplementation {
  readonly smmu: ArmSmmu;
  readonly mmio: Mmio;
  readonly page0: (vintf: number) => number;
  readonly vintfs: number;
  readonly lvcmdqsPerVintf: number;
  readonly sidsPerVintf: number;
  readonly #version: number;
  readonly #bypass: boolean;
  readonly #vintfIds: IdAllocator;
  readonly #users = new Map<number, Tegra241Vintf>();
  readonly #own: VintfState;
  /** Interface 0 takes commands. */
  #enabled = false;
  #pending = false;

  /** __tegra241_cmdqv_probe() and tegra241_cmdqv_init_structures(); use as `implementation` of an SMMU. */
  constructor(smmu: ArmSmmu, options: Tegra241Options) {
    this.smmu = smmu;
    this.mmio = new Mmio(options.registers, options.relax ?? (() => {}));
    this.page0 = options.page0;
    this.#bypass = options.bypass ?? false;
    const param = [this.mmio.read32(OFFSET.PARAM)];
    this.vintfs = 2 ** readField(PARAM.NUM_VINTF_LOG2, param);
    this.lvcmdqsPerVintf = 2 ** readField(PARAM.NUM_VCMDQ_LOG2, param) / this.vintfs;
    this.sidsPerVintf = 2 ** readField(PARAM.NUM_SID_PER_VM_LOG2, param);
    this.#version = readField(PARAM.VER, param);
    this.#vintfIds = new IdAllocator(0, this.vintfs - 1);
    this.#vintfIds.take(0);
    this.#own = { index: 0, vmid: 0, queues: [] };
    for (let i = 0; i < this.lvcmdqsPerVintf; i++) this.#own.queues.push(this.#kernelQueue(i));
  }

  // tegra241_vintf_alloc_lvcmdq()
  #kernelQueue(lvcmdq: number): Vcmdq {
    const page0 = lvcmdqPage0(0, lvcmdq);
    const queue = new CommandQueue({
      physical: this.smmu.kernel.physical,
      mmio: this.mmio,
      prodOffset: page0 + VCMDQ.PROD,
      consOffset: page0 + VCMDQ.CONS,
      log2: this.smmu.features.cmdqLog2,
      signal: 'none',
      service: () => this.serveErrors(),
      log: (text) => this.smmu.log(`vcmdq${lvcmdq}: ${text}`),
    });
    return { vintf: 0, lvcmdq, base: vcmdqBase(queue.base, queue.log2), queue };
  }

  /** tegra241_cmdqv_get_cmdq(): the first queue, as there is one CPU. */
  secondaryQueue(_command: Command): CommandQueue | null {
    return this.#enabled && !this.#bypass ? (this.#own.queues[0]?.queue ?? null) : null;
  }

  // ---- reset ----

  /** tegra241_cmdqv_hw_reset() */
  reset(): Result<void> {
    for (const value of [0, CONFIG.CMDQV_EN.inPlace]) {
      const done = this.#writeConfig(OFFSET.CONFIG, OFFSET.STATUS, value, STATUS.ENABLED.inPlace);
      if (failed(done)) return done;
    }
    for (let vintf = 0; vintf < this.vintfs; vintf++) {
      for (let lvcmdq = 0; lvcmdq < this.lvcmdqsPerVintf; lvcmdq++) {
        const fields = encode(CMDQ_ALLOC, { VINTF: vintf, LVCMDQ: lvcmdq });
        this.mmio.write32(this.#allocOffset(vintf, lvcmdq), fields[0]!);
      }
    }
    const done = this.initVintf(this.#own, true);
    if (failed(done)) return done;
    this.#enabled = true;
  }

  /** tegra241_cmdqv_hw_disable() */
  disable(): void {
    this.#enabled = false;
    this.deinitVintf(this.#own);
    for (const vintf of this.#users.values()) this.deinitVintf(vintf.state);
    for (const queue of this.#own.queues) queue?.queue?.free();
  }

  #allocOffset(vintf: number, lvcmdq: number): number {
    return OFFSET.CMDQ_ALLOC + 4 * (vintf * this.lvcmdqsPerVintf + lvcmdq);
  }

  #writeConfig(config: number, status: number, value: number, bit: number): Result<void> {
    this.mmio.write32(config, value);
    const on = (value & 1) !== 0;
    const done = this.mmio.poll(status, (seen) => ((seen & bit) !== 0) === on);
    if (failed(done)) this.smmu.log(`CMDQV: failed to ${on ? 'en' : 'dis'}able`);
    return failed(done) ? done : undefined;
  }

  #writeVintf(index: number, value: number): Result<void> {
    const base = vintfBase(index);
    return this.#writeConfig(base + VINTF.CONFIG, base + VINTF.STATUS, value, VINTF_STATUS.ENABLED.inPlace);
  }

  /** tegra241_vintf_hw_init(): queues are mapped in ascending order. */
  initVintf(vintf: VintfState, hypervisorOwned: boolean): Result<void> {
    this.deinitVintf(vintf);
    const config = encode(VINTF_CONFIG, { HYP_OWN: hypervisorOwned, VMID: vintf.vmid })[0]!;
    this.mmio.write32(vintfBase(vintf.index) + VINTF.CONFIG, config);
    const done = this.#writeVintf(vintf.index, config | VINTF_CONFIG.EN.inPlace);
    if (failed(done)) return done;
    for (const queue of vintf.queues) {
      if (queue === null) continue;
      this.mapQueue(queue);
      const started = this.#startQueue(queue);
      if (!failed(started)) continue;
      this.deinitVintf(vintf);
      return started;
    }
  }

  /** tegra241_vintf_hw_deinit(): queues are unmapped in descending order. */
  deinitVintf(vintf: VintfState): void {
    for (const queue of vintf.queues.toReversed()) {
      if (queue === null) continue;
      this.stopQueue(queue);
      this.unmapQueue(queue);
    }
    this.#writeVintf(vintf.index, 0);
    for (let sid = 0; sid < this.sidsPerVintf; sid++) this.writeSid(vintf.index, sid, 0, 0);
  }

  /** A pair of SID_REPLACE and SID_MATCH. */
  writeSid(vintf: number, slot: number, replace: number, match: number): void {
    this.mmio.write32(vintfBase(vintf) + VINTF.SID_REPLACE + 4 * slot, replace);
    this.mmio.write32(vintfBase(vintf) + VINTF.SID_MATCH + 4 * slot, match);
  }

  /** tegra241_vcmdq_map_lvcmdq() */
  mapQueue(queue: Vcmdq): void {
    const offset = this.#allocOffset(queue.vintf, queue.lvcmdq);
    this.mmio.write32(offset, this.mmio.read32(offset) | CMDQ_ALLOC.ALLOCATED.inPlace);
  }

  unmapQueue(queue: Vcmdq): void {
    const offset = this.#allocOffset(queue.vintf, queue.lvcmdq);
    this.mmio.write32(offset, this.mmio.read32(offset) & ~CMDQ_ALLOC.ALLOCATED.inPlace);
  }

  // tegra241_vcmdq_hw_init()
  #startQueue(queue: Vcmdq): Result<void> {
    this.configureQueue(queue);
    const page0 = lvcmdqPage0(queue.vintf, queue.lvcmdq);
    const enable = VCMDQ_CONFIG.EN.inPlace;
    return this.#writeConfig(
      page0 + VCMDQ.CONFIG,
      page0 + VCMDQ.STATUS,
      enable,
      VCMDQ_STATUS.ENABLED.inPlace,
    );
  }

  /** tegra241_vcmdq_hw_init_user(): a guest enables its queue by itself. */
  configureQueue(queue: Vcmdq): void {
    this.stopQueue(queue);
    this.mmio.write64(lvcmdqPage1(queue.vintf, queue.lvcmdq) + VCMDQ_PAGE1.BASE, queue.base);
  }

  /**
   * tegra241_vcmdq_hw_deinit(). The CMD_SYNC in the SMMU's own queue takes up an invalidation of an ATC that timed out and
   * was never synchronized: the next VM with the queue must not hear of it.
   */
  stopQueue(queue: Vcmdq): void {
    const { mmio, smmu } = this;
    const page0 = lvcmdqPage0(queue.vintf, queue.lvcmdq);
    const page1 = lvcmdqPage1(queue.vintf, queue.lvcmdq);
    this.#writeConfig(page0 + VCMDQ.CONFIG, page0 + VCMDQ.STATUS, 0, VCMDQ_STATUS.ENABLED.inPlace);
    smmu.issue(smmu.commandQueue, [sync(SYNC_CS.NONE, 0)], true);
    mmio.write32(page0 + VCMDQ.PROD, 0);
    mmio.write32(page0 + VCMDQ.CONS, 0);
    mmio.write64(page1 + VCMDQ_PAGE1.BASE, 0n);
    mmio.write64(page1 + VCMDQ_PAGE1.CONS_INDX_BASE, 0n);
    const gerror = mmio.read32(page0 + VCMDQ.GERROR);
    if (gerror === mmio.read32(page0 + VCMDQ.GERRORN)) return;
    smmu.log(`VINTF${queue.vintf}: LVCMDQ${queue.lvcmdq}: uncleared error detected, resetting`);
    mmio.write32(page0 + VCMDQ.GERRORN, gerror);
  }

  // ---- errors ----

  /** The interrupt of the CMDQ-V. Served like those of the SMMU: later. */
  interrupt(): void {
    this.#pending = true;
  }

  /** tegra241_cmdqv_isr() */
  serveErrors(): void {
    if (!this.#pending) return;
    this.#pending = false;
    const map = [this.mmio.read32(OFFSET.VINTF_ERR_MAP), this.mmio.read32(OFFSET.VINTF_ERR_MAP + 4)];
    this.smmu.log(`unexpected error reported. vintf_map: ${map.map((each) => each.toString(16)).join(' ')}`);
    for (let index = 0; index < this.vintfs; index++) {
      if ((map[index >>> 5]! & (1 << (index & 31))) === 0) continue;
      if (index === 0) this.#serveOwn();
      else this.#reportToGuest(index);
    }
  }

  #errorMap(vintf: number): bigint[] {
    return [0, 8].map((at) => this.mmio.read64(vintfBase(vintf) + VINTF.LVCMDQ_ERR_MAP + at));
  }

  // tegra241_vintf0_handle_error()
  #serveOwn(): void {
    const map = this.#errorMap(0);
    for (const queue of this.#own.queues) {
      if (queue === null || ((map[queue.lvcmdq >>> 6]! >> BigInt(queue.lvcmdq & 63)) & 1n) === 0n) continue;
      const page0 = lvcmdqPage0(0, queue.lvcmdq);
      const gerror = this.mmio.read32(page0 + VCMDQ.GERROR);
      queue.queue!.skipError();
      this.mmio.write32(page0 + VCMDQ.GERRORN, gerror);
    }
  }

  // tegra241_vintf_user_handle_error()
  #reportToGuest(vintf: number): void {
    const bytes = new Uint8Array(iommu_vevent_tegra241_cmdqv.size);
    iommu_vevent_tegra241_cmdqv.write(bytes, 0, { lvcmdq_err_map: this.#errorMap(vintf) });
    this.#users.get(vintf)?.core.reportEvent(IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV, bytes);
  }

  /** Whether a program has an interface. */
  get used(): boolean {
    return this.#users.size > 0;
  }

  // ---- what programs ask for ----

  /** tegra241_cmdqv_hw_info() */
  hwInfo(type: number): Result<{ readonly type: number; readonly data: Uint8Array }> {
    if (type !== IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV)
      return fail(EOPNOTSUPP, `the CMDQV has no information of type ${type}`);
    if (this.smmu.kernel.failpoint()) return fail(ENOMEM, 'no memory for the information');
    const data = new Uint8Array(iommu_hw_info_tegra241_cmdqv.size);
    iommu_hw_info_tegra241_cmdqv.write(data, 0, {
      flags: 0,
      version: this.#version,
      log2vcmdqs: Math.log2(this.lvcmdqsPerVintf),
      log2vsids: Math.log2(this.sidsPerVintf),
      __reserved: 0,
    });
    return { type, data };
  }

  viommuSupported(type: number): boolean {
    return type === IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV;
  }

  /** tegra241_cmdqv_init_vintf_user(). ENOSPC where every interface is taken. */
  viommuInit(
    core: ViommuCore,
    parent: PagingDomain,
    memory: AddressSpace,
    data: UserData | null,
  ): Result<ViommuDriver> {
    if (data === null) return fail(EINVAL, 'a viommu of the CMDQV needs data');
    const checked = Tegra241Vintf.checkData(memory, data);
    if (failed(checked)) return checked;
    const index = this.#vintfIds.take();
    if (index === null) return fail(ENOSPC, 'every virtual interface is taken');
    if (this.smmu.kernel.failpoint()) {
      this.#vintfIds.free(index);
      return fail(ENOMEM, 'no memory for the queues');
    }
    const vintf = new Tegra241Vintf(this, core, parent as ArmSmmuDomain, index);
    this.#users.set(index, vintf);
    const started = vintf.start(memory, data);
    if (!failed(started)) return vintf;
    this.releaseVintf(index);
    return started;
  }

  /** tegra241_cmdqv_deinit_vintf() */
  releaseVintf(index: number): void {
    this.#users.delete(index);
    this.#vintfIds.free(index);
  }
}

/** The base register of a queue of 2^log2 commands. */
export function vcmdqBase(pa: number, log2: number): bigint {
  const mask = ((1n << 48n) - 1n) & ~0x1fn;
  return (BigInt(pa) & mask) | BigInt(log2 & VCMDQ_BASE.LOG2SIZE.mask);
}
