import type { SpawnSyncReturns } from 'node:child_process';
import { openSync, closeSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Command } from './testing/command.ts';

let command: Command;
let directory: string;

beforeAll(async () => {
  command = await Command.create();
  directory = command.directory;
});
afterAll(() => command.remove());

function viommu(args: readonly string[], stdio: (number | 'pipe')[] = []): SpawnSyncReturns<string> {
  return command.run(args, stdio);
}

describe('viommu run', () => {
  test('shows a program /dev/iommu and ends as it ends', () => {
    const { status, stdout, stderr } = viommu(['run', '--', 'sh', '-c', 'ls -l /dev/iommu; exit 3']);
    expect(stdout).toMatch(/^crw-rw---- .* 10, +125 .* \/dev\/iommu\n$/);
    expect(stderr).toBe('');
    expect(status).toBe(3);
  });

  test('writes a line for each event, to a file or to standard error', () => {
    const file = join(directory, 'trace');
    const script = 'exec 3<>/dev/iommu';
    expect(viommu(['run', '--trace', file, '--', 'sh', '-c', script]).status).toBe(0);
    expect(readFileSync(file, 'utf8')).toMatch(/^open by=\d+ path=\/dev\/iommu fd=\d+\n/);
    expect(viommu(['run', '--trace', '-', '--', 'sh', '-c', script]).stderr).toMatch(/^open by=/);
  });

  test('hands on the descriptors that it was given, and the limit on them', () => {
    const file = join(directory, 'given');
    writeFileSync(file, 'given\n');
    const fd = openSync(file, 'r');
    const { stdout } = viommu(['run', '--', 'sh', '-c', 'cat <&3; ulimit -n'], [fd]);
    closeSync(fd);
    expect(stdout).toMatch(/^given\n\d+\n$/);
  });

  test('makes no streams of the descriptors that it shares with the program', () => {
    // An import from node:process does, and a terminal would be in non-blocking mode from then on.
    const chunks = readdirSync(directory).filter((name) => name.endsWith('.mjs') || name.endsWith('.js'));
    expect(chunks.length).toBeGreaterThan(2);
    for (const name of chunks)
      expect(readFileSync(join(directory, name), 'utf8')).not.toMatch(/from ["'](?:node:)?process["']/);
  });

  test('says once that the trace cannot be written any more, and goes on', () => {
    const script = ': </dev/iommu; : </dev/iommu; echo on';
    const { status, stdout, stderr } = viommu(['run', '--trace', '/dev/full', '--', 'sh', '-c', script]);
    expect(stderr).toBe(
      'viommu: --trace /dev/full: cannot be written (no space left on device); it ends here\n',
    );
    expect([status, stdout]).toEqual([0, 'on\n']);
  });

  test('leaves the options of the program to the program', () => {
    expect(viommu(['run', '--', 'echo', '--trace', '-n']).stdout).toBe('--trace -n\n');
    expect(viommu(['run', 'echo', '--quiet']).stdout).toBe('--quiet\n');
  });

  test('hands on arguments and variables byte by byte', () => {
    const program = String.raw`printf "%s|%s|%s" "$1" "" "$X"`;
    const script = String.raw`X=$(printf 'caf\351'); export X; exec "$@" "$X"`;
    const { stdout } = command.shell(script, ['run', '--', 'sh', '-c', program, 'sh']);
    expect(stdout).toBe('caf\u00e9||caf\u00e9');
  });

  test('takes the machine from a file, and --kernel before it', () => {
    const file = join(directory, 'machine.yaml');
    writeFileSync(file, 'kernel: linux-6.6\nmok: 1\n');
    const { status, stderr } = viommu(['run', '--machine', file, '--', 'true']);
    expect(stderr).toContain(`${file}:2: `);
    expect(status).not.toBe(0);
    writeFileSync(file, 'kernel: linux-6.6\n');
    expect(viommu(['run', '--machine', file, '--kernel', 'linux-7.1', '--', 'true']).status).toBe(0);
  });

  test('says where in the file a machine cannot be as it is described', () => {
    const iommus = 'iommus:\n  - { name: a, type: amd-iommu }\n  - name: s\n    type: arm-smmu-v3\n';
    const refusal = (text: string): string =>
      viommu(['run', '--machine', command.machine(iommus + text), '--', 'true']).stderr.replace(
        /^.*machine\.yaml/,
        '',
      );
    expect(refusal('    registers: { IDR0: { ST_LEVEL: 3 } }\n')).toBe(
      ':5: iommus.1.registers: SMMUv3 configuration: IDR0.ST_LEVEL must be 0 or 1\n',
    );
    const device = "devices:\n  - name: '0000:0a:00.0'\n    iommu: s\n    model: nvme\n";
    expect(refusal(`${device}    disk: { file: /no/such }\n`)).toBe(
      ":9: devices.0.disk: 0000:0a:00.0: ENOENT: no such file or directory, open '/no/such'\n",
    );
  });

  test('says what is wrong with what was typed', () => {
    expect(viommu(['run', '--bogus', '--', 'true']).stderr).toContain("unknown option '--bogus'");
    expect(viommu(['run', '--kernel', 'linux-1.0', '--', 'true']).stderr).toContain(
      'there is no such kernel',
    );
    expect(viommu(['run', '--trace', '/nonexistent/t', '--', 'true']).stderr).toContain('/nonexistent/t');
    const { status, stderr } = viommu(['run', '--', 'no-such-program']);
    expect(stderr).toBe('viommu: no-such-program: command not found (PATH was searched)\n');
    expect(status).toBe(127);
  });
});

test('viommu ioctls prints what a kernel serves', () => {
  const { stdout } = viommu(['ioctls', '--kernel', 'linux-6.12']);
  expect(stdout).toMatch(/IOMMU_IOAS_ALLOC +0x3b81 +6\.2 +12/);
  expect(stdout).toMatch(/IOMMU_VIOMMU_ALLOC .*ENOTTY/);
  expect(stdout).not.toContain('IOMMU_DEV_INVALIDATE');
});

test('viommu ioctls says why it cannot print', () => {
  const { status, stderr } = command.shell('exec "$@" >/dev/full', ['ioctls']);
  expect(stderr).toBe('viommu: standard output cannot be written (no space left on device)\n');
  expect(status).toBe(2);
});

test('viommu ioctls shows what is served beside Linux’s uAPI where that is asked for', () => {
  const { stdout } = viommu(['ioctls', '--uapi', 'rfc-2023-12']);
  expect(stdout).toMatch(/^\/dev\/iommu as linux-7\.3 with rfc-2023-12 answers it/);
  expect(stdout).toMatch(/IOMMU_DEV_INVALIDATE +0x3bc4 +rfc-2023-12 +32 +32 +yes/);
  const { status, stderr } = viommu(['ioctls', '--uapi', 'rfc-1970-01']);
  expect(stderr).toMatch(/^viommu: --uapi rfc-1970-01: there is no such uAPI; there is .*rfc-2023-12/);
  expect(status).toBe(2);
});
