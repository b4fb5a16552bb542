import { expect, test } from 'vitest';
import { tmpfsMounts } from './placeholder-directory.ts';

test('mount points of tmpfs are found, blanks and all', () => {
  expect(
    tmpfsMounts(
      '25 24 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw\n' +
        '27 1 254:0 / / rw - ext4 /dev/vda rw\n' +
        '28 1 0:30 / /run/a\\040b rw shared:5 - tmpfs none rw\n',
    ),
  ).toEqual(['/dev/shm', '/run/a b']);
});
