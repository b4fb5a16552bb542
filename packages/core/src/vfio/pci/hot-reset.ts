import { fail, failed, type Result } from '../../base/result.ts';
import { big } from '../../base/u64.ts';
import { EBADF, EFAULT, EINVAL, ENODEV, ENOSPC } from '../../abi/errno.ts';
import {
  VFIO_PCI_DEVID_NOT_OWNED,
  VFIO_PCI_DEVID_OWNED,
  VFIO_PCI_HOT_RESET_FLAG_DEV_ID,
  VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED,
  vfio_pci_dependent_device,
  vfio_pci_hot_reset,
  vfio_pci_hot_reset_info,
} from '../../abi/vfio.ts';
import type { IommufdContext } from '../../iommufd/context.ts';
import type { Process, Task } from '../../memory/process.ts';
import type { VfioDeviceState } from '../device.ts';
import type { VfioGroupFile } from '../group-file.ts';
import { readPart } from '../user-struct.ts';

// Resets of a whole bus, which all the functions on it must be in the program's hands for: vfio_pci_core.c.

interface Address {
  readonly segment: number;
  readonly bus: number;
  readonly devfn: number;
}

function addressOf(name: string): Address {
  const [segment = '0', bus = '0', slot = '0'] = name.split(':');
  const [device = '0', fn = '0'] = slot.split('.');
  const hex = (text: string): number => Number.parseInt(text, 16);
  return { segment: hex(segment), bus: hex(bus), devfn: (hex(device) << 3) | hex(fn) };
}

/** The functions that a reset of the device's bus reaches; none on a root bus, which cannot be reset. */
function resetWith(state: VfioDeviceState): readonly VfioDeviceState[] {
  const { segment, bus } = addressOf(state.name);
  if (bus === 0) return [];
  return state.siblings.filter((other) => {
    const there = addressOf(other.name);
    return there.segment === segment && there.bus === bus;
  });
}

/** vfio_pci_ioctl_get_pci_hot_reset_info() */
export function getHotResetInfo(state: VfioDeviceState, { process }: Task, arg: bigint): Result<void> {
  const { memory } = process;
  const layout = vfio_pci_hot_reset_info;
  const bytes = readPart(memory, arg, layout.size, layout.size);
  if (failed(bytes)) return bytes;
  const header = layout.read(bytes);
  if (header.argsz < layout.size) return fail(EINVAL, 'argsz is too small');
  const devices = resetWith(state);
  if (devices.length === 0) return fail(ENODEV, `${state.name} is on a root bus, which cannot be reset`);
  header.flags = 0;
  header.count = devices.length;
  const each = vfio_pci_dependent_device.size;
  const room = Math.floor((header.argsz - layout.size) / each);
  const list = new Uint8Array(devices.length * each);
  if (devices.length <= room) {
    header.flags = fillDevices(state, devices, list);
    if (!memory.write(arg + big(layout.size), list)) return fail(EFAULT, 'the devices cannot be written');
  }
  layout.write(bytes, 0, header);
  if (!memory.write(arg, bytes)) return fail(EFAULT, 'the answer cannot be written');
  if (devices.length > room) return fail(ENOSPC, `there are ${devices.length} devices`);
}

// vfio_pci_fill_devs(): answers the flags.
function fillDevices(state: VfioDeviceState, devices: readonly VfioDeviceState[], into: Uint8Array): number {
  const context = state.cdevOpened ? state.context : null;
  let flags = context === null ? 0 : VFIO_PCI_HOT_RESET_FLAG_DEV_ID | VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED;
  for (const [index, device] of devices.entries()) {
    const { segment, bus, devfn } = addressOf(device.name);
    const devid =
      context === null ? device.group.id : (deviceId(device, context) ?? VFIO_PCI_DEVID_NOT_OWNED);
    if (context !== null && devid === VFIO_PCI_DEVID_NOT_OWNED)
      flags &= ~VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED;
    const entry = { devid, segment, bus, devfn };
    vfio_pci_dependent_device.write(into, index * vfio_pci_dependent_device.size, entry);
  }
  return flags;
}

/** vfio_iommufd_get_dev_id(): null where the device is not the iommufd's. */
function deviceId(device: VfioDeviceState, context: IommufdContext): number | null {
  if (device.context === context) return device.deviceId;
  return context.groups.has(device.group.id) ? VFIO_PCI_DEVID_OWNED : null;
}

/** vfio_pci_ioctl_pci_hot_reset() */
export function hotReset(state: VfioDeviceState, { process }: Task, arg: bigint): Result<void> {
  const bytes = readPart(process.memory, arg, vfio_pci_hot_reset.size, vfio_pci_hot_reset.size);
  if (failed(bytes)) return bytes;
  const { argsz, flags, count } = vfio_pci_hot_reset.read(bytes);
  if (argsz < vfio_pci_hot_reset.size || flags !== 0)
    return fail(EINVAL, 'argsz is too small, or flags are not 0');
  if ((count !== 0) === state.cdevOpened)
    return fail(EINVAL, 'groups are named where the device was opened by its group, and nowhere else');
  const devices = resetWith(state);
  if (devices.length === 0) return fail(ENODEV, `${state.name} is on a root bus, which cannot be reset`);
  const owns = count === 0 ? ownedBy(state.context) : ownedByGroups(process, arg, count, devices.length);
  if (failed(owns)) return owns;
  const foreign = devices.find((device) => !owns(device));
  if (foreign !== undefined) return fail(EINVAL, `${foreign.name} is on the bus, and not the program's`);
  for (const device of devices) device.resetByBus();
}

type Owns = (device: VfioDeviceState) => boolean;

function ownedBy(context: IommufdContext | null): Owns {
  return (device) => context !== null && deviceId(device, context) !== null;
}

// vfio_pci_ioctl_pci_hot_reset_groups()
function ownedByGroups(process: Process, arg: bigint, count: number, most: number): Result<Owns> {
  if (count > most) return fail(EINVAL, 'more groups than devices');
  const bytes = new Uint8Array(count * 4);
  if (!process.memory.read(arg + big(vfio_pci_hot_reset.size), bytes))
    return fail(EFAULT, 'the groups cannot be read');
  const view = new DataView(bytes.buffer);
  const groups = new Set<number>();
  for (let at = 0; at < bytes.length; at += 4) {
    const file = process.file(view.getInt32(at, true));
    if (file === null) return fail(EBADF, 'a descriptor is not open');
    if (!('ioctl' in file) || file.type !== 'vfio-group')
      return fail(EINVAL, 'a descriptor is not of a group');
    groups.add((file as VfioGroupFile).group.id);
  }
  return (device) => groups.has(device.group.id);
}
