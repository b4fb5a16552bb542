import { failed, type Result } from '../base/result.ts';
import { big, exact, PAGE_SIZE, PAGE_SIZE_N } from '../base/u64.ts';
import { EINVAL, ENXIO, EPERM } from '../abi/errno.ts';
import type { FileBacking, OpenFile } from '../memory/file.ts';
import type { Task } from '../memory/process.ts';
import type { Device, Kernel } from '../iommu/driver.ts';
import { ACCOUNT_USER, type AccountMode, type LockedMemory } from './pages/accounting.ts';
import type { Command } from './command.ts';
import { dispatch } from './dispatch.ts';
import type { IommufdGroup } from './device/group.ts';
import type { Ioas } from './ioas/ioas.ts';
import { ObjectTable, type IommufdObject } from './objects.ts';
import type { Profile } from './profile.ts';
import type { SwMsiMap } from './device/sw-msi.ts';
import type { TrialUapi } from './trial-uapi.ts';

/** What every open /dev/iommu of a machine shares. */
export interface IommufdShared {
  readonly kernel: Kernel;
  readonly locked: LockedMemory;
  readonly profile: Profile;
  /** What is served beside Linux's uAPI. */
  readonly uapis: ReadonlySet<TrialUapi>;
  /** Serves IOMMU_TEST_CMD: the mock IOMMU and its devices. Absent where the machine has none. */
  readonly selftest: SelftestCommands | null;
}

/** drivers/iommu/iommufd/selftest.c, as the dispatcher sees it. */
export interface SelftestCommands {
  /** IOMMU_TEST_CMD. */
  execute(command: Command): Result<number>;
  /** The mock IOMMU's hook on IOMMU_IOAS_COPY: an IOVA given as the nth area and an offset. */
  convertIova(context: IommufdContext, ioasId: number, iova: bigint): bigint;
}

/** A part of physical memory that mmap(2) of the iommufd shows: struct iommufd_mmap. */
export interface MmapRegion {
  readonly owner: IommufdObject;
  readonly offset: bigint;
  readonly length: bigint;
  /** Physical address. */
  readonly pa: number;
}

const PROT_EXEC = 4;

/** One open of /dev/iommu: struct iommufd_ctx. */
export class IommufdContext implements OpenFile {
  readonly type = 'iommufd';
  readonly shared: IommufdShared;
  readonly kernel: Kernel;
  readonly objects: ObjectTable;
  readonly groups = new Map<number, IommufdGroup>();
  /** Pages of interrupt controllers that devices write messages to. */
  readonly swMsi: SwMsiMap[] = [];
  accountMode: AccountMode = ACCOUNT_USER;
  /** The IOAS that the VFIO container's requests go to. */
  vfioIoas: Ioas | null = null;
  /** Devices of the groups whose container this is, open or not. */
  readonly containerDevices = new Set<Device>();
  noIommuMode = false;
  backing: FileBacking | undefined;
  readonly #regions: MmapRegion[] = [];
  #references = 1;

  constructor(shared: IommufdShared) {
    this.shared = shared;
    this.kernel = shared.kernel;
    this.objects = new ObjectTable(shared.kernel);
  }

  ioctl(task: Task, cmd: number, arg: bigint): number {
    this.kernel.current = task;
    const answer = dispatch(this, task, cmd, arg);
    return failed(answer) ? -answer.errno : answer;
  }

  /** iommufd_ctx_get(): an access, a queue or a device keeps the context past the file's close. */
  get(): void {
    this.#references++;
  }

  /** iommufd_ctx_put(): the last one destroys every object. */
  put(): void {
    if (--this.#references === 0) this.objects.destroyAll();
  }

  release(): void {
    this.put();
  }

  // ---- mmap ----

  /** _iommufd_alloc_mmap(): the lowest free offset from one page on. */
  allocMmap(owner: IommufdObject, pa: number, length: number): bigint {
    const size = BigInt(length);
    let offset = PAGE_SIZE_N;
    let at = 0;
    for (; at < this.#regions.length; at++) {
      const region = this.#regions[at]!;
      if (region.offset - offset >= size) break;
      offset = region.offset + region.length;
    }
    this.#regions.splice(at, 0, { owner, offset, length: size, pa });
    return offset;
  }

  destroyMmap(offset: bigint): void {
    const at = this.#regions.findIndex((region) => region.offset === offset);
    if (at < 0) return;
    const [region] = this.#regions.splice(at, 1);
    this.kernel.physical.unshare(region!.pa);
  }

  /** iommufd_fops_mmap(): exactly one region, shared and not executable. */
  mmap(_task: Task, offset: bigint, length: bigint, prot: number): number {
    if (length % PAGE_SIZE_N !== 0n) return -EINVAL;
    if ((prot & PROT_EXEC) !== 0) return -EPERM;
    const region = this.#regions.find((each) => each.offset === offset && each.length === length);
    if (region === undefined) return -ENXIO;
    const { backing } = this;
    if (backing !== undefined)
      this.kernel.physical.share(region.pa, exact(length) / PAGE_SIZE, {
        read: (at, into) => backing.read(offset + big(at), into),
        write: (at, from) => backing.write(offset + big(at), from),
      });
    return 0;
  }

  /** True while a program has a part of the object mapped, which keeps it from being destroyed. */
  mapped(owner: IommufdObject): boolean {
    return this.#regions.some(
      (each) => each.owner === owner && (this.backing?.mapped(each.offset, each.length) ?? false),
    );
  }
}
