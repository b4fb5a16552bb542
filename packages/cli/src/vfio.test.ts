import type { SpawnSyncReturns } from 'node:child_process';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Command } from './testing/command.ts';

// Programs that use devices by VFIO, and what goes wrong in them: errors for the program, and nothing for viommu.

const MACHINE = `
mock: false
iommus:
  - { name: smmu0, type: arm-smmu-v3 }
devices:
  - { name: '0000:0a:00.0', iommu: smmu0, model: dma-engine }
  - { name: '0000:0b:00.0', iommu: smmu0, model: igb-loopback }
  - { name: '0000:0c:00.0', iommu: smmu0, model: nvme, disk: { bytes: 0x100000 } }
`;

let command: Command;
let client: string;
let machine: string;

beforeAll(async () => {
  command = await Command.create();
  client = command.compile('vfio-client.c');
  machine = command.machine(MACHINE);
});
afterAll(() => command.remove());

function run(...program: string[]): SpawnSyncReturns<string> {
  return command.run(['run', '--machine', machine, '--', ...program]);
}

function scene(name: string): string[] {
  const { status, signal, stdout, stderr } = run(client, name);
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' });
  return stdout.split('\n').slice(0, -1);
}

describe('a program with a device', () => {
  test('copies by DMA, and gets an interrupt; what is not mapped is an error of the device', () => {
    expect(scene('copy')).toEqual(['status 1', 'copied 1', 'interrupts 1', 'unmapped 2']);
  });

  test('may access registers with any size at any place', () => {
    expect(scene('sizes')).toEqual([
      'sizes 400',
      'whole 16384',
      'end 4 -22',
      'vector 12 12',
      'nowhere -22',
      'config 4096 -14',
      'buffer -14 -14',
      'linux 2 1209',
      'mmap 22',
    ]);
  });

  test('may close or fill the eventfd of an interrupt, and name a descriptor that is none', () => {
    expect(scene('eventfds')).toEqual(['pipe -22 closed -9', 'full 1', 'closed 1', 'away 0', 'none 1']);
  });

  test('may unmask the pin by another eventfd once it has closed the first', () => {
    expect(scene('unmask')).toEqual(['first 0', 'open -16', 'closed 0', 'again -16']);
  });

  test('may reset it at any time', () => {
    expect(scene('reset')).toEqual(['reset 0', 'registers 0', 'copy 1', 'again 1']);
  });

  test('shares it with its children, and with descriptors of other numbers', () => {
    expect(scene('shared')).toEqual(['child 0', 'parent 1']);
  });

  test('sees the same memory of a BAR mapped and by loads and stores', () => {
    expect(scene('mapped')).toEqual([
      'load 12340000',
      'private 22',
      'long 22',
      'mapped 56780000',
      'child 9abc0000',
      'kept 9abc0000',
    ]);
  });

  test('gets SIGBUS from a mapped BAR while memory space is off, and finds it as it was afterwards', () => {
    const off = ['off SIGBUS', 'load 5', 'mapped SIGBUS'];
    expect(scene('memory-off')).toEqual([...off, 'on 12340000', 'load 56780000']);
  });

  test('may tell KVM of a device or a group, which KVM itself would refuse', () => {
    expect(scene('kvm')).toEqual(['device 0 0', 'group 0 0', 'other 25 25 25']);
  });

  test('is asked to give it back when it is removed', () => {
    expect(scene('removed')).toEqual(['shell 0', 'asked 1', 'copy 1', 'open 19', 'again 19']);
  });

  test('may be killed in the middle of it, and the next one gets the device', () => {
    expect(scene('killed')).toEqual(['opened']);
    expect(run(client, 'die').signal).toBe('SIGKILL');
  });
});

test('sysfs shows the devices of the machine as they are', () => {
  const script = [
    'cat /sys/bus/pci/devices/0000:0a:00.0/vendor /sys/bus/pci/devices/0000:0b:00.0/device',
    'basename "$(readlink /sys/bus/pci/devices/0000:0b:00.0/iommu_group)"',
    'ls /sys/class/vfio-dev /dev/vfio /sys/class/iommu',
    'head -n 1 /sys/bus/pci/devices/0000:0b:00.0/resource',
    'cat /sys/kernel/iommu_groups/0/reserved_regions',
  ];
  const { stdout, stderr } = run('sh', '-c', script.join('\n'));
  expect(stderr).toBe('');
  expect(stdout.split('\n')).toEqual([
    '0x1209',
    '0x10c9',
    '1',
    '/dev/vfio:',
    '0',
    '1',
    '2',
    'devices',
    'vfio',
    '',
    '/sys/class/iommu:',
    'smmu0',
    '',
    '/sys/class/vfio-dev:',
    'vfio0',
    'vfio1',
    'vfio2',
    expect.stringMatching(/^0x00000000c0000000 0x00000000c001ffff 0x0000000000040200$/),
    '0x0000000008000000 0x00000000080fffff msi',
    '',
  ]);
});
