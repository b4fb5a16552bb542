import { assert } from '../base/assert.ts';
import { LowestFree } from '../base/lowest-free.ts';
import { fail, type Result } from '../base/result.ts';
import { EBUSY, ENOENT, ENOMEM } from '../abi/errno.ts';
import type { Kernel } from '../iommu/driver.ts';

// drivers/iommu/iommufd/main.c: the objects of one iommufd, named by ids. Ids are the lowest free number from 1 on. An
// object counts its users; only one that nobody uses can be destroyed. References that Linux takes for the length of a
// call are not counted here: calls are served one after another.

export type ObjectType =
  | 'DEVICE'
  | 'HWPT_PAGING'
  | 'HWPT_NESTED'
  | 'IOAS'
  | 'ACCESS'
  | 'FAULT'
  | 'VIOMMU'
  | 'VDEVICE'
  | 'VEVENTQ'
  | 'HW_QUEUE'
  | 'SELFTEST';

/** struct iommufd_object. */
export abstract class IommufdObject {
  abstract readonly type: ObjectType;
  /** 0 until the table has given it one. */
  id = 0;
  /** The table itself is one user. */
  users = 1;

  /** Frees what the object holds. Called once, when it leaves the table or is given up before it was published. */
  abstract destroy(): void;

  /** Runs before a destruction that waits for outstanding users of the object itself. */
  preDestroy(): void {}
}

/** The id table: Linux's ictx->objects. */
export class ObjectTable {
  readonly #kernel: Kernel;
  readonly #objects = new Map<number, IommufdObject>();
  /** Ids that are taken without a published object: being made, or tombstones. */
  readonly #reserved = new Set<number>();
  readonly #ids = new LowestFree(1);

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
  }

  /** Published objects. */
  get size(): number {
    return this.#objects.size;
  }

  /** True where no id is taken: not even by an object being made or a tombstone (xa_empty()). */
  get empty(): boolean {
    return this.#objects.size === 0 && this.#reserved.size === 0;
  }

  /** The published objects by ascending id. */
  ascending(): IommufdObject[] {
    return [...this.#objects.values()].toSorted((a, b) => a.id - b.id);
  }

  /** Gives `object` an id without publishing it: _iommufd_object_alloc(). */
  allocate<T extends IommufdObject>(object: T): Result<T> {
    if (this.#kernel.failpoint()) return fail(ENOMEM, `no memory for an object of type ${object.type}`);
    if (this.#kernel.failpoint()) return fail(ENOMEM, 'no memory for an object id');
    object.id = this.#ids.take();
    this.#reserved.add(object.id);
    return object;
  }

  /** Lets programs find the object: iommufd_object_finalize(). */
  publish(object: IommufdObject): void {
    assert(this.#reserved.delete(object.id), 'an object is published once');
    this.#objects.set(object.id, object);
    if (this.#kernel.trace.active)
      this.#kernel.trace.emit({ kind: 'object', id: object.id, type: object.type, state: 'made' });
  }

  /** Gives up an object that was not published: iommufd_object_abort(). */
  abort(object: IommufdObject): void {
    assert(this.#reserved.delete(object.id), 'only an unpublished object is aborted');
    this.#ids.give(object.id);
  }

  /** The published object `id`, if it is of one of `types`: iommufd_get_object(). */
  get<T extends IommufdObject>(id: number, ...types: readonly ObjectType[]): Result<T> {
    if (this.#kernel.failpoint()) return fail(ENOENT, `object ${id} could not be looked up`);
    const object = this.#objects.get(id);
    if (object === undefined) return fail(ENOENT, `there is no object ${id}`);
    if (types.length > 0 && !types.includes(object.type))
      return fail(ENOENT, `object ${id} is of type ${object.type}, not ${types.join(' or ')}`);
    return object as T;
  }

  /** True where `object` is what its id names. */
  holds(object: IommufdObject): boolean {
    return this.#objects.get(object.id) === object;
  }

  /** Removes and destroys object `id` where nobody uses it, nor `inUse` knows of a use: EBUSY otherwise. */
  remove(id: number, inUse: (object: IommufdObject) => boolean = () => false): Result<IommufdObject> {
    const object = this.#objects.get(id);
    if (object === undefined) return fail(ENOENT, `there is no object ${id}`);
    if (object.users !== 1)
      return fail(EBUSY, `object ${id} (${object.type}) is in use by ${object.users - 1} others`);
    if (inUse(object)) return fail(EBUSY, `a part of object ${id} is mapped by a program`);
    this.#destroy(object, false);
    return object;
  }

  /** iommufd_object_destroy_user(): drops the caller's reference and destroys. Nobody else may use the object. */
  destroyUser(object: IommufdObject, tombstone = false): void {
    object.preDestroy();
    object.users--;
    assert(object.users === 1, `object ${object.id} (${object.type}) is still in use`);
    this.#destroy(object, tombstone);
  }

  /** iommufd_object_put_and_try_destroy(): for domains that nobody asked for by name. */
  putAndTryDestroy(object: IommufdObject): void {
    object.users--;
    if (object.users === 1) this.#destroy(object, false);
  }

  /** iommufd_fops_release(): destroys everything, users first. */
  destroyAll(): void {
    while (this.#objects.size > 0) {
      let destroyed = 0;
      for (const object of this.ascending()) {
        if (object.users !== 1 || !this.holds(object)) continue;
        this.#destroy(object, false);
        destroyed++;
      }
      assert(destroyed > 0, 'the objects of a closed file hold each other');
    }
    for (const id of this.#reserved) this.#ids.give(id);
    this.#reserved.clear();
  }

  #destroy(object: IommufdObject, tombstone: boolean): void {
    object.users = 0;
    this.#objects.delete(object.id);
    if (this.#kernel.trace.active)
      this.#kernel.trace.emit({ kind: 'object', id: object.id, type: object.type, state: 'destroyed' });
    if (tombstone) this.#reserved.add(object.id);
    else this.#ids.give(object.id);
    object.destroy();
  }
}
