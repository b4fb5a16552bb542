// Some variants of Linux's selftest map huge pages and count on them: tools/testing/selftests/iommu/iommufd.c asserts
// that mmap(MAP_HUGETLB) works.
import { readFileSync, writeFileSync } from 'node:fs';

const KNOB = '/proc/sys/vm/nr_hugepages';
/** 2 MiB pages: the largest variant maps 128 MiB, and others beside it. */
const WANTED = 160;

function meminfo(key) {
  const found = new RegExp(`^${key}:\\s+(\\d+)`, 'm').exec(readFileSync('/proc/meminfo', 'utf8'));
  return found === null ? 0 : Number(found[1]);
}

/** Makes sure that enough huge pages are free; answers what gives them back. Says what to do where it may not. */
export function reserveHugePages() {
  const free = meminfo('HugePages_Free');
  if (free >= WANTED) return () => {};
  const total = meminfo('HugePages_Total');
  try {
    writeFileSync(KNOB, String(total + WANTED - free));
  } catch {
    console.error(
      `hugepages: ${free} huge pages are free and the test needs ${WANTED}: as root, echo ${total + WANTED - free} > ${KNOB}`,
    );
    return () => {};
  }
  if (meminfo('HugePages_Free') < WANTED)
    console.error(`hugepages: the system gave ${meminfo('HugePages_Free')} of ${WANTED} huge pages`);
  return () => writeFileSync(KNOB, String(total));
}
