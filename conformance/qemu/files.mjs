// What the devices of machines/*.yaml have behind them: a disk and a console, as files in one directory.

import { existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';

const DISK_BYTES = 16 * 1024 * 1024;

/** Makes the files anew. */
export function makeFiles(directory) {
  const disk = `${directory}/disk.img`;
  writeFileSync(disk, '');
  truncateSync(disk, DISK_BYTES);
  writeFileSync(`${directory}/console.in`, 'hello from viommu\n');
  writeFileSync(`${directory}/console.out`, '');
}

/** The same for a shell. */
export const MAKE_FILES = `truncate -s ${DISK_BYTES} disk.img; echo hello from viommu >console.in; : >console.out`;

/** What a guest that did all of guest.sh has left there. */
const LEFT = { nvme: ['disk.img', 'written by the guest'], console: ['console.out', 'hello from guest'] };

/** What is missing there: a line each. @param {string[]} uses what the guest tried out */
export function judgeFiles(directory, uses) {
  return uses.flatMap((name) => {
    if (!(name in LEFT)) return [];
    const [file, words] = LEFT[name];
    const path = `${directory}/${file}`;
    return existsSync(path) && readFileSync(path).includes(words) ? [] : [`${file} does not have "${words}"`];
  });
}

/** The same for a shell, which prints what is there. */
export const SHOW_FILES = Object.values(LEFT)
  .map(([file, words]) => `grep -q '${words}' ${file} && echo 'left: ${file} has ${words}'`)
  .join('; ');
