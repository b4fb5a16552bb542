import { EBUSY, EMFILE, ENOENT, must } from './errno.ts';
import type { Domain } from './domain.ts';
import type { Iopt, IoptAccess } from './iopt.ts';
import { Frames, Memory, type ModelFile } from './memory.ts';
import type { DmaBuf } from './pages.ts';

// drivers/iommu/iommufd/main.c: the objects of a context, their ids and their users; and the machine around it.

interface Base {
  id: number;
  /** One is the context's own. */
  users: number;
}

export interface Ioas extends Base {
  readonly type: 'ioas';
  readonly iopt: Iopt;
  /** hwpt_list. */
  readonly hwpts: PagingHwpt[];
}

export interface PagingHwpt extends Base {
  readonly type: 'hwpt-paging';
  readonly ioas: Ioas;
  readonly domain: Domain;
  readonly nestParent: boolean;
  readonly pasidCompat: boolean;
  auto: boolean;
  fault: FaultQueue | null;
}

export interface NestedHwpt extends Base {
  readonly type: 'hwpt-nested';
  readonly parent: PagingHwpt;
  readonly viommu: Viommu | null;
  readonly pasidCompat: boolean;
  fault: FaultQueue | null;
  readonly iotlb: number[];
}

export type Hwpt = PagingHwpt | NestedHwpt;

/** struct mock_dev and its iommu_group, which has no other device. */
export interface MockDevice {
  readonly noDirty: boolean;
  /** dev->iommu->max_pasids: 1 for a device that has no PASIDs. */
  readonly maxPasids: number;
  readonly cache: number[];
  viommu: Viommu | null;
  vdevId: bigint;
  /** pasid_1024_fake_error. */
  fakeError: boolean;
}

/** iommufd_device and its group; attached are the PASIDs, 0 is the device itself. */
export interface Device extends Base {
  readonly type: 'device';
  readonly mock: MockDevice;
  readonly attached: Map<number, Attachment>;
  vdevice: Vdevice | null;
}

/** struct iommufd_attach_handle. */
export interface Attachment {
  readonly device: Device;
  readonly hwpt: Hwpt;
}

export interface Selftest extends Base {
  readonly type: 'selftest';
  readonly device: Device;
}

export interface Access extends Base, IoptAccess {
  readonly type: 'access';
  readonly context: Context;
  ioas: Ioas | null;
}

/** What a descriptor of an access has: struct selftest_access. */
export interface AccessFile {
  readonly kind: 'access';
  readonly access: Access;
  items: { id: number; iova: bigint; length: bigint }[];
  nextId: number;
}

/** struct iopf_group with the one fault that the mock IOMMU reports. */
export interface Fault {
  readonly attachment: Attachment;
  readonly flags: number;
  readonly pasid: number;
  readonly grpid: number;
  readonly perm: number;
  readonly addr: bigint;
}

export interface FaultQueue extends Base {
  readonly type: 'fault';
  readonly kind: 'fault';
  readonly context: Context;
  deliver: Fault[];
  readonly responses: Map<number, Fault>;
}

export interface Viommu extends Base {
  readonly type: 'viommu';
  readonly hwpt: PagingHwpt;
  readonly vdevices: Map<bigint, Vdevice>;
  readonly veventqs: Veventq[];
  readonly queues: (HwQueue | null)[];
  /** Where its pages can be mapped, 0 where it has none. */
  mmapOffset: bigint;
}

export interface Vdevice extends Base {
  readonly type: 'vdevice';
  readonly viommu: Viommu;
  readonly device: Device;
  readonly virtId: bigint;
}

export interface Veventq extends Base {
  readonly type: 'veventq';
  readonly kind: 'veventq';
  readonly context: Context;
  readonly viommu: Viommu;
  readonly eventType: number;
  readonly depth: number;
  sequence: number;
  /** Events, and at most at the end the header that says some were lost. */
  deliver: { sequence: number; data: Uint8Array | null }[];
}

export interface HwQueue extends Base {
  readonly type: 'hw-queue';
  readonly viommu: Viommu;
  readonly access: Access;
  readonly base: bigint;
  /** The pages it lies in. */
  readonly first: bigint;
  readonly last: bigint;
  readonly previous: HwQueue | null;
}

export type Obj =
  | Ioas
  | PagingHwpt
  | NestedHwpt
  | Device
  | Selftest
  | Access
  | FaultQueue
  | Viommu
  | Vdevice
  | Veventq
  | HwQueue;

type OfType<T extends Obj['type']> = Extract<Obj, { type: T }>;

/** Stands where an object's id stays taken after it went. */
const TOMBSTONE = 'tombstone';

/** struct iommufd_ctx. */
export class Context {
  readonly kind = 'iommufd';
  readonly machine: Machine;
  /** References: its descriptor, those of its queues and accesses. */
  files = 1;
  readonly #objects = new Map<number, Obj | typeof TOMBSTONE>();
  vfioIoas: Ioas | null = null;
  accountMm = false;
  /** Start and length of what can be mapped. */
  readonly mmaps = new Map<bigint, bigint>();

  constructor(machine: Machine) {
    this.machine = machine;
  }

  /** Any id is taken, be it by a tombstone. */
  get empty(): boolean {
    return this.#objects.size === 0;
  }

  get objects(): Obj[] {
    const live: Obj[] = [];
    for (const object of this.#objects.values()) if (object !== TOMBSTONE) live.push(object);
    return live.sort((a, b) => a.id - b.id);
  }

  /** The lowest free id. */
  alloc(): number {
    let id = 1;
    while (this.#objects.has(id)) id++;
    return id;
  }

  /** Takes an id for `object` and makes it findable. */
  add<T extends Obj>(object: T): T {
    object.id = this.alloc();
    this.#objects.set(object.id, object);
    return object;
  }

  /** Takes an id for an object that cannot be found before {@link publish}. */
  reserve(): number {
    const id = this.alloc();
    this.#objects.set(id, TOMBSTONE);
    return id;
  }

  publish<T extends Obj>(object: T): T {
    this.#objects.set(object.id, object);
    return object;
  }

  /** Gives an id back that was reserved. */
  free(id: number): void {
    this.#objects.delete(id);
  }

  /** Runs `action` while the id that comes next is taken. */
  withId<T>(action: () => T): T {
    const id = this.reserve();
    try {
      return action();
    } finally {
      this.free(id);
    }
  }

  find(id: number): Obj {
    const object = this.#objects.get(id);
    must(object !== undefined && object !== TOMBSTONE, ENOENT);
    return object;
  }

  get<T extends Obj['type']>(id: number, type: T): OfType<T> {
    const object = this.find(id);
    must(object.type === type, ENOENT);
    return object as OfType<T>;
  }

  /** iommufd_object_remove(): EBUSY unless the context is the only user. */
  remove(object: Obj, tombstone = false): void {
    must(object.users === 1, EBUSY);
    if (tombstone) this.#objects.set(object.id, TOMBSTONE);
    else this.#objects.delete(object.id);
    if (this.vfioIoas === object) this.vfioIoas = null;
  }

  /** The last descriptor went: nothing of it is left. */
  release(): void {
    if (--this.files > 0) return;
    for (const object of this.objects) {
      if (object.type !== 'ioas') continue;
      for (const area of object.iopt.areas) {
        area.pages.areas.clear();
        area.pages.accesses.length = 0;
        area.pages.pinned.clear();
      }
    }
    this.machine.contexts.delete(this);
  }
}

export type ModelDescriptor =
  Context | ModelFile | DmaBuf | AccessFile | FaultQueue | Veventq | { readonly kind: 'foreign' };

/** One program and what it has open. */
export class Machine {
  readonly frames = new Frames();
  readonly memory = new Memory(this.frames);
  readonly contexts = new Set<Context>();
  readonly descriptors = new Map<number, ModelDescriptor>();
  readonly descriptorsMax = 1024;

  lowestFree(): number {
    let fd = 0;
    while (this.descriptors.has(fd)) fd++;
    must(fd < this.descriptorsMax, EMFILE);
    return fd;
  }

  open(file: ModelDescriptor): number {
    const fd = this.lowestFree();
    this.descriptors.set(fd, file);
    return fd;
  }
}
