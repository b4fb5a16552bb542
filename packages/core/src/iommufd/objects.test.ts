import { describe, expect, test } from 'vitest';
import { InvariantError } from '../base/assert.ts';
import { failed, type Result } from '../base/result.ts';
import { EBUSY, ENOENT, ENOMEM } from '../abi/errno.ts';
import { fakeKernel } from '../iommu/testing/fake-devices.ts';
import { IommufdObject, ObjectTable, type ObjectType } from './objects.ts';

class Thing extends IommufdObject {
  readonly type: ObjectType;
  readonly #uses: Thing | null;
  readonly #log: string[];

  constructor(log: string[], type: ObjectType, uses: Thing | null) {
    super();
    this.type = type;
    this.#uses = uses;
    this.#log = log;
    if (uses !== null) uses.users++;
  }

  override preDestroy(): void {
    this.#log.push(`before ${this.id}`);
  }

  destroy(): void {
    this.#log.push(`destroy ${this.id}`);
    if (this.#uses !== null) this.#uses.users--;
  }
}

function setUp() {
  const { kernel, failNth } = fakeKernel();
  const table = new ObjectTable(kernel);
  const log: string[] = [];
  /** A published object. */
  const add = (type: ObjectType = 'IOAS', uses: Thing | null = null): Thing => {
    const thing = new Thing(log, type, uses);
    table.allocate(thing);
    table.publish(thing);
    return thing;
  };
  return { kernel, failNth, table, log, add };
}

const errnoOf = (result: Result<unknown>): number | null => (failed(result) ? result.errno : null);

describe('an id', () => {
  test('is the lowest free number from 1 on', () => {
    const { add, table } = setUp();
    expect([add().id, add().id, add().id]).toEqual([1, 2, 3]);
    table.remove(2);
    table.remove(1);
    expect([add().id, add().id, add().id]).toEqual([1, 2, 4]);
  });

  test('is taken before the object is published, and cannot be looked up until then', () => {
    const { add, table, log } = setUp();
    const thing = new Thing(log, 'IOAS', null);
    table.allocate(thing);
    expect(thing.id).toBe(1);
    expect(errnoOf(table.get(1))).toBe(ENOENT);
    expect(add().id).toBe(2);
    table.publish(thing);
    expect(table.get(1)).toBe(thing);
  });

  test('of an object that is given up is free again', () => {
    const { add, table, log } = setUp();
    const thing = new Thing(log, 'IOAS', null);
    table.allocate(thing);
    table.abort(thing);
    expect(table.empty).toBe(true);
    expect(add().id).toBe(1);
  });

  test('is not taken where there is no memory for the object or for the id', () => {
    const { add, table, log, failNth } = setUp();
    for (const nth of [1, 2]) {
      failNth(nth);
      expect(errnoOf(table.allocate(new Thing(log, 'IOAS', null)))).toBe(ENOMEM);
      expect(table.empty).toBe(true);
    }
    expect(add().id).toBe(1);
  });

  test('of a tombstone stays taken', () => {
    const { add, table } = setUp();
    const thing = add();
    thing.users++;
    table.destroyUser(thing, true);
    expect(errnoOf(table.get(1))).toBe(ENOENT);
    expect([table.size, table.empty]).toEqual([0, false]);
    expect(add().id).toBe(2);
  });
});

describe('a look-up', () => {
  test('finds what is there, of any type or of those that are asked', () => {
    const { add, table } = setUp();
    const ioas = add('IOAS');
    expect(table.get(1)).toBe(ioas);
    expect(table.get(1, 'IOAS')).toBe(ioas);
    expect(table.get(1, 'DEVICE', 'IOAS')).toBe(ioas);
  });

  test('is ENOENT for nothing and for another type', () => {
    const { add, table } = setUp();
    add('IOAS');
    expect(errnoOf(table.get(1, 'DEVICE'))).toBe(ENOENT);
    expect(errnoOf(table.get(0))).toBe(ENOENT);
    expect(errnoOf(table.get(2))).toBe(ENOENT);
    expect(errnoOf(table.get(0xffff_ffff))).toBe(ENOENT);
  });

  test('may fail', () => {
    const { add, table, failNth } = setUp();
    add();
    failNth(1);
    expect(errnoOf(table.get(1))).toBe(ENOENT);
  });
});

describe('a removal', () => {
  test('destroys the object', () => {
    const { add, table, log } = setUp();
    const thing = add();
    expect(table.remove(1)).toBe(thing);
    expect(log).toEqual(['destroy 1']);
    expect(errnoOf(table.remove(1))).toBe(ENOENT);
  });

  test('is EBUSY while something uses the object', () => {
    const { add, table } = setUp();
    const used = add();
    const user = add('HWPT_PAGING', used);
    expect(errnoOf(table.remove(used.id))).toBe(EBUSY);
    table.remove(user.id);
    expect(errnoOf(table.remove(used.id))).toBe(null);
  });

  test('is EBUSY while a part of the object is in use otherwise', () => {
    const { add, table, log } = setUp();
    const thing = add();
    expect(errnoOf(table.remove(1, (each) => each === thing))).toBe(EBUSY);
    expect(log).toEqual([]);
    expect(table.get(1)).toBe(thing);
  });
});

describe('a driver that destroys its object', () => {
  test('must be the last to use it', () => {
    const { add, table, log } = setUp();
    const thing = add();
    thing.users++;
    table.destroyUser(thing);
    expect(log).toEqual(['before 1', 'destroy 1']);
    const busy = add();
    busy.users += 2;
    expect(() => table.destroyUser(busy)).toThrow(InvariantError);
  });
});

describe('an object that nobody asked for by name', () => {
  test('goes with its last user', () => {
    const { add, table, log } = setUp();
    const thing = add();
    thing.users += 2;
    table.putAndTryDestroy(thing);
    expect(log).toEqual([]);
    table.putAndTryDestroy(thing);
    expect(log).toEqual(['destroy 1']);
    expect(table.holds(thing)).toBe(false);
  });
});

describe('the end of a file', () => {
  test('destroys everything, users first', () => {
    const { add, table, log } = setUp();
    const ioas = add();
    const parent = add('HWPT_PAGING', ioas);
    add('HWPT_NESTED', parent);
    add();
    table.destroyAll();
    expect(log).toEqual(['destroy 3', 'destroy 4', 'destroy 2', 'destroy 1']);
    expect([table.size, table.empty]).toEqual([0, true]);
  });

  test('frees tombstones', () => {
    const { add, table } = setUp();
    const thing = add();
    thing.users++;
    table.destroyUser(thing, true);
    table.destroyAll();
    expect(table.empty).toBe(true);
  });

  test('is impossible where objects hold each other', () => {
    const { add, table } = setUp();
    add().users++;
    expect(() => table.destroyAll()).toThrow(InvariantError);
  });
});

describe('the trace', () => {
  test('tells of objects that are made and destroyed', () => {
    const { kernel, add, table } = setUp();
    const events: unknown[] = [];
    kernel.trace.subscribe((event) => events.push(event));
    add('IOAS');
    table.remove(1);
    expect(events).toEqual([
      { kind: 'object', id: 1, type: 'IOAS', state: 'made' },
      { kind: 'object', id: 1, type: 'IOAS', state: 'destroyed' },
    ]);
  });
});
