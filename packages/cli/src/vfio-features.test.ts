import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Command } from './testing/command.ts';

// Programs that use VFIO_DEVICE_FEATURE, by system calls.

const MACHINE = `
mock: false
iommus:
  - { name: smmu0, type: arm-smmu-v3 }
devices:
  - { name: '0000:0a:00.0', iommu: smmu0, model: dma-engine, migration: {} }
  - { name: '0000:0b:00.0', iommu: smmu0, model: dma-engine, migration: { preCopy: false } }
`;

let command: Command;
let client: string;
let machine: string;

beforeAll(async () => {
  command = await Command.create();
  client = command.compile('vfio-features-client.c');
  machine = command.machine(MACHINE);
});
afterAll(() => command.remove());

function scene(name: string): string[] {
  const run = command.run(['run', '--unlimited-pins', '--machine', machine, '--', client, name]);
  const { status, signal, stdout, stderr } = run;
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' });
  return stdout.split('\n').slice(0, -1);
}

describe('a program with a device', () => {
  test('gets a dma-buf of a BAR, which knows its size and outlives the device’s file', () => {
    expect(scene('dma-buf')).toEqual([
      'cloexec 1',
      'size 8192',
      'stat 8192',
      'mmap 22',
      'long -22',
      'kept 8192',
    ]);
  });

  test('moves a device in the middle of a copy into another one, which ends it', () => {
    expect(scene('migrate')).toEqual([
      'status 4 moved 0',
      'poll 1',
      'end 0 1',
      'write 9 pread 29',
      'written 1',
      'running -1',
      'target 1',
      'copied 1',
      'stop -1',
      'ended 19',
      'running -1',
      'source 1',
    ]);
  });

  test('resets it in the middle of a copy, and nothing is written afterwards', () => {
    expect(scene('reset')).toEqual(['torn 1']);
  });

  test('gets the log of what it wrote', () => {
    expect(scene('log')).toEqual(['start 0', 'report 0', 'pages 1024 first 1', 'stop 0']);
  });
});
