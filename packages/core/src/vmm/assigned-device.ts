import { fail, failed, type Result } from '../base/result.ts';
import { exact } from '../base/u64.ts';
import { EINVAL } from '../abi/errno.ts';
import * as abi from '../abi/iommufd.ts';
import {
  VFIO_DEVICE_ATTACH_IOMMUFD_PT,
  VFIO_DEVICE_ATTACH_PASID,
  VFIO_DEVICE_BIND_IOMMUFD,
  VFIO_DEVICE_DETACH_IOMMUFD_PT,
  VFIO_DEVICE_DETACH_PASID,
  VFIO_DEVICE_GET_REGION_INFO,
  vfio_device_attach_iommufd_pt,
  vfio_device_bind_iommufd,
  vfio_device_detach_iommufd_pt,
  vfio_region_info,
} from '../abi/vfio.ts';
import {
  VIOMMU_DEVICE_DMA,
  VIOMMU_DEVICE_DMA_PASID,
  VIOMMU_DEVICE_DMA_WRITE,
  viommu_device_dma,
} from '../abi/viommu.ts';
import type { Program } from './program.ts';

/** What an IOMMU says of itself through a device behind it. */
export interface HardwareInfo {
  readonly type: number;
  readonly data: Uint8Array;
  readonly capabilities: bigint;
  readonly maxPasidLog2: number;
}

const HW_INFO_BYTES_MAX = 64;

/** A device that the VMM has from VFIO and gives to its guest. */
export class AssignedDevice {
  readonly name: string;
  /** Its id in the iommufd. */
  readonly id: number;
  readonly #program: Program;
  readonly #iommufd: number;
  readonly #fd: number;
  readonly #regions = new Map<number, { readonly offset: bigint; readonly size: bigint }>();

  /** Opens the cdev at `path` and binds it. */
  static open(program: Program, iommufd: number, path: string): Result<AssignedDevice> {
    const fd = program.open(path);
    if (failed(fd)) return fd;
    const bound = program.request(fd, VFIO_DEVICE_BIND_IOMMUFD, vfio_device_bind_iommufd, { iommufd });
    if (failed(bound)) {
      program.close(fd);
      return bound;
    }
    return new AssignedDevice(program, iommufd, fd, path, bound.out_devid);
  }

  private constructor(program: Program, iommufd: number, fd: number, name: string, id: number) {
    this.#program = program;
    this.#iommufd = iommufd;
    this.#fd = fd;
    this.name = name;
    this.id = id;
  }

  /** Attaches requests without a PASID, or those with `pasid`, to an IOAS or a HWPT, in place of what they had. */
  attach(ptId: number, pasid: number | null = null): Result<void> {
    const flags = pasid === null ? 0 : VFIO_DEVICE_ATTACH_PASID;
    const done = this.#program.request(
      this.#fd,
      VFIO_DEVICE_ATTACH_IOMMUFD_PT,
      vfio_device_attach_iommufd_pt,
      { flags, pt_id: ptId, pasid: pasid ?? 0 },
    );
    if (failed(done)) return done;
  }

  detach(pasid: number | null = null): void {
    const flags = pasid === null ? 0 : VFIO_DEVICE_DETACH_PASID;
    const values = { flags, pasid: pasid ?? 0 };
    this.#program.request(this.#fd, VFIO_DEVICE_DETACH_IOMMUFD_PT, vfio_device_detach_iommufd_pt, values);
  }

  close(): void {
    this.#program.close(this.#fd);
  }

  /** IOMMU_GET_HW_INFO. */
  hardwareInfo(): Result<HardwareInfo> {
    const at = this.#program.place(new Uint8Array(HW_INFO_BYTES_MAX));
    const values = { dev_id: this.id, data_len: HW_INFO_BYTES_MAX, data_uptr: at };
    const info = this.#program.request(this.#iommufd, abi.IOMMU_GET_HW_INFO, abi.iommu_hw_info, values);
    if (failed(info)) return info;
    return {
      type: info.out_data_type,
      data: this.#program.placed(HW_INFO_BYTES_MAX),
      capabilities: info.out_capabilities,
      maxPasidLog2: info.out_max_pasid_log2,
    };
  }

  /** One DMA of the device, without a driver of it: VIOMMU_DEVICE_DMA. What was read. EIO where the IOMMU refuses. */
  dmaRead(iova: bigint, bytes: number, pasid: number | null = null): Result<Uint8Array> {
    const done = this.#dma(0, iova, new Uint8Array(bytes), pasid);
    return failed(done) ? done : this.#program.placed(bytes);
  }

  dmaWrite(iova: bigint, bytes: Uint8Array, pasid: number | null = null): Result<void> {
    const done = this.#dma(VIOMMU_DEVICE_DMA_WRITE, iova, bytes, pasid);
    if (failed(done)) return done;
  }

  #dma(flags: number, iova: bigint, bytes: Uint8Array, pasid: number | null): Result<unknown> {
    return this.#program.request(this.#fd, VIOMMU_DEVICE_DMA, viommu_device_dma, {
      flags: flags | (pasid === null ? 0 : VIOMMU_DEVICE_DMA_PASID),
      pasid: pasid ?? 0,
      iova,
      length: BigInt(bytes.length),
      data: this.#program.place(bytes),
    });
  }

  // ---- what the guest's loads and stores become ----

  /** A load of 1, 2, 4 or 8 bytes from a region (a BAR, or configuration space); all ones where nothing answers. */
  load(region: number, offset: number, bytes: number): bigint {
    const place = this.#region(region);
    const got = failed(place) ? place : this.#program.readAt(this.#fd, bytes, place.offset + BigInt(offset));
    if (failed(got)) return (1n << BigInt(8 * bytes)) - 1n;
    return got.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n);
  }

  store(region: number, offset: number, bytes: number, value: bigint): void {
    const place = this.#region(region);
    if (failed(place)) return;
    const from = Uint8Array.from({ length: bytes }, (_, i) => exact((value >> BigInt(8 * i)) & 0xffn));
    this.#program.writeAt(this.#fd, from, place.offset + BigInt(offset));
  }

  #region(index: number): Result<{ readonly offset: bigint; readonly size: bigint }> {
    const known = this.#regions.get(index);
    if (known !== undefined) return known;
    const info = this.#program.request(this.#fd, VFIO_DEVICE_GET_REGION_INFO, vfio_region_info, { index });
    if (failed(info)) return info;
    if (info.size === 0n) return fail(EINVAL, `${this.name} has no region ${index}`);
    this.#regions.set(index, info);
    return info;
  }
}
