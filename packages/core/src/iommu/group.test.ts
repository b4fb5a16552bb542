import { describe, expect, test } from 'vitest';
import { failed, type Result } from '../base/result.ts';
import { EBUSY, EINVAL, ENOMEM, EOPNOTSUPP, EPERM } from '../abi/errno.ts';
import type { AttachHandle } from './driver.ts';
import { FakeDriver, fakeGroup, fakeKernel, type FakeDomain } from './testing/fake-devices.ts';

const OWNER = {};
const OTHER_OWNER = {};

function setUp(pasids: Readonly<Record<string, number>> = { a: 16, b: 0, c: 16 }) {
  const { kernel, failNth } = fakeKernel();
  const driver = new FakeDriver();
  const group = fakeGroup(kernel, driver, pasids);
  const [x, y] = [driver.domain('x'), driver.domain('y')];
  const handle = (): AttachHandle => ({ domain: driver.blockedDomain });
  /** What the devices were told since the last time. */
  const log = (): string[] => driver.log.splice(0);
  return { kernel, failNth, driver, group, x, y, handle, log };
}

function errnoOf(result: Result<unknown>): number | null {
  return failed(result) ? result.errno : null;
}

describe('the owner of a group', () => {
  test('has all its devices blocked', () => {
    const { group, driver, log } = setUp();
    expect(errnoOf(group.claim(OWNER))).toBe(null);
    expect(log()).toEqual(['a - > blocked', 'b - > blocked', 'c - > blocked']);
    expect(group.domain).toBe(driver.blockedDomain);
  });

  test('may own it several times, and releases it as often', () => {
    const { group } = setUp();
    group.claim(OWNER);
    expect(errnoOf(group.claim(OWNER))).toBe(null);
    group.release();
    expect(errnoOf(group.claim(OTHER_OWNER))).toBe(EPERM);
    group.release();
    expect(errnoOf(group.claim(OTHER_OWNER))).toBe(null);
  });

  test('shares it with nobody: EPERM', () => {
    const { group } = setUp();
    group.claim(OWNER);
    expect(errnoOf(group.claim(OTHER_OWNER))).toBe(EPERM);
    expect(group.ownerCount).toBe(1);
  });

  test('does not become one where memory runs out', () => {
    const { group, failNth } = setUp();
    failNth(1);
    expect(errnoOf(group.claim(OWNER))).toBe(ENOMEM);
    expect([group.owner, group.ownerCount]).toEqual([null, 0]);
  });
});

describe('a domain', () => {
  test('is attached to all devices of the group', () => {
    const { group, x, handle, log } = setUp();
    group.claim(OWNER);
    log();
    const attached = handle();
    expect(errnoOf(group.attach(x, attached))).toBe(null);
    expect(log()).toEqual(['a blocked > x', 'b blocked > x', 'c blocked > x']);
    expect(attached.domain).toBe(x);
    expect(group.handle(0)).toBe(attached);
  });

  test('that one device refuses is attached to none', () => {
    const { group, driver, x, handle, log } = setUp();
    group.claim(OWNER);
    log();
    x.refused.add('c');
    expect(errnoOf(group.attach(x, handle()))).toBe(EINVAL);
    expect(log().slice(2)).toEqual(['a x > blocked', 'b x > blocked']);
    expect([group.domain, group.handle(0)]).toEqual([driver.blockedDomain, null]);
  });

  test('cannot be attached to a group that has one', () => {
    const { group, x, y, handle } = setUp();
    group.attach(x, handle());
    expect(errnoOf(group.attach(y, handle()))).toBe(EBUSY);
  });

  test('of another driver cannot be attached, replaced or set', () => {
    const { group, x, handle } = setUp();
    const foreign = new FakeDriver().domain('foreign');
    expect(errnoOf(group.attach(foreign, handle()))).toBe(EINVAL);
    group.attach(x, handle());
    expect(errnoOf(group.replace(foreign, handle()))).toBe(EINVAL);
    expect(errnoOf(group.attachPasid(foreign, group.devices[0]!, 1, handle()))).toBe(EINVAL);
  });

  test('is replaced without a gap, and the old one stays where that fails', () => {
    const { group, x, y, handle, log } = setUp();
    group.attach(x, handle());
    log();
    const replaced = handle();
    expect(errnoOf(group.replace(y, replaced))).toBe(null);
    expect(log()).toEqual(['a x > y', 'b x > y', 'c x > y']);
    expect(group.handle(0)).toBe(replaced);
    x.refused.add('b');
    expect(errnoOf(group.replace(x, handle()))).toBe(EINVAL);
    expect(log()).toEqual(['a y > x', 'a x > y']);
    expect([group.domain, group.handle(0)]).toEqual([y, replaced]);
  });

  test('gives way to the blocking one when it is detached', () => {
    const { group, driver, x, handle, log } = setUp();
    group.attach(x, handle());
    log();
    group.detach();
    expect(log()).toEqual(['a x > blocked', 'b x > blocked', 'c x > blocked']);
    expect([group.domain, group.handle(0)]).toEqual([driver.blockedDomain, null]);
  });

  test('is found by its type where one is asked', () => {
    const { group, driver, handle } = setUp();
    const nested = driver.domain('n', 'nested');
    group.attach(nested, handle());
    expect(group.handle(0, 'nested')?.domain).toBe(nested);
    expect(group.handle(0, 'paging')).toBe(null);
  });
});

describe('a domain at a PASID', () => {
  const attached = (): ReturnType<typeof setUp> & { device: FakeDevice } => {
    const all = setUp();
    all.group.attach(all.x, all.handle());
    all.log();
    return { ...all, device: all.group.devices[0]! };
  };
  type FakeDevice = ReturnType<typeof setUp>['group']['devices'][number];

  test('is set at the devices that have PASIDs', () => {
    const { group, device, y, handle, log } = attached();
    expect(errnoOf(group.attachPasid(y, device, 5, handle()))).toBe(null);
    expect(log()).toEqual(['a/5 - > y', 'c/5 - > y']);
    expect(group.handle(5)?.domain).toBe(y);
  });

  test('that one device refuses is set at none', () => {
    const { group, device, y, handle, log } = attached();
    y.refused.add('c');
    expect(errnoOf(group.attachPasid(y, device, 5, handle()))).toBe(EINVAL);
    expect(log()).toEqual(['a/5 - > y', 'a/5 y > blocked']);
    expect(group.handle(5)).toBe(null);
  });

  test('is set once: EBUSY, without asking a device', () => {
    const { group, device, x, y, handle, log } = attached();
    group.attachPasid(y, device, 5, handle());
    log();
    expect(errnoOf(group.attachPasid(x, device, 5, handle()))).toBe(EBUSY);
    expect(log()).toEqual([]);
  });

  test('is refused beyond the PASIDs of any device, and at PASID 0', () => {
    const { group, device, y, handle } = attached();
    expect(errnoOf(group.attachPasid(y, device, 15, handle()))).toBe(null);
    expect(errnoOf(group.attachPasid(y, device, 16, handle()))).toBe(EINVAL);
    expect(errnoOf(group.attachPasid(y, device, 0, handle()))).toBe(EINVAL);
  });

  test('is not supported where the domain or the blocking domain cannot', () => {
    const { group, device, driver, y, handle } = attached();
    Object.assign(y, { setDevicePasid: undefined });
    expect(errnoOf(group.attachPasid(y, device, 5, handle()))).toBe(EOPNOTSUPP);
    Object.assign(driver.blockedDomain, { setDevicePasid: undefined });
    expect(errnoOf(group.attachPasid(driver.domain('z'), device, 5, handle()))).toBe(EOPNOTSUPP);
  });

  test('is replaced, and the old one stays where that fails', () => {
    const { group, device, driver, y, handle, log } = attached();
    const first = handle();
    group.attachPasid(y, device, 5, first);
    log();
    const z: FakeDomain = driver.domain('z');
    z.refused.add('c');
    expect(errnoOf(group.replacePasid(z, device, 5, handle()))).toBe(EINVAL);
    expect(log()).toEqual(['a/5 y > z', 'a/5 z > y']);
    expect(group.handle(5)).toBe(first);
    z.refused.clear();
    expect(errnoOf(group.replacePasid(z, device, 5, handle()))).toBe(null);
    expect(log()).toEqual(['a/5 y > z', 'c/5 y > z']);
    expect(group.handle(5)?.domain).toBe(z);
  });

  test('is not set again by itself, but its handle is the new one', () => {
    const { group, device, y, handle, log } = attached();
    group.attachPasid(y, device, 5, handle());
    log();
    const second = handle();
    expect(errnoOf(group.replacePasid(y, device, 5, second))).toBe(null);
    expect(log()).toEqual([]);
    expect(group.handle(5)).toBe(second);
  });

  test('cannot be replaced where there is none', () => {
    const { group, device, y, handle } = attached();
    expect(errnoOf(group.replacePasid(y, device, 5, handle()))).toBe(EINVAL);
  });

  test('is blocked when it is detached', () => {
    const { group, device, y, handle, log } = attached();
    group.attachPasid(y, device, 5, handle());
    log();
    group.detachPasid(y, 5);
    expect(log()).toEqual(['a/5 y > blocked', 'c/5 y > blocked']);
    expect(group.handle(5)).toBe(null);
  });
});
