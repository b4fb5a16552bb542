// What run.mjs runs: guests of QEMU whose devices are viommu's, and what is to be seen then, in the guest and in
// viommu's trace.

import { fileURLToPath } from 'node:url';
import { plug, unplug } from './monitor.mjs';

/** Devices as viommu's machines have them, and where they are in the guest. */
export const DEVICES = {
  nvme: { address: '0000:0a:00.0', node: '/dev/vfio/devices/vfio0', slot: '4.0' },
  console: { address: '0000:0b:00.0', node: '/dev/vfio/devices/vfio1', slot: '5.0' },
};
/** @type {(keyof typeof DEVICES)[]} */
const ALL = ['nvme', 'console'];
/** Descriptors that a POSIX shell can open; QEMU gets them by number. */
const IOMMUFD = 7;
const FIRST_DEVICE = 8;

export const machineFile = (name) => fileURLToPath(new URL(`machines/${name}.yaml`, import.meta.url));

/** QEMU opens the devices' groups, as before there was iommufd. */
export function byGroup(names = ALL) {
  const devices = names.map((name) => {
    const { address, slot } = DEVICES[name];
    return ['-device', `vfio-pci,host=${address},addr=${slot}`];
  });
  return { shell: [], args: devices.flat(), uses: names };
}

/** QEMU opens /dev/iommu and the devices itself, which it finds in /sys. */
export function byPath(names = ALL) {
  const devices = names.map((name) => {
    const { address, slot } = DEVICES[name];
    return ['-device', `vfio-pci,host=${address},iommufd=iommufd0,addr=${slot}`];
  });
  return { shell: [], args: ['-object', 'iommufd,id=iommufd0', ...devices.flat()], uses: names };
}

/** QEMU is started with everything open. */
export function byDescriptor(names = ALL) {
  const opened = names.map((name, index) => `${FIRST_DEVICE + index}<>${DEVICES[name].node}`);
  const devices = names.map((name, index) => {
    const fd = FIRST_DEVICE + index;
    return ['-device', `vfio-pci,id=${name},fd=${fd},iommufd=iommufd0,addr=${DEVICES[name].slot}`];
  });
  return {
    shell: ['sh', '-c', `exec "$@" ${IOMMUFD}<>/dev/iommu ${opened.join(' ')}`, 'sh'],
    args: ['-object', `iommufd,id=iommufd0,fd=${IOMMUFD}`, ...devices.flat()],
    uses: names,
  };
}

export const NESTED = ['-device', 'intel-iommu,scalable-mode=on,fsts=on,caching-mode=on'];
const PASIDS = ['-device', `${NESTED[1]},pasid-bits=16,svm=on,device-iotlb=on`];
export const SHADOW = ['-device', 'intel-iommu,caching-mode=on'];
const MEMFD = [
  '-object',
  'memory-backend-memfd,id=ram0,size=512M,share=on',
  '-machine',
  'memory-backend=ram0',
];

/** A port that the disk is plugged into and out of, twice. With an IOMMU of the guest all the same. */
const HOTPLUG = {
  shell: [],
  args: ['-object', 'iommufd,id=iommufd0', '-device', 'pcie-root-port,id=port0,slot=1,addr=6.0'],
  uses: ['plug', 'nvme', 'unplug', 'plug', 'nvme'],
  steps: [
    plug(/^plug 0/, hotplugged('iommufd0')),
    unplug(/^unplug 1/, 'disk'),
    plug(/^plug 0/, hotplugged('iommufd0')),
  ],
};

function hotplugged(iommufd) {
  return { driver: 'vfio-pci', id: 'disk', host: DEVICES.nvme.address, bus: 'port0', iommufd };
}

/** The same with more arguments. */
export function adding(args, devices) {
  return { ...devices, args: [...args, ...devices.args] };
}

/** What a guest says of a disk that works. */
export const NVME_WORKS = /^ok nvme [0-9a-f]{32}$/;

/** What both guests say of the devices. `domain` is Linux's name for how their DMA is translated. */
export const saidOf = (domain) => [
  new RegExp(`^pci \\S+:04\\.0 .* driver=nvme domain=${domain}`),
  new RegExp(`^pci \\S+:05\\.0 .* driver=virtio-pci domain=${domain}`),
  NVME_WORKS,
  /^ok console hello from viommu$/,
];

const ok = '.* = 0( |$)';
export const IOAS_MAP = { name: 'IOMMU_IOAS_MAP', pattern: new RegExp(`IOMMU_IOAS_MAP ${ok}`) };
const BIND = { name: 'VFIO_DEVICE_BIND_IOMMUFD', pattern: /request=VFIO_DEVICE_BIND_IOMMUFD result=0/ };
const IOAS_MAP_FILE = { name: 'IOMMU_IOAS_MAP_FILE', pattern: new RegExp(`IOMMU_IOAS_MAP_FILE ${ok}`) };
export const VTD_S1 = { name: 'HWPT of VTD_S1', pattern: new RegExp(`IOMMU_HWPT_ALLOC .*data_type=1 ${ok}`) };
/** Its flags: IOMMU_HWPT_ALLOC_NEST_PARENT, IOMMU_HWPT_ALLOC_DIRTY_TRACKING and IOMMU_HWPT_ALLOC_PASID. */
const PASID_PARENT = {
  name: 'nest parent for PASIDs',
  pattern: new RegExp(`IOMMU_HWPT_ALLOC flags=11 ${ok}`),
};
const INVALIDATE = { name: 'IOMMU_HWPT_INVALIDATE', pattern: new RegExp(`IOMMU_HWPT_INVALIDATE ${ok}`) };
const SMMU_S1 = { name: 'HWPT of ARM_SMMUV3', pattern: new RegExp(`IOMMU_HWPT_ALLOC .*data_type=2 ${ok}`) };
const VIOMMU = { name: 'IOMMU_VIOMMU_ALLOC', pattern: new RegExp(`IOMMU_VIOMMU_ALLOC ${ok}`) };
const VDEVICE = { name: 'IOMMU_VDEVICE_ALLOC', pattern: new RegExp(`IOMMU_VDEVICE_ALLOC ${ok}`) };
const VEVENTQ = { name: 'IOMMU_VEVENTQ_ALLOC', pattern: new RegExp(`IOMMU_VEVENTQ_ALLOC ${ok}`) };
export const none = { max: 0 };
export const some = { min: 1 };

/**
 * @typedef {object} Case
 * @property {string} name
 * @property {string} title
 * @property {'x86' | 'arm64'} guest
 * @property {string} machine a machine file
 * @property {string[]} shell what runs QEMU under viommu
 * @property {string[]} args for QEMU
 * @property {string[]} uses what the guest tries out: parts of guest.sh
 * @property {string} append for the guest's kernel
 * @property {RegExp[]} said what the guest says
 * @property {import('./monitor.mjs').Step[]} [steps] what is done to it meanwhile
 * @property {'kvm'} [accel] without it QEMU emulates the processor
 * @property {string} [distribution] the part that has its kernel, where that is not the guest's own
 * @property {boolean} [bare] it is bare/guest.c, not Linux
 * @property {{ name: string, pattern: RegExp, min?: number, max?: number }[]} trace how many lines of the trace match
 */

/** What is run where nobody says more. @type {Case[]} */
export const CASES = [
  {
    name: 'x86-nested',
    title: "first-stage tables of the guest, nested on viommu's domain (fsts=on)",
    guest: 'x86',
    machine: machineFile('intel'),
    ...adding(NESTED, byDescriptor()),
    append: 'intel_iommu=on,sm_on',
    said: saidOf('DMA-FQ'),
    trace: [
      { ...VTD_S1, min: 2 },
      { ...INVALIDATE, ...some },
      { ...IOAS_MAP, ...some, max: 100 },
    ],
  },
  {
    name: 'x86-nested-by-path',
    title: 'the same, where QEMU opens the devices itself (host=)',
    guest: 'x86',
    machine: machineFile('intel'),
    ...adding(NESTED, byPath()),
    append: 'intel_iommu=on,sm_on',
    said: saidOf('DMA-FQ'),
    trace: [
      { ...VTD_S1, min: 2 },
      { ...INVALIDATE, ...some },
    ],
  },
  {
    name: 'x86-pasid',
    title: 'the same, where the guest has PASIDs and ATS (pasid-bits=16,svm=on,device-iotlb=on)',
    guest: 'x86',
    machine: machineFile('intel-ats'),
    ...adding(PASIDS, byPath()),
    append: 'intel_iommu=on,sm_on',
    said: saidOf('DMA-FQ'),
    trace: [
      { ...PASID_PARENT, ...some },
      { ...VTD_S1, min: 2 },
      { ...INVALIDATE, ...some },
    ],
  },
  {
    name: 'x86-shadow',
    title: "second-stage tables of the guest, mirrored by QEMU in viommu's (caching-mode=on)",
    guest: 'x86',
    machine: machineFile('intel'),
    ...adding(SHADOW, byPath()),
    append: 'intel_iommu=on,sm_off',
    said: saidOf('DMA'),
    trace: [
      { ...VTD_S1, ...none },
      { ...IOAS_MAP, min: 20 },
    ],
  },
  {
    name: 'x86-memfd',
    title: 'no IOMMU in the guest, whose memory is a memfd',
    guest: 'x86',
    machine: machineFile('intel'),
    ...adding(MEMFD, byDescriptor()),
    append: '',
    said: saidOf('none'),
    trace: [{ ...IOAS_MAP_FILE, ...some }],
  },
  {
    name: 'x86-hotplug',
    title: 'a disk that is plugged in, out and in again while the guest runs (device_add, device_del)',
    guest: 'x86',
    machine: machineFile('intel'),
    ...adding(SHADOW, HOTPLUG),
    append: 'intel_iommu=on,sm_off',
    said: [/^plug 0 disks$/, /^unplug 1 disks$/, /^ok unplug$/, NVME_WORKS],
    trace: [{ ...BIND, min: 2, max: 2 }],
  },
  {
    name: 'x86-kvm-registers',
    title: 'a disk whose registers, pin and messages reach a guest through KVM alone (-accel kvm)',
    guest: 'x86',
    accel: 'kvm',
    bare: true,
    machine: machineFile('intel'),
    ...byPath(['nvme']),
    append: '',
    said: [/^ok pin viommu NVMe/, /^ok msix viommu NVMe/, /^ok nvme 512 bytes$/],
    trace: [{ ...IOAS_MAP, ...some }],
  },
  {
    name: 'arm64-identity',
    title: 'an arm64 guest without an IOMMU, on an SMMUv3',
    guest: 'arm64',
    machine: machineFile('arm'),
    ...adding([], byPath()),
    append: '',
    said: saidOf('none'),
    trace: [{ ...IOAS_MAP, ...some }],
  },
];

/** Only under KVM on arm64: emulated/run.mjs. @type {Case} */
export const SMMU_NESTED = {
  name: 'smmu-nested',
  title: "stage-1 tables of the guest's SMMUv3, nested on viommu's domain (arm-smmuv3,accel=on)",
  guest: 'arm64',
  machine: machineFile('arm'),
  ...adding(['-device', 'arm-smmuv3,primary-bus=pcie.0,id=smmu0,accel=on'], byPath()),
  append: '',
  said: saidOf('DMA'),
  trace: [
    { ...VIOMMU, ...some },
    { ...VDEVICE, min: 2 },
    { ...VEVENTQ, ...some },
    { ...SMMU_S1, min: 4 },
    { ...INVALIDATE, ...some },
  ],
};
