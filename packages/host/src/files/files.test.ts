import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Harness } from '../testing/harness.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await Harness.create({ statically: true });
});
afterAll(() => harness.remove());

const OPENED = [
  'open works',
  ...(process.arch === 'x64' ? ['open(2) works'] : []),
  'openat works',
  'openat-dirfd works',
  'openat2 works',
  'folded works',
  'symlink works',
  'symlink-nofollow ELOOP',
  'relative-symlink works',
  'read-only works',
  'proc-self-fd works',
  'dev-fd works',
  `files ${process.arch === 'x64' ? 11 : 10}`,
  'relative works',
  'directory ENOTDIR',
  'exclusive EEXIST',
  'not-ours ENOENT',
];

const open = () => ['open', `${harness.directory}/link`, `${harness.directory}/link-to-link`];

describe('opening /dev/iommu', () => {
  test('works by every system call and every way to write the path', () => {
    expect(harness.lines(open())).toEqual(OPENED);
  });

  test('works in a static program', () => {
    expect(harness.lines(open(), { statically: true })).toEqual(OPENED);
  });

  test('works a hundred thousand times over, and nothing stays open', () => {
    expect(harness.lines(['many-opens', '100000'])).toEqual(['files 1']);
  });
});

test('links among the directories of a path are followed, as far as openat2() lets them', () => {
  const directory = mkdtempSync(join(tmpdir(), 'viommu-links-'));
  const lines = harness.lines(['linked-paths', directory]);
  rmSync(directory, { recursive: true });
  expect(lines).toEqual([
    'root works',
    'cwd works',
    'directory-link works',
    'link-through-link works',
    'stat ok',
    'lstat ok',
    'device 1',
    'lstat-link ok',
    'link 1',
    'own-directory ok',
    'none ENOENT',
    'beneath works',
    'beneath-absolute EXDEV',
    'beneath-climbs EXDEV',
    'in-root works',
    'in-other-root ENOENT',
    'no-symlinks ELOOP',
    'no-symlinks works',
    'unknown-resolve EINVAL',
    'unknown-flag EINVAL',
  ]);
});

test('flags that Linux refuses are refused, and what is no directory has nothing in it', () => {
  expect(harness.lines(['odd-flags'])).toEqual([
    'flags 2',
    'slash ENOTDIR',
    'stat-slash ENOTDIR',
    'below ENOTDIR',
    'access-below ENOTDIR',
    'create-directory EINVAL',
    'mode EINVAL',
    'short EINVAL',
    'longer works',
    'longer-used E2BIG',
    'access EINVAL',
    'faccessat2 EINVAL',
    'fstatat EINVAL',
    'statx EINVAL',
    'statx-mask EINVAL',
  ]);
});

test('stat, access and readlink show a character device, at any descriptor', () => {
  const device = '20660 10:125 inode';
  expect(harness.lines(['stat'])).toEqual([
    ...['stat', 'lstat', 'fstat', 'fstat(2)', 'fstat-high', 'fstatat', 'statx', 'statx-fd'].map(
      (way) => `${way} ${device}`,
    ),
    'vfio 20660 10:196 inode',
    'vfio-directory 40755 0:0 inode',
    'bad-address EFAULT',
    'anonymous 600 0:0 inode',
    'pipe 10600 0:0 inode',
    'closed EBADF',
    'access ok',
    'access-x EACCES',
    'faccessat ok',
    'faccessat2 ok',
    'readlink EINVAL',
    'link /dev/iommu',
    'link anon_inode:[iommufd_test_staccess]',
  ]);
});

test('a request that has no room for its descriptor fails', () => {
  expect(harness.lines(['no-room'])).toEqual([
    'window EMFILE',
    'open EMFILE',
    'access EMFILE',
    'access ok',
    'number 4',
    'files 2',
  ]);
});

test('a file is released with the last of its copies, wherever they went', () => {
  expect(harness.lines(['lifetime'])).toEqual([
    'opened 2',
    'closed 1',
    'dup 2',
    'dup-use works',
    'dup2-over 1',
    'dup3-use works',
    'dup3 2',
    'close_range 1',
    'in-flight 2',
    'received-use works',
    'received-closed 1',
    'lost-in-flight 1',
    'child-use works',
    'forked 2',
    'killed 1',
    'vforked 1',
    'mapped-byte 90',
    'mapped 2',
    'unmapped 1',
  ]);
});

test('threads share the files of their process', () => {
  const each = ['thread works', 'thread-open works'];
  expect(harness.lines(['threads'])).toEqual([...each, ...each, ...each, 'files 4']);
});

test('a thousand children use what they inherit, open their own and pass it on', () => {
  expect(harness.lines(['many-children', '1000'])).toEqual(['good 1000', 'files 1']);
});

test('a descriptor that another thread closes meanwhile is either still there or closed', () => {
  expect(harness.lines(['close-race'])).toEqual(['calls 1', 'files 1']);
});

test('requests on files that are not ours get what Linux gives', () => {
  expect(harness.lines(['foreign'])).toEqual([
    'null ENOTTY',
    'closed EBADF',
    'pipe ENOTTY',
    'replaced ENOTTY',
  ]);
});

test('calls on paths and files that are not ours are stopped once and never reach JavaScript', () => {
  const counts = (times: number) => {
    const { stderr } = harness.run(['ordinary', String(times)], { env: { COUNTS: '1' } });
    return JSON.parse(stderr) as { notifications: number; calls: number };
  };
  const [few, many] = [counts(0), counts(100)];
  expect(many.notifications - few.notifications).toBe(400);
  expect(many.calls).toBe(few.calls);
});

describe('event queues', () => {
  const POLLIN = 1;
  const POLLOUT = 4;

  test('read, write and poll as the kernel answers', () => {
    expect(harness.lines(['events'])).toEqual([
      'number 768',
      `poll-empty ${POLLOUT}`,
      'read-empty 0',
      'read-odd ESPIPE',
      `poll ${POLLIN | POLLOUT}`,
      'read 4',
      'byte 238',
      `poll ${POLLIN | POLLOUT}`,
      'read-copy 8',
      `poll ${POLLOUT}`,
      'write 8',
      'write-odd ESPIPE',
      'readv 8',
      `poll-taken-back ${POLLOUT}`,
      'read-bad-address EFAULT',
      'pread ESPIPE',
      'pread-start ESPIPE',
      'lseek ESPIPE',
      'close-on-exec 1',
      'files 2',
      'files 1',
    ]);
  });

  test('have the lowest free descriptor where every read is stopped', () => {
    const lines = harness.lines(['events'], { env: { STOP_READS: '1' } });
    expect(lines[0]).toBe('number 4');
    expect(lines.at(-1)).toBe('files 1');
  });

  test('are read by each copy that dup() and fcntl() make', () => {
    expect(harness.lines(['event-copies'])).toEqual([
      'dup 769',
      'close-on-exec 0',
      'read 4',
      'F_DUPFD 770',
      'read 4',
      'F_DUPFD_CLOEXEC 800',
      'close-on-exec 1',
      'read 4',
      'read-empty 0',
      'beyond EMFILE',
      'others 4',
      'others-high 900',
      'files 2',
      'files 1',
    ]);
  });

  test('from which events only come are never writable', () => {
    expect(harness.lines(['events-only-come'])).toEqual([
      'poll-empty 0',
      `poll ${POLLIN}`,
      'read 4',
      'files 1',
    ]);
  });

  test('wake a poll that waits', () => {
    expect(harness.lines(['poll-wakes'])).toEqual(['woken 1']);
  });
});

test('a mapping shows the pages that core writes, and is known while any process has it', () => {
  expect(harness.lines(['backing'])).toEqual([
    'private EINVAL',
    'before 0',
    'byte 90',
    'mapped 1',
    'written 119',
    'mapped-by-child 1',
    'unmapped 0',
  ]);
});

test('fail-nth arms the thread and counts down', () => {
  expect(harness.lines(['fail-nth'])).toEqual([
    'open ok',
    'pread 2',
    '0',
    'pwrite 1',
    'first ok',
    '1',
    'second ENOMEM',
    '0',
    'third ok',
    'bad EINVAL',
    'large ERANGE',
    'write 5',
    'seek 0',
    'read 3',
    'read-end 0',
    '16',
    'openat ok',
    'thread-self ok',
    'access ok',
  ]);
});

test('the attributes of fault injection can be written and read', () => {
  expect(harness.lines(['debugfs'])).toEqual([
    'directory ok',
    'openat ok',
    'write 1',
    'read 2',
    'N',
    '',
    'none ENOENT',
    'iommufd ok',
  ]);
});
