import type { PciFunctionView } from '@viommu/core/machine/devices/view';
import type { VirtualNode } from '../files/virtual-nodes.ts';
import { SysfsNodes, type SysfsNode } from './nodes.ts';
import { addPciFunction, functionPath } from './pci.ts';

// Everything of sysfs that comes with the machine's devices, and what is listed below /dev/vfio.

/** drivers/iommu/iommu-sysfs.c: IOMMUs that are no PCI devices are virtual ones. */
const IOMMU_DEVICES = '/sys/devices/virtual/iommu';
const GROUP_DEVICES = '/sys/devices/virtual/vfio';
const MISC_DEVICES = '/sys/devices/virtual/misc';
const MODULES = ['vfio', 'vfio_iommu_type1', 'vfio_pci', 'vfio_pci_core', 'iommufd'];

/** What stands below /sys and /dev/vfio by path. `devices`: the device files (files/virtual-nodes.ts). */
export function sysfsContents(
  functions: readonly PciFunctionView[],
  devices: ReadonlyMap<string, VirtualNode>,
): ReadonlyMap<string, SysfsNode> {
  const sysfs = new SysfsNodes();
  for (const directory of ['/sys/bus/pci/devices', '/sys/kernel/iommu_groups', '/sys/class/iommu'])
    sysfs.directory(directory);
  addDevFiles(sysfs, devices);
  addModules(sysfs);
  for (const view of functions) {
    addPciFunction(sysfs, view);
    addVfioDevice(sysfs, view, numberOf(devices, `/dev/vfio/devices/vfio${view.vfio}`));
    addGroup(sysfs, view, numberOf(devices, `/dev/vfio/${view.group}`));
    addIommu(sysfs, view);
  }
  for (const name of ['vfio', 'iommu'])
    addMisc(sysfs, name, numberOf(devices, name === 'vfio' ? '/dev/vfio/vfio' : '/dev/iommu'));
  return sysfs.nodes;
}

function numberOf(devices: ReadonlyMap<string, VirtualNode>, path: string): string {
  const stat = devices.get(path)?.stat;
  return stat === undefined ? '0:0' : `${stat.major}:${stat.minor}`;
}

function addDevFiles(sysfs: SysfsNodes, devices: ReadonlyMap<string, VirtualNode>): void {
  for (const path of devices.keys())
    if (path.startsWith('/dev/vfio/') && path !== '/dev/vfio/devices')
      sysfs.bytes(path, 0, () => new Uint8Array(), 0o660);
  sysfs.directory('/dev/vfio/devices');
}

function addModules(sysfs: SysfsNodes): void {
  for (const name of MODULES) {
    sysfs.text(`/sys/module/${name}/initstate`, 'live');
    sysfs.text(`/sys/module/${name}/refcnt`, '0');
  }
  // drivers/vfio/vfio_main.c: DPDK asks for this one.
  sysfs.text('/sys/module/vfio/parameters/enable_unsafe_noiommu_mode', 'N', 0o444);
}

/** A device node's `dev` and `uevent`, and the place where both are found by number. */
function addNumbers(sysfs: SysfsNodes, path: string, number: string, file: string): void {
  const [major, minor] = number.split(':');
  sysfs.text(`${path}/dev`, number);
  sysfs.text(`${path}/uevent`, `MAJOR=${major}\nMINOR=${minor}\nDEVNAME=${file}`, 0o644);
  sysfs.link(`/sys/dev/char/${number}`, path);
}

// drivers/vfio/vfio_main.c: the class vfio-dev.
function addVfioDevice(sysfs: SysfsNodes, view: PciFunctionView, number: string): void {
  const name = `vfio${view.vfio}`;
  const path = `${functionPath(view.name)}/vfio-dev/${name}`;
  addNumbers(sysfs, path, number, `vfio/devices/${name}`);
  sysfs.link(`${path}/device`, functionPath(view.name));
  sysfs.link(`${path}/subsystem`, '/sys/class/vfio-dev');
  sysfs.link(`/sys/class/vfio-dev/${name}`, path);
}

// drivers/iommu/iommu.c iommu_group_alloc(), and drivers/vfio/group.c: the class vfio.
function addGroup(sysfs: SysfsNodes, view: PciFunctionView, number: string): void {
  const group = `/sys/kernel/iommu_groups/${view.group}`;
  sysfs.link(`${group}/devices/${view.name}`, functionPath(view.name));
  sysfs.link(`${functionPath(view.name)}/iommu_group`, group);
  if (sysfs.nodes.has(`${group}/type`)) return;
  sysfs.text(`${group}/type`, 'DMA', 0o644);
  sysfs.bytes(`${group}/reserved_regions`, 4096, () => new TextEncoder().encode(reservedRegions(view)));
  const device = `${GROUP_DEVICES}/${view.group}`;
  addNumbers(sysfs, device, number, `vfio/${view.group}`);
  sysfs.link(`${device}/subsystem`, '/sys/class/vfio');
  sysfs.link(`/sys/class/vfio/${view.group}`, device);
}

// drivers/iommu/iommu.c iommu_group_show_resv_regions()
function reservedRegions(view: PciFunctionView): string {
  const hex = (value: bigint): string => `0x${value.toString(16).padStart(16, '0')}`;
  return view
    .reserved()
    .map(({ start, last, type }) => `${hex(start)} ${hex(last)} ${type}\n`)
    .join('');
}

// drivers/iommu/iommu-sysfs.c iommu_device_sysfs_add(), iommu_device_link()
function addIommu(sysfs: SysfsNodes, view: PciFunctionView): void {
  const path = `${IOMMU_DEVICES}/${view.iommu}`;
  sysfs.link(`${path}/devices/${view.name}`, functionPath(view.name));
  sysfs.link(`${functionPath(view.name)}/iommu`, path);
  if (sysfs.nodes.has(`${path}/uevent`)) return;
  sysfs.text(`${path}/uevent`, '', 0o644);
  sysfs.link(`${path}/subsystem`, '/sys/class/iommu');
  sysfs.link(`/sys/class/iommu/${view.iommu}`, path);
}

function addMisc(sysfs: SysfsNodes, name: string, number: string): void {
  const path = `${MISC_DEVICES}/${name}`;
  addNumbers(sysfs, path, number, name === 'vfio' ? 'vfio/vfio' : name);
  sysfs.link(`${path}/subsystem`, '/sys/class/misc');
  sysfs.link(`/sys/class/misc/${name}`, path);
}
