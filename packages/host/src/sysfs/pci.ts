import { dirname } from 'node:path/posix';
import { EINVAL } from '@viommu/core/abi/errno';
import type { PciFunctionView, PciResource } from '@viommu/core/machine/devices/view';
import { parseUnsigned } from '../files/pseudo-files.ts';
import type { SysfsNodes } from './nodes.ts';

// A PCI function below /sys/devices and /sys/bus/pci: drivers/pci/pci-sysfs.c.

const DRIVER = 'vfio-pci';
const DRIVER_PATH = `/sys/bus/pci/drivers/${DRIVER}`;
/** drivers/base/bus.c: longer text is refused. */
const DRIVER_OVERRIDE_MAX = 4096;
const COMMAND = 4;
const REVISION = 8;
const CLASS = 9;
const SUBSYSTEM_VENDOR = 0x2c;
const SUBSYSTEM_DEVICE = 0x2e;
const INTERRUPT_LINE = 0x3c;
const COMMAND_MEMORY_OR_IO = 3;

/**
 * Where the function is in the tree of devices: bus 0 is a root bus; every other bus is behind a root port on the root
 * bus before it, so that nothing of ours lies below a bridge of the system's.
 */
export function functionPath(name: string): string {
  const port = rootPort(name);
  const parent = port ?? name;
  return `/sys/devices/pci${parent.slice(0, parent.lastIndexOf(':'))}${port === null ? '' : `/${port}`}/${name}`;
}

function rootPort(name: string): string | null {
  const [segment, bus] = name.split(':') as [string, string];
  const number = Number.parseInt(bus, 16);
  return number === 0 ? null : `${segment}:${(number - 1).toString(16).padStart(2, '0')}:1e.0`;
}

function hex(value: number, digits: number): string {
  return `0x${value.toString(16).padStart(digits, '0')}`;
}

/** Little-endian numbers of configuration space. */
function reader(view: PciFunctionView): (at: number, bytes: 1 | 2 | 3) => number {
  return (at, bytes) => {
    const config = view.config();
    let value = 0;
    for (let i = bytes - 1; i >= 0; i--) value = value * 256 + config[at + i]!;
    return value;
  };
}

/** Adds all that there is of a function. */
export function addPciFunction(sysfs: SysfsNodes, view: PciFunctionView): void {
  const path = functionPath(view.name);
  addIdentity(sysfs, path, view);
  addPlace(sysfs, path);
  addDriver(sysfs, path, view.name);
  addRemove(sysfs, path, view);
  sysfs.link(`${path}/subsystem`, '/sys/bus/pci');
  sysfs.link(`/sys/bus/pci/devices/${view.name}`, path);
  if (rootPort(view.name) !== null) addRootPort(sysfs, dirname(path));
}

// What leads to the function, and is nothing that a program could use.
function addRootPort(sysfs: SysfsNodes, path: string): void {
  sysfs.text(`${path}/class`, '0x060400');
  sysfs.link(`${path}/subsystem`, '/sys/bus/pci');
}

function addIdentity(sysfs: SysfsNodes, path: string, view: PciFunctionView): void {
  const at = reader(view);
  const attribute = (name: string, value: () => string, mode = 0o444): void =>
    sysfs.text(`${path}/${name}`, value, mode);
  attribute('vendor', () => hex(at(0, 2), 4));
  attribute('device', () => hex(at(2, 2), 4));
  attribute('subsystem_vendor', () => hex(at(SUBSYSTEM_VENDOR, 2), 4));
  attribute('subsystem_device', () => hex(at(SUBSYSTEM_DEVICE, 2), 4));
  attribute('class', () => hex(at(CLASS, 3), 6));
  attribute('revision', () => hex(at(REVISION, 1), 2));
  attribute('irq', () => String(at(INTERRUPT_LINE, 1) % 255));
  attribute('enable', () => ((at(COMMAND, 1) & COMMAND_MEMORY_OR_IO) === 0 ? '0' : '1'));
  attribute('modalias', () => modalias(at));
  attribute('uevent', () => uevent(view.name, at), 0o644);
  attribute('resource', () => view.resources().map(resourceLine).join('\n'));
  sysfs.bytes(`${path}/config`, view.config().length, () => view.config(), 0o644);
}

function upper(value: number, digits: number): string {
  return value.toString(16).toUpperCase().padStart(digits, '0');
}

function modalias(at: (at: number, bytes: 1 | 2 | 3) => number): string {
  const ids = `v${upper(at(0, 2), 8)}d${upper(at(2, 2), 8)}`;
  const subsystem = `sv${upper(at(SUBSYSTEM_VENDOR, 2), 8)}sd${upper(at(SUBSYSTEM_DEVICE, 2), 8)}`;
  const kind = `bc${upper(at(CLASS + 2, 1), 2)}sc${upper(at(CLASS + 1, 1), 2)}i${upper(at(CLASS, 1), 2)}`;
  return `pci:${ids}${subsystem}${kind}`;
}

// drivers/pci/pci-driver.c pci_uevent()
function uevent(name: string, at: (at: number, bytes: 1 | 2 | 3) => number): string {
  return [
    `DRIVER=${DRIVER}`,
    `PCI_CLASS=${upper(at(CLASS, 3), 1)}`,
    `PCI_ID=${upper(at(0, 2), 4)}:${upper(at(2, 2), 4)}`,
    `PCI_SUBSYS_ID=${upper(at(SUBSYSTEM_VENDOR, 2), 4)}:${upper(at(SUBSYSTEM_DEVICE, 2), 4)}`,
    `PCI_SLOT_NAME=${name}`,
    `MODALIAS=${modalias(at)}`,
  ].join('\n');
}

function resourceLine({ start, last, flags }: PciResource): string {
  return [start, last, BigInt(flags)].map((value) => `0x${value.toString(16).padStart(16, '0')}`).join(' ');
}

// What does not depend on what the function is.
function addPlace(sysfs: SysfsNodes, path: string): void {
  const fixed: Readonly<Record<string, string>> = {
    ari_enabled: '0',
    consistent_dma_mask_bits: '64',
    dma_mask_bits: '64',
    local_cpulist: '0',
    local_cpus: '1',
    numa_node: '-1',
    power_state: 'D0',
  };
  for (const [name, value] of Object.entries(fixed)) sysfs.text(`${path}/${name}`, value);
}

/**
 * drivers/pci/pci-sysfs.c remove_store(). DEVIATION: Linux's writer waits until whoever has the function gives it back; here
 * every write asks for it. And the function's directory stays.
 */
function addRemove(sysfs: SysfsNodes, path: string, view: PciFunctionView): void {
  sysfs.text(`${path}/remove`, '', 0o200, (text) => {
    const value = parseUnsigned(text);
    if (value === null || value === Infinity) return EINVAL;
    if (value !== 0) view.remove();
    return null;
  });
}

function addDriver(sysfs: SysfsNodes, path: string, name: string): void {
  sysfs.link(`${path}/driver`, DRIVER_PATH);
  sysfs.link(`${DRIVER_PATH}/${name}`, path);
  sysfs.link(`${DRIVER_PATH}/module`, '/sys/module/vfio_pci');
  // drivers/base/core.c device_set_driver_override(): an empty line means none.
  let override: string | null = DRIVER;
  sysfs.text(
    `${path}/driver_override`,
    () => override ?? '(null)',
    0o644,
    (text) => {
      if (text.length >= DRIVER_OVERRIDE_MAX) return EINVAL;
      const [line = ''] = text.split('\n');
      override = line === '' ? null : line;
      return null;
    },
  );
}
