import { fail, failed, type Result } from '../../base/result.ts';
import { big } from '../../base/u64.ts';
import { EEXIST, EINVAL, ENODEV, ENOSPC } from '../../abi/errno.ts';
import {
  VFIO_DEVICE_IOEVENTFD_SIZE_MASK,
  VFIO_PCI_BAR5_REGION_INDEX,
  vfio_device_ioeventfd,
} from '../../abi/vfio.ts';
import type { Eventfd, Task } from '../../memory/process.ts';
import { widestAccess, type Bar, type BarAccessSize } from '../../pci/bar.ts';
import type { PciFunction } from '../../pci/function.ts';
import { readPart } from '../user-struct.ts';
import type { VfioBars } from './bars.ts';
import { regionAt } from './regions.ts';

// drivers/vfio/pci/vfio_pci_rdwr.c vfio_pci_ioeventfd(): an eventfd of the program whose signal is a store to a BAR.

/** drivers/vfio/pci/vfio_pci_priv.h VFIO_PCI_IOEVENTFD_MAX */
const IOEVENTFDS_MAX = 1000;

/** Where a store goes. */
interface Place {
  readonly index: number;
  readonly at: number;
  readonly kind: Bar['kind'];
}

export class VfioIoeventfds {
  readonly #pci: PciFunction;
  readonly #bars: VfioBars;
  readonly #memoryEnabled: () => boolean;
  readonly #eventfds = new Map<string, Eventfd>();

  constructor(pci: PciFunction, bars: VfioBars, memoryEnabled: () => boolean) {
    this.#pci = pci;
    this.#bars = bars;
    this.#memoryEnabled = memoryEnabled;
  }

  /** VFIO_DEVICE_IOEVENTFD; a descriptor of -1 takes one away. */
  set({ process }: Task, arg: bigint): Result<void> {
    const minsz = vfio_device_ioeventfd.endOf('fd');
    const bytes = readPart(process.memory, arg, minsz, vfio_device_ioeventfd.size);
    if (failed(bytes)) return bytes;
    const { argsz, flags, offset, data, fd } = vfio_device_ioeventfd.read(bytes);
    if (argsz < minsz || (flags & ~VFIO_DEVICE_IOEVENTFD_SIZE_MASK) !== 0)
      return fail(EINVAL, 'argsz is too small, or flags are unknown');
    const size = flags as BarAccessSize;
    if (![1, 2, 4, 8].includes(size) || fd < -1)
      return fail(EINVAL, 'one size at a time, and fd is -1 or more');
    const place = this.#place(offset, size);
    if (failed(place)) return place;
    const key = `${place.index}:${place.at}:${size}:${data}`;
    const known = this.#eventfds.get(key);
    if (known !== undefined) {
      if (fd !== -1) return fail(EEXIST, 'there is an eventfd for this store');
      known.release();
      this.#eventfds.delete(key);
      return;
    }
    if (fd < 0) return fail(ENODEV, 'there is no eventfd for this store');
    if (this.#eventfds.size >= IOEVENTFDS_MAX) return fail(ENOSPC, `there are ${IOEVENTFDS_MAX} already`);
    const eventfd = process.eventfd(fd);
    if (failed(eventfd)) return eventfd;
    this.#eventfds.set(key, eventfd);
    eventfd.watch(() => {
      if (this.#memoryEnabled() || place.kind === 'io') this.#store(place, size, data);
    });
  }

  /** A store that is not aligned is as many as it takes. */
  #store({ index, at }: Place, size: number, data: bigint): void {
    for (let done = 0; done < size;) {
      const part = widestAccess(at + done, size - done);
      const value = BigInt.asUintN(8 * part, data >> big(8 * done));
      this.#pci.writeBar(index, at + done, part, value);
      done += part;
    }
  }

  #place(offset: bigint, size: number): Result<Place> {
    const place = regionAt(offset);
    if (place === null || place.index > VFIO_PCI_BAR5_REGION_INDEX) return fail(EINVAL, 'not in a BAR');
    const { index, at } = place;
    const bar = this.#bars.bar(index);
    if (bar === null || big(at) + big(size) > big(bar.size)) return fail(EINVAL, `beyond BAR ${index}`);
    const hole = this.#bars.excluded(index);
    if (hole !== null && at + size > hole.start && at < hole.end)
      return fail(EINVAL, 'the MSI-X table is the kernel’s');
    return { index, at, kind: bar.kind };
  }

  release(): void {
    for (const eventfd of this.#eventfds.values()) eventfd.release();
    this.#eventfds.clear();
  }
}
