import { fail, failed, type Result } from '../base/result.ts';
import { ENOENT } from '../abi/errno.ts';
import type { Kernel as KernelEnvironment } from '../iommu/driver.ts';
import { MockIommu } from '../iommu/mock/driver.ts';
import { ACCOUNT_MM, LockedMemory } from '../iommufd/pages/accounting.ts';
import { IommufdContext, type IommufdShared } from '../iommufd/context.ts';
import { DEFAULT_PROFILE, findProfile, type Profile } from '../iommufd/profile.ts';
import { Selftest } from '../iommufd/selftest/command.ts';
import type { TrialUapi } from '../iommufd/trial-uapi.ts';
import { Doorbells } from '../memory/doorbells.ts';
import type { OpenFile } from '../memory/file.ts';
import { PhysicalSpace } from '../memory/physical-space.ts';
import type { Task } from '../memory/process.ts';
import { Trace } from '../trace/trace.ts';
import { VfioRegistry } from '../vfio/registry.ts';
import { buildDevices, NO_PARTS, type MachineParts } from './build.ts';
import type { PciFunctionView } from './devices/view.ts';
import { viewOf } from './devices/views.ts';

/** The files that VFIO makes for devices, and for groups. */
const VFIO_FILE = /^\/dev\/vfio\/(devices\/vfio)?(\d+)$/;

/** How a machine is made. */
export interface KernelOptions {
  /** Which Linux answers; the newest known where it is left out. */
  readonly profile?: Profile;
  /** Trial uAPIs that are served beside Linux's; none where this is left out. */
  readonly uapis?: readonly TrialUapi[];
  /** Whether the kernel's mock IOMMU is there; it is where this is left out. */
  readonly mock?: boolean;
  readonly trace?: Trace;
  /** IOMMUs and devices: loadParts(). None where this is left out. */
  readonly parts?: MachineParts;
}

/** The kernel side of one machine: everything that stands behind the files a program opens. */
export class Kernel implements KernelEnvironment {
  readonly profile: Profile;
  readonly trace: Trace;
  readonly physical = new PhysicalSpace();
  readonly doorbells = new Doorbells();
  readonly locked = new LockedMemory();
  readonly mock: MockIommu;
  /** The files of the machine's devices. */
  readonly deviceFiles: readonly string[];
  readonly #parts: MachineParts;
  #vfio: VfioRegistry | null = null;
  #current: Task | null = null;
  readonly #shared: IommufdShared;

  constructor(options: KernelOptions = {}) {
    this.profile = options.profile ?? findProfile(DEFAULT_PROFILE)!;
    this.trace = options.trace ?? new Trace();
    this.mock = new MockIommu(this);
    this.#parts = options.parts ?? NO_PARTS;
    // Each device has a group of its own, of its own number.
    this.deviceFiles = this.#parts.devices.flatMap((_, n) => [
      `/dev/vfio/devices/vfio${n}`,
      `/dev/vfio/${n}`,
    ]);
    this.#shared = {
      kernel: this,
      locked: this.locked,
      profile: this.profile,
      uapis: new Set(options.uapis),
      selftest: (options.mock ?? true) ? new Selftest(this.mock) : null,
    };
  }

  get version(): number {
    return this.profile.version;
  }

  get current(): Task {
    return this.#current!;
  }

  set current(task: Task) {
    this.#current = task;
  }

  /** Linux's fault injection, where the calling thread armed it: the nth chance to fail is taken. */
  failpoint(): boolean {
    const nth = this.#current?.failNth;
    if (nth === undefined || nth.remaining === 0) return false;
    nth.remaining--;
    return nth.remaining === 0;
  }

  /** Opens a device file: /dev/iommu, or /dev/vfio/vfio, which is the same with VFIO's accounting. */
  open(path: string, task: Task): Result<OpenFile> {
    this.#current = task;
    switch (path) {
      case '/dev/iommu':
        return new IommufdContext(this.#shared);
      case '/dev/vfio/vfio': {
        const context = new IommufdContext(this.#shared);
        context.accountMode = ACCOUNT_MM;
        return context;
      }
      default: {
        const [, device, number] = VFIO_FILE.exec(path) ?? [];
        if (number === undefined || !this.deviceFiles.includes(path))
          return fail(ENOENT, `there is no ${path}`);
        const vfio = this.#broughtUp();
        if (failed(vfio)) return vfio;
        const n = Number.parseInt(number, 10);
        return device === undefined ? vfio.openGroup(n) : vfio.openDevice(n);
      }
    }
  }

  /** What sysfs shows of the devices: nothing where the machine cannot be brought up. */
  functions(): readonly PciFunctionView[] {
    const vfio = this.#parts.devices.length === 0 ? null : this.#broughtUp();
    return vfio === null || failed(vfio) ? [] : vfio.devices.map((state, index) => viewOf(state, index));
  }

  /**
   * Brings the IOMMUs and devices up. That happens by itself when a program first wants a device, as most never do;
   * who wants to know whether the machine can be as it was described does it before. Fails where a driver refuses.
   */
  bringUp(): Result<void> {
    const vfio = this.#broughtUp();
    if (failed(vfio)) return vfio;
  }

  #broughtUp(): Result<VfioRegistry> {
    if (this.#vfio !== null) return this.#vfio;
    // What the kernel did when it booted is no request of the program that happens to be first.
    const current = this.#current;
    this.#current = null;
    const devices = buildDevices(this, this.#parts, 0, this.#shared.uapis);
    this.#current = current;
    if (failed(devices)) return devices;
    this.#vfio = new VfioRegistry(this, devices);
    return this.#vfio;
  }
}
