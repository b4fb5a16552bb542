import { expect, test } from 'vitest';
import { loadMachineFile, parseMachine } from './machine-file.ts';
import { profileNamed } from './profile.ts';

const refusal = (text: string): string => {
  try {
    parseMachine('m.yaml', text);
  } catch (error) {
    return (error as Error).message;
  }
  return 'none';
};

test('an empty machine file is the default machine', () => {
  expect(parseMachine('m.yaml', '')).toMatchObject({ kernel: 'linux-7.3', mock: true });
  expect(parseMachine('m.yaml', '# nothing\n')).toMatchObject({ kernel: 'linux-7.3', mock: true });
});

test('what a machine file says is taken', () => {
  expect(parseMachine('m.yaml', 'kernel: linux-6.12\nmock: false\n')).toMatchObject({
    kernel: 'linux-6.12',
    mock: false,
  });
});

test('a mistake is named with file, line and key, and with what would be right', () => {
  expect(refusal('# a machine\nkernel: linux-6.12\nmok: true\n')).toMatch(
    /^m\.yaml:3: .*mok.*kernel, uapi, mock/,
  );
  expect(refusal('mock: true\nkernel: linux-5.0\n')).toMatch(/^m\.yaml:2: kernel: .*linux-6\.6/);
  expect(refusal('mock: 3\n')).toBe('m.yaml:1: mock: should be true or false');
  expect(refusal('kernel: [\n')).toMatch(/^m\.yaml:\d+: not YAML: /);
  expect(() => loadMachineFile('/nonexistent.yaml')).toThrow(
    '/nonexistent.yaml: cannot be read (no such file or directory)',
  );
});

test.each([
  ['- 1', 'm.yaml:1: a machine should be keys with values'],
  ['uapi: rfc-2023-12', 'm.yaml:1: uapi: should be a list: a line with - for each entry'],
  ['iommus:\n  - type: amd-iommu', 'm.yaml:2: iommus.0.name: is missing; it should be a text'],
  [
    'iommus:\n  - name: a\n    type: arm',
    'm.yaml:3: iommus.0.type: should be one of arm-smmu-v3, intel-iommu, amd-iommu',
  ],
  [
    'iommus:\n  - name: a\n    type: amd-iommu\n    colour: red',
    "m.yaml:4: iommus.0: there is no key 'colour'; there are name, type, registers, cmdqv",
  ],
  [
    'iommus:\n  - name: a\n    type: amd-iommu\n  - name: a\n    type: intel-iommu',
    "m.yaml:4: iommus.1.name: 'a' stands here twice; each needs a name of its own",
  ],
  [
    'devices:\n  - name: "0000:0a:00.0"\n    iommu: smmu0\n    pasids: -1',
    'm.yaml:4: devices.0.pasids: should be at least 0',
  ],
  [
    'devices:\n  - name: "0000:0a:00.0"\n    iommu: smmu0\n    disk: { blockBytes: 100 }',
    'm.yaml:4: devices.0.disk.blockBytes: should be one of 512, 4096',
  ],
])('%j is refused in words, with the line and the keys that there are', (text, message) => {
  expect(refusal(`${text}\n`)).toBe(message);
});

test('a machine with IOMMUs of its own has no devices but its own', () => {
  const { devices } = parseMachine('m.yaml', 'iommus:\n  - name: a\n    type: amd-iommu\n');
  expect(devices).toEqual([]);
});

test('uAPIs beside Linux’s are named', () => {
  expect(parseMachine('m.yaml', 'uapi: [rfc-2023-12]\n').uapi).toEqual(['rfc-2023-12']);
  expect(refusal('uapi: [rfc-1970-01]\n')).toMatch(/^m\.yaml:1: uapi\.0: .*rfc-2023-12/);
});

test('a kernel that is not known is refused with those that are', () => {
  expect(() => profileNamed('linux-5.10')).toThrow(
    /^--kernel linux-5\.10: there is no such kernel; there are linux-6\.6, /,
  );
});
