import { assert } from '../../base/assert.ts';
import * as abi from '../../abi/iommufd.ts';
import * as rfc from '../../abi/rfc-2023-12.ts';
import * as vfio from '../../abi/vfio.ts';
import { VIOMMU_DEVICE_DMA, VIOMMU_DEVICE_DMA_WRITE, viommu_device_dma } from '../../abi/viommu.ts';
import { GuestMemory } from '../../iommu/testing/guest.ts';
import { BUFFER, PAGE, Program, type Answer } from '../../iommufd/testing/program.ts';
import type { Kernel } from '../kernel.ts';
import { bytesOf, textOf } from '../../base/testing/ascii.ts';

// For tests: a VMM that has devices of a machine from VFIO, and a guest's memory.

const MIB = 0x10_0000n;
/** Where the guest has its memory, and where the VMM has it. */
export const GUEST = 0x4000_0000n;
const GUEST_VA = 0x7f00_0000_0000n;
const GUEST_BYTES = 16n * MIB;
const OTHER_VA = 0x7f10_0000_0000n;
/** A page of the guest beside that: {@link Vm.plug}. */
export const PLUGGED = 0x8000_0000n;
const PLUGGED_VA = 0x7f20_0000_0000n;
/** Data that a request points to, beside what Program puts to BUFFER. */
const DATA = BUFFER + 0x8000n;

/** A device that the VMM has. */
export interface Passed {
  /** Of its /dev/vfio/devices/vfioN. */
  readonly fd: number;
  /** In the iommufd. */
  readonly id: number;
}

/** What a request carries for a driver. */
export interface DriverData {
  readonly type: number;
  readonly bytes: Uint8Array;
  /** Bytes of an entry, where it is an array. */
  readonly entry?: number;
}

export class Vm extends Program {
  readonly ioasId: number;
  readonly guest: GuestMemory;
  #plugged = 0;

  constructor(kernel: Kernel, pid = 100) {
    super(kernel, pid);
    this.ioasId = this.ioas();
    this.guest = new GuestMemory(this, GUEST_VA, GUEST, GUEST_BYTES);
    this.map(this.ioasId, { iova: GUEST, va: GUEST_VA, length: GUEST_BYTES });
  }

  /** Opens and binds vfioN. */
  pass(index: number): Passed {
    const fd = this.openDevice(`/dev/vfio/devices/vfio${index}`);
    const { rc, out } = this.call(
      vfio.VFIO_DEVICE_BIND_IOMMUFD,
      vfio.vfio_device_bind_iommufd,
      { iommufd: this.fd },
      fd,
    );
    assert(rc === 0, `binding vfio${index} answers ${rc}`);
    return { fd, id: out.out_devid };
  }

  /** Attaches the device, or replaces what it has. The errno, 0 where it is done. */
  attach({ fd }: Passed, to: number): number {
    const layout = vfio.vfio_device_attach_iommufd_pt;
    return Math.abs(this.call(vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, layout, { pt_id: to }, fd).rc);
  }

  detach({ fd }: Passed): number {
    const layout = vfio.vfio_device_detach_iommufd_pt;
    return this.call(vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT, layout, {}, fd).rc;
  }

  /** Closes the device's file, which unbinds it. */
  giveBack({ fd }: Passed): void {
    this.process.close(fd);
  }

  /** What the device reads, or the errno. */
  deviceReads({ fd }: Passed, iova: bigint, length: number): string | number {
    const values = { flags: 0, iova, length: BigInt(length), data: DATA };
    const { rc } = this.call(VIOMMU_DEVICE_DMA, viommu_device_dma, values, fd);
    return rc === 0 ? textOf(this.read(DATA, length)) : -rc;
  }

  /** The errno, 0 where it arrived. */
  deviceWrites({ fd }: Passed, iova: bigint, text: string): number {
    this.write(DATA, bytesOf(text));
    const values = { flags: VIOMMU_DEVICE_DMA_WRITE, iova, length: BigInt(text.length), data: DATA };
    return Math.abs(this.call(VIOMMU_DEVICE_DMA, viommu_device_dma, values, fd).rc);
  }

  /** Gives the guest other memory in the place of all it has; `text` stands at the start of each page of it. */
  exchangeMemory(text: string): void {
    assert(this.unmap(this.ioasId, GUEST, GUEST_BYTES).rc === 0, 'the guest loses its memory');
    this.process.memory.map(OTHER_VA, GUEST_BYTES);
    for (let at = 0n; at < 0x10n; at++) this.write(OTHER_VA + at * PAGE, bytesOf(text));
    this.map(this.ioasId, { iova: GUEST, va: OTHER_VA, length: GUEST_BYTES });
  }

  /** Gives the guest a page at PLUGGED with that text, in the place of the one before. */
  plug(text: string): void {
    const va = PLUGGED_VA + BigInt(this.#plugged++) * PAGE;
    this.process.memory.map(va, PAGE);
    this.write(va, bytesOf(text));
    this.unmap(this.ioasId, PLUGGED, PAGE);
    this.map(this.ioasId, { iova: PLUGGED, va, length: PAGE });
  }

  /** A stage 2 of the guest's memory. */
  parent(device: Passed): number {
    return this.hwpt(device.id, this.ioasId, abi.IOMMU_HWPT_ALLOC_NEST_PARENT);
  }

  /** Linux's nested HWPT: on a parent or a viommu. The errno, or its id. */
  linuxNested(device: Passed, on: number, data: DriverData): { errno: number; id: number } {
    this.write(DATA, data.bytes);
    const { rc, out } = this.tryHwpt({
      dev_id: device.id,
      pt_id: on,
      data_type: data.type,
      data_len: data.bytes.length,
      data_uptr: DATA,
    });
    return { errno: Math.abs(rc), id: out.out_hwpt_id };
  }

  // ---- the trial uAPI ----

  tryRfcViommu(device: Passed, parent: number): Answer<typeof rfc.iommu_rfc_viommu_alloc> {
    const values = { dev_id: device.id, hwpt_id: parent };
    return this.call(rfc.IOMMU_RFC_VIOMMU_ALLOC, rfc.iommu_rfc_viommu_alloc, values);
  }

  rfcViommu(device: Passed, parent: number): number {
    const { rc, out } = this.tryRfcViommu(device, parent);
    assert(rc === 0, `a viommu answers ${rc}`);
    return out.out_viommu_id;
  }

  /** The errno, 0 where it is done. */
  assign(device: Passed, viommu: number, type: number, id: bigint): number {
    const values = { dev_id: device.id, viommu_id: viommu, id_type: type, id };
    return Math.abs(this.call(rfc.IOMMU_DEV_ASSIGN_VIRTUAL_ID, rfc.iommu_dev_assign_virtual_id, values).rc);
  }

  /** Gives the device a virtual id, where its kind of IOMMU has any. */
  name(device: Passed, viommu: number, type: number | null, id: bigint): void {
    if (type === null) return;
    const errno = this.assign(device, viommu, type, id);
    assert(errno === 0, `a virtual id answers ${errno}`);
  }

  tryRfcNested(
    device: Passed,
    parent: number,
    viommu: number,
    data: DriverData,
  ): Answer<typeof rfc.iommu_rfc_hwpt_alloc> {
    this.write(DATA, data.bytes);
    return this.call(rfc.IOMMU_RFC_HWPT_ALLOC, rfc.iommu_rfc_hwpt_alloc, {
      dev_id: device.id,
      pt_id: parent,
      viommu_id: viommu,
      data_type: data.type,
      data_len: data.bytes.length,
      data_uptr: DATA,
    });
  }

  /** A nested HWPT; `viommu` 0 for none. */
  rfcNested(device: Passed, parent: number, viommu: number, data: DriverData): number {
    const { rc, out } = this.tryRfcNested(device, parent, viommu, data);
    assert(rc === 0, `a nested HWPT answers ${rc}`);
    return out.out_hwpt_id;
  }

  /** Which physical IOMMU the device is behind. */
  piommu(device: Passed): number {
    const { rc, out } = this.call(rfc.IOMMU_RFC_GET_HW_INFO, rfc.iommu_rfc_hw_info, { dev_id: device.id });
    assert(rc === 0, `hw_info answers ${rc}`);
    return out.out_piommu_id;
  }

  #array(data: DriverData): {
    data_uptr: bigint;
    data_type: number;
    entry_len: number;
    entry_num: number;
  } {
    this.write(DATA, data.bytes);
    const entry = data.entry ?? data.bytes.length;
    return {
      data_uptr: DATA,
      data_type: data.type,
      entry_len: entry,
      entry_num: data.bytes.length / entry,
    };
  }

  /** The errno, and how many entries were handled. */
  devInvalidate(device: Passed, data: DriverData): [errno: number, handled: number] {
    const values = { dev_id: device.id, ...this.#array(data) };
    const { rc, out } = this.call(rfc.IOMMU_DEV_INVALIDATE, rfc.iommu_dev_invalidate, values);
    return [Math.abs(rc), out.entry_num];
  }

  iotlbSync(hwpt: number, data: DriverData): [errno: number, handled: number] {
    const values = { hwpt_id: hwpt, ...this.#array(data) };
    const { rc, out } = this.call(rfc.IOMMU_HWPT_IOTLB_SYNC, rfc.iommu_hwpt_iotlb_sync, values);
    return [Math.abs(rc), out.entry_num];
  }

  /** Linux's IOMMU_HWPT_INVALIDATE, on a nested HWPT or a viommu. */
  hwptInvalidate(on: number, data: DriverData): [errno: number, handled: number] {
    const values = { hwpt_id: on, ...this.#array(data) };
    const { rc, out } = this.call(abi.IOMMU_HWPT_INVALIDATE, abi.iommu_hwpt_invalidate, values);
    return [Math.abs(rc), out.entry_num];
  }
}
