// What run.mjs --all runs beside cases.mjs: other IOMMUs of QEMU's, the devices' groups, KVM, and what happens to a
// machine that runs for long.

import {
  adding,
  byGroup,
  byPath,
  DEVICES,
  IOAS_MAP,
  machineFile,
  NESTED,
  NVME_WORKS,
  saidOf,
  SHADOW,
  some,
  VTD_S1,
} from './cases.mjs';
import { dirtyRate, migrationRefused, reset } from './monitor.mjs';
import { GENERIC } from './tree.mjs';

const on = { guest: 'x86', machine: machineFile('intel') };
const SET_DIRTY_TRACKING = {
  name: 'IOMMU_HWPT_SET_DIRTY_TRACKING',
  pattern: /IOMMU_HWPT_SET_DIRTY_TRACKING flags=[01] .* = 0( |$)/,
};

/** Somebody has the time of this part for the machine. */
const waiting = (devices) => ({ ...devices, uses: ['wait', ...devices.uses] });

/** @type {import('./cases.mjs').Case[]} */
export const LONG_CASES = [
  {
    name: 'x86-plain',
    title: 'no IOMMU in the guest',
    ...on,
    ...byPath(),
    append: '',
    said: saidOf('none'),
    trace: [{ ...IOAS_MAP, ...some }],
  },
  {
    name: 'x86-group',
    title: "the same by the devices' groups, without iommufd",
    ...on,
    ...byGroup(),
    append: '',
    said: saidOf('none'),
    trace: [],
  },
  {
    name: 'x86-group-shadow',
    title: "second-stage tables of the guest, mirrored by QEMU in a group's container",
    ...on,
    ...adding(SHADOW, byGroup()),
    append: 'intel_iommu=on,sm_off',
    said: saidOf('DMA'),
    trace: [],
  },
  {
    name: 'x86-virtio-iommu',
    title: "a virtio IOMMU in the guest, mirrored by QEMU in viommu's (virtio-iommu-pci)",
    ...on,
    distribution: GENERIC.name,
    ...adding(['-device', 'virtio-iommu-pci,addr=3.0'], byPath()),
    append: '',
    said: saidOf('DMA'),
    trace: [{ ...IOAS_MAP, min: 20 }],
  },
  {
    name: 'x86-amd',
    title: "an AMD IOMMU in the guest, mirrored by QEMU in viommu's (amd-iommu,dma-remap=on)",
    ...on,
    distribution: GENERIC.name,
    ...adding(['-device', 'amd-iommu,dma-remap=on'], byPath()),
    append: 'amd_iommu=on',
    said: saidOf('DMA'),
    trace: [{ ...IOAS_MAP, min: 20 }],
  },
  {
    name: 'x86-reset',
    title: 'a guest with first-stage tables that is reset, and boots again (system_reset)',
    ...on,
    ...adding(NESTED, byPath()),
    uses: ['nvme', 'wait', 'nvme', 'console'],
    steps: [reset(/^waits$/)],
    append: 'intel_iommu=on,sm_on',
    said: saidOf('DMA-FQ'),
    trace: [{ ...VTD_S1, min: 4 }],
  },
  {
    name: 'x86-migration',
    title: 'a guest that is to migrate, or to be saved: QEMU says why not, and it goes on',
    ...on,
    ...waiting(byPath()),
    steps: [migrationRefused(/^waits$/)],
    append: '',
    said: saidOf('none'),
    trace: [],
  },
  {
    name: 'x86-dirty',
    title: 'the pages that devices write, logged for QEMU (calc-dirty-rate)',
    ...on,
    ...waiting(byPath()),
    steps: [dirtyRate(/^waits$/)],
    append: '',
    said: saidOf('none'),
    trace: [{ ...SET_DIRTY_TRACKING, min: 2 }],
  },
  {
    name: 'x86-nvme-driver',
    title:
      "QEMU's own driver of NVMe, by the disk's group, with a disk of QEMU's in front (-blockdev driver=nvme)",
    ...on,
    shell: [],
    args: [
      ...['-blockdev', `driver=nvme,node-name=disk,device=${DEVICES.nvme.address},namespace=1`],
      ...['-device', 'nvme,drive=disk,serial=1,addr=4.0'],
    ],
    uses: ['nvme'],
    append: '',
    said: [NVME_WORKS],
    trace: [],
  },
  {
    name: 'x86-kvm',
    title: 'no IOMMU in the guest, with KVM (-accel kvm)',
    ...on,
    accel: 'kvm',
    ...byPath(),
    append: '',
    said: saidOf('none'),
    trace: [{ ...IOAS_MAP, ...some }],
  },
  {
    name: 'x86-kvm-nested',
    title: "first-stage tables of the guest, nested on viommu's domain, with KVM",
    ...on,
    accel: 'kvm',
    ...adding(NESTED, byPath()),
    append: 'intel_iommu=on,sm_on',
    said: saidOf('DMA-FQ'),
    trace: [{ ...VTD_S1, min: 2 }],
  },
  {
    name: 'x86-kvm-group',
    title: "no IOMMU in the guest, by the devices' groups, with KVM",
    ...on,
    accel: 'kvm',
    ...byGroup(),
    append: '',
    said: saidOf('none'),
    trace: [],
  },
];
