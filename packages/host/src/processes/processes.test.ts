import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { getuid } from 'node:process';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Harness, type RunOptions } from '../testing/harness.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await Harness.create();
});
afterAll(() => harness.remove());

const NOBODY = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--no-new-privs'];
const USER_NAMESPACE = ['unshare', '--user', '--map-root-user'];
/** As whom scenes are run: whoever runs the tests, an ordinary user, the root of an unprivileged user namespace. */
const CALLERS: readonly (readonly [string, RunOptions])[] = [
  ['the caller', {}],
  ['an ordinary user', getuid!() === 0 ? { as: NOBODY } : {}],
  ...(spawnSync(USER_NAMESPACE[0]!, [...USER_NAMESPACE.slice(1), 'true']).status === 0
    ? [
        [
          'an ordinary user in a user namespace',
          { as: [...(getuid!() === 0 ? NOBODY : []), ...USER_NAMESPACE] },
        ] as const,
      ]
    : []),
];

describe.each(CALLERS)('as %s', (_, as) => {
  test('execve() leaves files open and makes the memory another one', () => {
    expect(harness.lines(['exec'], as)).toEqual([
      'files 2',
      'failed-exec-same-memory 1',
      'recall ok',
      'byte k',
      'executed-use works',
      'same-memory 0',
      'recall EFAULT',
      'files 1',
    ]);
  });

  test('vfork() shares the memory until execve(), fork() copies it', () => {
    expect(harness.lines(['vfork'], as)).toEqual([
      'executed-use works',
      'same-memory 0',
      'recall ENOENT',
      'files 1',
      'vfork-same-memory 1',
      'fork-same-memory 0',
    ]);
  });

  test('memory is copied both ways, and EFAULT where the program itself could not', () => {
    expect(harness.lines(['memory'], as)).toEqual([
      'copy ok',
      'equal 1',
      'bad-source EFAULT',
      'read-only-target EFAULT',
      'struct-before-hole ok',
      'struct-over-hole EFAULT',
      'struct-read-only EFAULT',
      'struct-no-access EFAULT',
    ]);
  });

  test('descriptors are known for what they are', () => {
    expect(harness.lines(['files'], as)).toEqual([
      'closed 0',
      'ours 1',
      'tmpfs 3',
      'memfd 3',
      'null 4',
      'pipe 4',
    ]);
  });

  test('mappings are known for what they are', () => {
    const lines = harness.lines(['mappings'], as);
    expect(lines.slice(0, 9)).toEqual([
      'stack pinnable writable 4096',
      'private pinnable writable 4096',
      'anonymous shared pinnable memfd writable 4096',
      'memfd shared pinnable memfd writable 4096',
      'tmpfs shared pinnable memfd writable 4096',
      'file pinnable 4096',
      'read-only shared pinnable memfd 4096',
      'placeholder 4096',
      'hole EFAULT',
    ]);
    expect(['hugetlb none', 'hugetlb shared pinnable memfd writable 2097152']).toContain(lines[9]);
  });

  test('the bytes of a memfd that is kept outlive its mapping and its process', () => {
    expect(harness.lines(['shared', 'memfd'], as)).toEqual([
      'keep ok',
      'store ok',
      'stored 115',
      'recall-unmapped ok',
      'recalled 110',
      'child-recalled 99',
      'recall-gone ok',
      'recalled 99',
    ]);
  });

  test('private memory is gone with its mapping and with its process', () => {
    expect(harness.lines(['shared', 'private'], as)).toEqual([
      'keep ok',
      'store ok',
      'stored 115',
      'recall-unmapped EFAULT',
      'recalled 115',
      'child-recalled 99',
      'recall-gone EFAULT',
      'recalled 0',
    ]);
  });

  test('VmLck and VmPin show what core has charged', () => {
    const none = ['VmLck:\t       0 kB', 'VmPin:\t       0 kB'];
    const some = ['VmLck:\t      12 kB', 'VmPin:\t      20 kB'];
    expect(harness.lines(['status'], as)).toEqual([...none, ...some, ...some, ...some]);
  });

  test('a file is released with the last of its copies', () => {
    expect(harness.lines(['lifetime'], as).at(-1)).toBe('unmapped 1');
  });
});

test('anonymous shared memory is reached while a program maps it, and longer by who may open map_files', () => {
  const [, as] = CALLERS[1]!;
  const ordinary = harness.lines(['shared', 'anonymous'], as);
  expect(ordinary.slice(0, 3)).toEqual(['keep ok', 'store ok', 'stored 115']);
  if (getuid!() !== 0) return;
  expect(harness.lines(['shared', 'anonymous'])).toEqual([
    'keep ok',
    'store ok',
    'stored 115',
    'recall-unmapped ok',
    'recalled 110',
    'child-recalled 99',
    'recall-gone ok',
    'recalled 99',
  ]);
});

test('user, capabilities and limits are those of the moment', () => {
  const root = getuid!() === 0;
  const capable =
    (BigInt(`0x${/CapEff:\s*(\w+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1]!}`) >> 14n) & 1n;
  expect(harness.lines(['who'])).toEqual([
    'uid 1',
    `ipc-lock ${capable}`,
    'memlock 256',
    'pid 1',
    ...(root ? ['uid-after 65534', 'ipc-lock-after 0'] : []),
  ]);
});

test('the limit of locked memory does not count where nobody asks for it', () => {
  expect(harness.lines(['who'], { env: { UNLIMITED_PINS: '1' } })).toContain('memlock -1');
});

test('a program may have filters of its own, but no second listener', () => {
  expect(harness.lines(['sandbox'])).toEqual([
    'filter ok',
    'allowed works',
    'listener EBUSY',
    'refusal ok',
    'refused EPERM',
  ]);
});

test('a program may close every descriptor', () => {
  expect(harness.lines(['closing'])).toEqual(['close_range ok', 'again works', 'as-0 works']);
});

test('io_uring is refused where that is asked for', () => {
  expect(harness.lines(['uring'], { env: { STOP_IO_URING: '1' } })).toEqual(['io_uring EPERM']);
});

describe("where a container's filter refuses process_vm_readv(), pidfd_getfd() and kcmp()", () => {
  const as = (): RunOptions => ({ as: [`${harness.directory}/client`, 'deny'] });

  test('memory is reached by /proc/PID/mem', () => {
    const lines = harness.lines(['memory'], as());
    expect(lines.slice(0, 3)).toEqual(['copy ok', 'equal 1', 'bad-source EFAULT']);
  });

  test('files are found by /proc/PID/fd, and outlive their process', () => {
    expect(harness.lines(['files'], as())).toEqual([
      'closed 0',
      'ours 1',
      'tmpfs 3',
      'memfd 3',
      'null 4',
      'pipe 4',
    ]);
    expect(harness.lines(['shared', 'memfd'], as()).at(-1)).toBe('recalled 99');
  });

  test('another program is told from the one before by its stack', () => {
    const lines = harness.lines(['exec'], as());
    expect(lines).toContain('failed-exec-same-memory 1');
    expect(lines).toContain('same-memory 0');
  });
});
