import { existsSync, readdirSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Harness } from '../testing/harness.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await Harness.create();
});
afterAll(() => harness.remove());

const shell = (script: string): readonly string[] =>
  harness.lines(['-c', script], { program: '/bin/sh', as: [] });

const DEVICE = '/sys/bus/pci/devices/0000:7a:00.0';

describe('a function of the machine', () => {
  test('has the attributes of pci-sysfs.c', () => {
    expect(shell(`cd /; cat ${DEVICE}/vendor ${DEVICE}/device ${DEVICE}/class ${DEVICE}/resource`)).toEqual([
      '0x8086',
      '0x10c9',
      '0x020000',
      '0x00000000f0000000 0x00000000f0003fff 0x0000000000040200',
    ]);
    expect(
      shell(`cat ${DEVICE}/modalias; wc -c < ${DEVICE}/config; stat -c '%F %s %A' ${DEVICE}/vendor`),
    ).toEqual([
      'pci:v00008086d000010C9sv00000000sd00000000bc02sc00i00',
      '256',
      'regular file 4096 -r--r--r--',
    ]);
  });

  test('is found by every way that leads to it, and its links lead back', () => {
    const place = '/sys/devices/pci0000:79/0000:79:1e.0/0000:7a:00.0';
    const script = [
      `readlink ${DEVICE}`,
      `readlink -f ${DEVICE}/vfio-dev/vfio0/device`,
      'readlink -f /sys/class/vfio-dev/vfio0',
      'readlink -f /sys/dev/char/511:0',
      `readlink -f ${DEVICE}/iommu_group`,
      'readlink -f /sys/kernel/iommu_groups/0/devices/*',
      'readlink -f /sys/class/iommu/stub-iommu0/devices/*',
      `basename "$(readlink ${DEVICE}/driver)"`,
    ];
    expect(shell(script.join('; '))).toEqual([
      '../../../devices/pci0000:79/0000:79:1e.0/0000:7a:00.0',
      place,
      `${place}/vfio-dev/vfio0`,
      `${place}/vfio-dev/vfio0`,
      '/sys/kernel/iommu_groups/0',
      place,
      place,
      'vfio-pci',
    ]);
  });

  test('tells the numbers that stat(2) says of its device file', () => {
    const [number, device] = shell(
      `cat ${DEVICE}/vfio-dev/vfio0/dev; stat -c '%F %Hr:%Lr' /dev/vfio/devices/vfio0`,
    );
    expect(device).toBe(`character special file ${number}`);
  });

  test('takes a driver_override, and refuses what cannot be written', () => {
    const script = `cat ${DEVICE}/driver_override; echo other > ${DEVICE}/driver_override; cat ${DEVICE}/driver_override`;
    expect(shell(script)).toEqual(['vfio-pci', 'other']);
    expect(shell(`(echo 1 > ${DEVICE}/vendor) 2>/dev/null || echo refused; cat ${DEVICE}/vendor`)).toEqual([
      'refused',
      '0x8086',
    ]);
  });

  test('what is not there is ENOENT', () => {
    const script = `cat ${DEVICE}/nothing 2>&1; test -e ${DEVICE}/subsystem/devices/0000:7a:00.1 || echo none`;
    expect(shell(script)[0]).toMatch(/No such file/);
    expect(shell(script)[1]).toBe('none');
  });
});

describe('a listing', () => {
  test('of a directory of the system has what the system has too', () => {
    const listed = shell('ls /sys/bus/pci/devices');
    const system = existsSync('/sys/bus/pci/devices') ? readdirSync('/sys/bus/pci/devices') : [];
    expect([...listed].sort()).toEqual([...system, '0000:7a:00.0'].sort());
    for (const name of system.slice(0, 1))
      expect(
        shell(`cat /sys/bus/pci/devices/${name}/vendor; cd /sys/bus/pci/devices/${name} && pwd -P`),
      ).toHaveLength(2);
  });

  test('of /dev/vfio names the container, the groups and the devices', () => {
    expect(shell('ls /dev/vfio; ls /dev/vfio/devices')).toEqual(['0', 'devices', 'vfio', 'vfio0']);
  });

  test('can be walked from its descriptor', () => {
    const found = shell(`find ${DEVICE}/ -name dev; find ${DEVICE}/vfio-dev -type d`);
    expect(found).toEqual([`${DEVICE}/vfio-dev/vfio0/dev`, `${DEVICE}/vfio-dev`, `${DEVICE}/vfio-dev/vfio0`]);
  });

  test('of reserved regions says what the IOMMU keeps', () => {
    expect(shell('cat /sys/kernel/iommu_groups/0/reserved_regions')).toEqual([
      '0x0000000008000000 0x00000000080fffff msi',
    ]);
  });
});

test('nothing of the tree is left when the program has ended', () => {
  shell('ls /sys/bus/pci/devices');
  // Other supervisors may run beside this test; what is left behind belongs to nobody.
  const owners = readdirSync('/dev/shm').flatMap((name) => /^viommu-sysfs-\d+-(\d+)-/.exec(name)?.[1] ?? []);
  expect(owners.filter((pid) => !existsSync(`/proc/${pid}`))).toEqual([]);
});
