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
  expect(refusal('mock: 3\n')).toMatch(/^m\.yaml:1: mock: .*boolean/);
  expect(refusal('kernel: [\n')).toMatch(/^m\.yaml:\d+: not YAML: /);
  expect(() => loadMachineFile('/nonexistent.yaml')).toThrow('/nonexistent.yaml: cannot be read (ENOENT)');
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
