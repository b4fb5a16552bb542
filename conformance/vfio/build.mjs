// Builds Linux's tools/testing/selftests/vfio as they are, with the flags of their Makefile and of selftests/lib.mk.

import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { compile, newer } from '../linux/compile.mjs';
import { cache, ensureLinux, headerFlags, source, tree } from '../linux/tree.mjs';

export const PROGRAMS = [
  'vfio_dma_mapping_test',
  'vfio_dma_mapping_mmio_test',
  'vfio_iommufd_setup_test',
  'vfio_pci_device_test',
  'vfio_pci_device_init_perf_test',
  'vfio_pci_driver_test',
  'vfio_pci_sriov_uapi_test',
];
const LIBRARY = ['iommu', 'iova_allocator', 'libvfio', 'sysfs', 'vfio_pci_device', 'vfio_pci_driver'];
const DRIVERS = ['nv_falcon/nv_falcon', 'igb/igb'];
/** Of x86 alone: they use its instructions. */
const X86_DRIVERS = ['ioat/ioat', 'dsa/dsa'];
const out = `${cache}/vfio-selftest`;
/** Where everything is that these tests leave behind. */
export const outputDirectory = out;
const selftests = `${source}/tools/testing/selftests`;
const libuuid = fileURLToPath(new URL('libuuid', import.meta.url));

/** Where the binary of `program` is. */
export function binary(program) {
  return `${out}/${program}`;
}

/** Builds whatever is missing or old. Fetches Linux's sources where they are missing. */
export function buildSelftests() {
  ensureLinux();
  mkdirSync(out, { recursive: true });
  const lib = `${selftests}/vfio/lib`;
  const includes = [libuuid, `${lib}/include`, selftests, `${source}/tools/include`].map(
    (path) => `-I${path}`,
  );
  const flags = ['-O2', '-D_GNU_SOURCE=', '-Wall', ...headerFlags(), ...includes, '-pthread'];
  const drivers = [...(process.arch === 'x64' ? X86_DRIVERS : []), ...DRIVERS].map(
    (name) => `drivers/${name}`,
  );
  const library = [...LIBRARY, ...drivers].map((name) => `${lib}/${name}.c`);
  for (const program of PROGRAMS) {
    const sources = [`${selftests}/vfio/${program}.c`, ...library, `${libuuid}/uuid.c`];
    if (newer(binary(program), [`${tree}/stamp.json`, `${libuuid}/uuid.c`])) continue;
    compile('vfio', [...flags, '-o', binary(program), ...sources]);
  }
}
