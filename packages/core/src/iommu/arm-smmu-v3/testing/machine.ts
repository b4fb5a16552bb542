import { assert } from '../../../base/assert.ts';
import { failed, type Result } from '../../../base/result.ts';
import { IOMMU_HWPT_ALLOC_NEST_PARENT } from '../../../abi/iommufd.ts';
import type { OpenFile } from '../../../memory/file.ts';
import type { Task } from '../../../memory/process.ts';
import type { Device, Kernel } from '../../driver.ts';
import { IommuGroup } from '../../group.ts';
import { ArmSmmuDriver, type ArmSmmuDriverOptions } from '../driver/driver.ts';
import { smmuV3Config, type ConfigOverrides } from '../hardware/registers/config.ts';
import { SmmuFunction, SmmuUnit, type FunctionOptions, type SmmuUnitOptions } from '../platform.ts';
import { guestSte, writeGuestCd } from './guest.ts';
import { TestProgram } from './program.ts';
import { GuestMemory, type GuestTables } from '../../testing/guest.ts';
import { bytesOf, textOf } from '../../../base/testing/ascii.ts';

// For tests: a machine of SMMUs and devices, and VMs on it. What lies above the IOMMU layer comes from outside.

export const MIB = 0x10_0000n;
/** Where a VM's memory is, for the guest and for the program. */
export const IPA = 0x4000_0000n;
export const VA = 0x7f00_0000_0000n;

/** A bound device, of which the tests need its id. */
export interface Bound {
  readonly id: number;
}

/** What a VFIO driver calls of iommufd: iommufd/device/device.ts and attach.ts. */
export interface IommufdFunctions {
  bindDevice(context: OpenFile, device: Device, holdsContext: boolean): Result<Bound>;
  unbindDevice(bound: Bound): void;
  attachDevice(context: OpenFile, bound: Bound, pasid: number, ptId: number): Result<number>;
  replaceDevice(context: OpenFile, bound: Bound, pasid: number, ptId: number): Result<number>;
  detachDevice(context: OpenFile, bound: Bound, pasid: number): void;
}

/** A kernel whose files can be opened. */
export interface TestKernel extends Kernel {
  open(path: string, task: Task): Result<OpenFile>;
}

export interface TestMachineOptions extends ConfigOverrides {
  readonly smmus?: number;
  readonly driver?: ArmSmmuDriverOptions;
  /** What SMMUs have beyond the architecture. */
  readonly implementation?: SmmuUnitOptions['implementation'];
}

export class TestMachine {
  readonly kernel: TestKernel;
  readonly driver: ArmSmmuDriver;
  readonly units: SmmuUnit[] = [];
  /** Names of the commands that the SMMUs consumed. */
  readonly commands: string[] = [];
  readonly #iommufd: IommufdFunctions;
  readonly #attached = new Map<Bound, Set<number>>();
  #groups = 0;
  #pids = 100;

  constructor(kernel: TestKernel, iommufd: IommufdFunctions, options: TestMachineOptions = {}) {
    const { smmus = 1, driver = {}, implementation, ...overrides } = options;
    this.kernel = kernel;
    this.#iommufd = iommufd;
    this.driver = new ArmSmmuDriver(this.kernel, driver);
    const small = { CMDQS: 10, EVENTQS: 10, PRIQS: 8 };
    const config = smmuV3Config({ ...overrides, IDR1: { ...small, ...overrides.IDR1 } });
    for (let i = 0; i < smmus; i++) {
      const unit = SmmuUnit.create(this.driver, {
        name: `smmu${i}`,
        config,
        ...(implementation === undefined ? {} : { implementation }),
      });
      assert(!failed(unit), 'the SMMU comes up');
      this.units.push(unit);
    }
    this.kernel.trace.subscribe((event) => {
      if (event.kind === 'command') this.commands.push(String(event['name']));
    });
  }

  device(sid: number, options: Partial<FunctionOptions> & { smmu?: number } = {}): SmmuFunction {
    const { smmu = 0, ...rest } = options;
    const made = SmmuFunction.create(this.units[smmu]!, {
      name: `dev${sid}`,
      streamIds: [sid],
      group: new IommuGroup(this.kernel, this.#groups++),
      pci: { maxPasids: 1024, pasidExec: false, pasidPriv: false },
      ...rest,
    });
    assert(!failed(made), 'the device is probed');
    return made;
  }

  program(): TestProgram {
    return new TestProgram(this.#pids++, (task) => this.kernel.open('/dev/iommu', task));
  }

  bind(program: TestProgram, device: SmmuFunction): Bound {
    this.kernel.current = program.task;
    const bound = this.#iommufd.bindDevice(program.file, device, true);
    assert(!failed(bound), 'the device is bound');
    this.#attached.set(bound, new Set());
    return bound;
  }

  /** Attaches, or replaces what is attached. The errno, 0 where it is done. */
  attach(program: TestProgram, bound: Bound, to: number, pasid = 0): number {
    this.kernel.current = program.task;
    const attached = this.#attached.get(bound)!;
    const change = attached.has(pasid) ? this.#iommufd.replaceDevice : this.#iommufd.attachDevice;
    const id = change(program.file, bound, pasid, to);
    if (failed(id)) return id.errno;
    attached.add(pasid);
    return 0;
  }

  detach(program: TestProgram, bound: Bound, pasid = 0): void {
    this.kernel.current = program.task;
    this.#iommufd.detachDevice(program.file, bound, pasid);
    this.#attached.get(bound)!.delete(pasid);
  }

  unbind(program: TestProgram, bound: Bound): void {
    this.kernel.current = program.task;
    this.#iommufd.unbindDevice(bound);
  }
}

/** A VM with one device: memory at IPA, mapped in a nest parent. */
export class TestVm {
  readonly machine: TestMachine;
  readonly program: TestProgram;
  readonly memory: GuestMemory;
  readonly ioas: number;
  readonly bound: Bound;
  readonly device: SmmuFunction;
  readonly parent: number;
  readonly viommu: number;
  readonly vsid: number;

  /** `vdevice` false leaves the virtual StreamID out. */
  constructor(machine: TestMachine, device: SmmuFunction, vsid: number, vdevice = true) {
    this.machine = machine;
    this.device = device;
    this.vsid = vsid;
    this.program = machine.program();
    this.bound = machine.bind(this.program, device);
    this.ioas = this.program.ioas();
    this.memory = new GuestMemory(this.program, VA, IPA, 16n * MIB);
    this.parent = this.program.hwpt(this.bound.id, this.ioas, IOMMU_HWPT_ALLOC_NEST_PARENT);
    this.program.map(this.ioas, VA, IPA, 16n * MIB);
    this.viommu = this.program.viommu(this.bound.id, this.parent);
    if (vdevice) this.program.vdevice(this.viommu, this.bound.id, BigInt(vsid));
    assert(this.program.errno === 0, 'the VM is made');
  }

  /** Gives the device a stage 1 of the guest; answers where its CD is. */
  translate(
    tables: GuestTables,
    options: { asid?: number; ats?: boolean; fault?: number; stall?: boolean } = {},
  ): bigint {
    const { asid = 1, ats = false, fault = 0, stall = false } = options;
    const cd = this.memory.page();
    writeGuestCd(this.memory, cd, tables, asid, stall);
    this.attachSte(guestSte(cd, { ats }), fault);
    return cd;
  }

  attachSte(ste: readonly [bigint, bigint], fault = 0): void {
    const hwpt = this.program.nested(this.bound.id, this.viommu, ste, fault);
    assert(this.program.errno === 0, 'the nested HWPT is made');
    assert(this.machine.attach(this.program, this.bound, hwpt) === 0, 'the nested HWPT is attached');
  }

  /** What the device reads, or the errno. */
  read(iova: bigint, length: number, pasid: number | null = null): string | number {
    const data = new Uint8Array(length);
    const rc = this.device.dma({ write: false, iova, pasid, data });
    return failed(rc) ? rc.errno : textOf(data);
  }

  /** The errno, 0 where it arrived. */
  write(iova: bigint, text: string, pasid: number | null = null): number {
    const rc = this.device.dma({ write: true, iova, pasid, data: bytesOf(text) });
    return failed(rc) ? rc.errno : 0;
  }
}
