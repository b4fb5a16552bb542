import { assert } from '../../../base/assert.ts';
import { readField, type Field } from '../../../base/bit-fields.ts';
import { failed, type Result } from '../../../base/result.ts';
import { hex } from '../../../base/u64.ts';
import {
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_HWPT_DATA_VTD_S1,
  IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
} from '../../../abi/iommufd.ts';
import { iommu_hwpt_vtd_s1, iommu_hwpt_vtd_s1_invalidate } from '../../../abi/iommufd-data.ts';
import { SimulatedMemory } from '../../../memory/simulated-process.ts';
import { AtsRequester } from '../../requests/ats-requester.ts';
import { Atc } from '../../caches/cache-atc.ts';
import type { DmaEndpoint, PageRequestMessage, PageResponseMessage } from '../../requests/dma-port.ts';
import { IOMMU_CACHE, IOMMU_READ, IOMMU_WRITE, type IommuDomain, type Kernel } from '../../driver.ts';
import { IommuGroup } from '../../group.ts';
import type { IntelDevice, IntelFunctionOptions } from '../driver/device.ts';
import { IntelIommuDriver, type IntelIommuDriverOptions } from '../driver/driver.ts';
import type { IntelNestedDomain } from '../driver/domains/nested-domain.ts';
import type { IntelPagingDomain } from '../driver/domains/paging-domain.ts';
import { intelConfig, type ConfigOverrides } from '../hardware/registers/config.ts';
import { IntelUnit } from '../platform.ts';
import type { IntelPort } from '../port.ts';
import {
  CC_INV_DSC,
  DESC,
  DEV_TLB_INV_DSC,
  INV_WAIT_DSC,
  IOTLB_INV_DSC,
  PAGE_GRP_RESP_DSC,
  PC_INV_DSC,
  P_DEV_TLB_INV_DSC,
  P_IOTLB_INV_DSC,
} from '../spec/invalidation.ts';
import { bytesOf, textOf } from '../../../base/testing/ascii.ts';

// For tests of the driver without iommufd.

export const PROT = IOMMU_READ | IOMMU_WRITE | IOMMU_CACHE;
export const PAGE = 0x1000n;
const GRANULARITY = ['reserved', 'global', 'domain', 'device/page'] as const;
const PASID_GRANULARITY = ['domain', 'pasid', 'reserved', 'global'] as const;

/** A descriptor as a person reads it: what it empties, and of whom. Waits without anything of their own are left out. */
function describeDescriptor(words: readonly number[]): string | null {
  const get = (field: Field): number => readField(field, words);
  const address = (field: Field): string => hex(BigInt(get(field)) << 12n);
  switch (words[0]! & 0xf) {
    case DESC.CC_INV:
      return `context ${GRANULARITY[get(CC_INV_DSC.G)]} did=${get(CC_INV_DSC.DID)} sid=${hex(get(CC_INV_DSC.SID))}`;
    case DESC.PC_INV:
      return `pasid-cache ${PASID_GRANULARITY[get(PC_INV_DSC.G)]} did=${get(PC_INV_DSC.DID)} pasid=${get(PC_INV_DSC.PASID)}`;
    case DESC.IOTLB_INV: {
      const g = get(IOTLB_INV_DSC.G);
      const drains = `${get(IOTLB_INV_DSC.DR) !== 0 ? ' dr' : ''}${get(IOTLB_INV_DSC.DW) !== 0 ? ' dw' : ''}`;
      const what = `iotlb ${GRANULARITY[g]} did=${get(IOTLB_INV_DSC.DID)}`;
      if (g !== 3) return `${what}${drains}`;
      const hint = get(IOTLB_INV_DSC.IH) !== 0 ? ' ih' : '';
      return `${what} ${address(IOTLB_INV_DSC.ADDR)}+${get(IOTLB_INV_DSC.AM)}${hint}${drains}`;
    }
    case DESC.P_IOTLB_INV: {
      const what = `piotlb did=${get(P_IOTLB_INV_DSC.DID)} pasid=${get(P_IOTLB_INV_DSC.PASID)}`;
      if (get(P_IOTLB_INV_DSC.G) === 2) return `${what} all`;
      const hint = get(P_IOTLB_INV_DSC.IH) !== 0 ? ' ih' : '';
      return `${what} ${address(P_IOTLB_INV_DSC.ADDR)}+${get(P_IOTLB_INV_DSC.AM)}${hint}`;
    }
    case DESC.DEV_TLB_INV: {
      const pfsid = (get(DEV_TLB_INV_DSC.PFSID_HI) << 4) | get(DEV_TLB_INV_DSC.PFSID_LO);
      const size = get(DEV_TLB_INV_DSC.S) !== 0 ? ' s' : '';
      return `devtlb sid=${hex(get(DEV_TLB_INV_DSC.SID))} pfsid=${hex(pfsid)} ${address(DEV_TLB_INV_DSC.ADDR)}${size}`;
    }
    case DESC.P_DEV_TLB_INV: {
      const size = get(P_DEV_TLB_INV_DSC.S) !== 0 ? ' s' : '';
      const whose = `sid=${hex(get(P_DEV_TLB_INV_DSC.SID))} pasid=${get(P_DEV_TLB_INV_DSC.PASID)}`;
      return `pdevtlb ${whose} ${address(P_DEV_TLB_INV_DSC.ADDR)}${size}`;
    }
    case DESC.PAGE_GRP_RESP:
      return `response rid=${hex(get(PAGE_GRP_RESP_DSC.RID))} prgi=${get(PAGE_GRP_RESP_DSC.PRGI)} code=${get(PAGE_GRP_RESP_DSC.RC)}`;
    case DESC.INV_WAIT:
      if (get(INV_WAIT_DSC.PD) !== 0) return 'wait drain';
      return get(INV_WAIT_DSC.FN) !== 0 ? 'wait fence' : null;
    default:
      return `type ${words[0]! & 0xf}`;
  }
}

/** A function behind a unit, with a translation cache of its own where it has ATS. */
export class RigFunction implements DmaEndpoint {
  readonly device: IntelDevice;
  readonly port: IntelPort;
  readonly atc = new Atc();
  readonly responses: PageResponseMessage[] = [];
  answersInvalidations = true;
  /** Page requests that it may have outstanding: 0 where they are off. */
  outstanding = 0;
  readonly #requester: AtsRequester;

  constructor(
    unit: IntelUnit,
    options: IntelFunctionOptions & { readonly withAts: boolean; readonly withPri: boolean },
  ) {
    const pri = {
      enable: (most: number) => void (this.outstanding = most),
      disable: () => void (this.outstanding = 0),
    };
    const ats = { enable: () => this.atc.enable(true), disable: () => this.atc.enable(false) };
    const { withAts, withPri, ...rest } = options;
    const features = { ats: withAts ? ats : null, pri: withPri ? pri : null };
    const made = unit.addFunction({ ...rest, ...features }, (port) => port.connect(this));
    assert(!failed(made), 'the device is probed');
    this.device = made.device;
    this.port = made.port;
    this.#requester = new AtsRequester(this.port, this.atc);
  }

  invalidate(request: Parameters<DmaEndpoint['invalidate']>[0]): boolean {
    if (this.answersInvalidations) this.atc.invalidate(request);
    return this.answersInvalidations;
  }

  pageResponse(response: PageResponseMessage): void {
    this.responses.push(response);
  }

  /** What the device reads in three bytes, or `fault`. */
  read(address: bigint, pasid: number | null = null): string {
    const data = new Uint8Array(3);
    const stopped = this.#requester.access({ address, pasid, write: false }, data);
    return stopped === null ? textOf(data) : 'fault';
  }

  /** Why a read stops, or null. */
  fault(address: bigint, pasid: number | null = null): string | null {
    return this.#requester.access({ address, pasid, write: false }, new Uint8Array(3))?.reason ?? null;
  }

  /** Asks for a page, as the last of its group unless told otherwise. */
  request(address: bigint, prgIndex: number, options: Partial<PageRequestMessage> = {}): void {
    const asked = { read: true, write: false, last: true, pasid: null, ...options };
    this.port.requestPage({ address, prgIndex, ...asked });
  }

  write(address: bigint, text: string, pasid: number | null = null): string {
    const stopped = this.#requester.access({ address, pasid, write: true }, bytesOf(text));
    return stopped === null ? 'done' : 'fault';
  }
}

export interface RigOptions extends ConfigOverrides {
  readonly units?: number;
  readonly driver?: IntelIommuDriverOptions;
}

/** VT-d units, and devices behind them, with the driver's own functions for everything. */
export class Rig {
  readonly kernel: Kernel;
  readonly driver: IntelIommuDriver;
  readonly units: IntelUnit[] = [];
  readonly memory = new SimulatedMemory();
  /** What the kernel logged. */
  readonly logs: string[] = [];
  readonly #seen: string[] = [];
  #groups = 0;

  constructor(kernel: Kernel, { units = 1, driver = {}, ...overrides }: RigOptions = {}) {
    this.kernel = kernel;
    this.driver = new IntelIommuDriver(kernel, driver);
    this.memory.map(0x1000n, 0x10000n);
    kernel.trace.subscribe((event) => {
      if (event.kind === 'log') this.logs.push(String(event['text']));
      if (event.kind !== 'command') return;
      const text = describeDescriptor(event['words'] as number[]);
      if (text !== null) this.#seen.push(text);
    });
    for (let i = 0; i < units; i++) {
      const unit = IntelUnit.create(this.driver, { name: `dmar${i}`, config: intelConfig(overrides) });
      if (failed(unit)) throw new Error(unit.reason);
      this.units.push(unit);
    }
    this.take();
  }

  get unit(): IntelUnit {
    return this.units[0]!;
  }

  /** What was sent to the invalidation queues since the last look. */
  take(): string[] {
    return this.#seen.splice(0);
  }

  device(
    requesterId: number,
    options: Partial<IntelFunctionOptions> & {
      readonly withAts?: boolean;
      readonly withPri?: boolean;
      readonly unit?: number;
    } = {},
  ): RigFunction {
    const { unit = 0, withAts = false, withPri = false, ...rest } = options;
    return new RigFunction(this.units[unit]!, {
      name: `dev${requesterId.toString(16)}`,
      requesterId,
      group: new IommuGroup(this.kernel, this.#groups++),
      maxPasids: 256,
      pasidExec: false,
      pasidPriv: false,
      ats: null,
      withAts,
      withPri,
      ...rest,
    });
  }

  domain(device: RigFunction, flags = 0): IntelPagingDomain {
    const domain = this.driver.domainAllocPagingFlags(device.device, flags, this.memory, null);
    assert(!failed(domain), 'the domain is made');
    return domain as IntelPagingDomain;
  }

  parent(device: RigFunction, more = 0): IntelPagingDomain {
    return this.domain(device, IOMMU_HWPT_ALLOC_NEST_PARENT | more);
  }

  /** A nested domain, or why there is none. */
  nestedResult(
    device: RigFunction,
    parent: IntelPagingDomain,
    values: { flags?: bigint; pgtbl_addr?: bigint; addr_width?: number },
    flags = 0,
  ): Result<IommuDomain> {
    const bytes = new Uint8Array(iommu_hwpt_vtd_s1.size);
    iommu_hwpt_vtd_s1.write(bytes, 0, {
      flags: 0n,
      pgtbl_addr: 0n,
      addr_width: 48,
      __reserved: 0,
      ...values,
    });
    this.memory.write(0x1000n, bytes);
    const data = { type: IOMMU_HWPT_DATA_VTD_S1, uptr: 0x1000n, len: bytes.length };
    return this.driver.domainAllocNested(device.device, parent, flags, this.memory, data);
  }

  nested(device: RigFunction, parent: IntelPagingDomain, table: bigint, width = 48): IntelNestedDomain {
    const made = this.nestedResult(device, parent, { pgtbl_addr: table, addr_width: width });
    assert(!failed(made), 'the nested domain is made');
    return made as IntelNestedDomain;
  }

  /** The errno of an attach through the device's group, which changes what is attached; 0 where it is done. */
  attach(device: RigFunction, domain: IommuDomain, pasid = 0): number {
    const { group } = device.device;
    const handle = { domain };
    const known = group.handle(pasid) !== null;
    const done =
      pasid === 0
        ? known
          ? group.replace(domain, handle)
          : group.attach(domain, handle)
        : known
          ? group.replacePasid(domain, device.device, pasid, handle)
          : group.attachPasid(domain, device.device, pasid, handle);
    return failed(done) ? done.errno : 0;
  }

  detach(device: RigFunction, pasid = 0): void {
    const { group } = device.device;
    if (pasid === 0) group.detach();
    else group.detachPasid(group.handle(pasid)!.domain, pasid);
  }

  /** IOMMU_HWPT_INVALIDATE: the errno and how many were handled. */
  invalidate(
    domain: IntelNestedDomain,
    entries: readonly { addr?: bigint; npages?: bigint; flags?: number; __reserved?: number }[],
  ): { errno: number; handled: number } {
    const { size } = iommu_hwpt_vtd_s1_invalidate;
    const bytes = new Uint8Array(size * entries.length);
    for (const [index, entry] of entries.entries()) {
      const all = { addr: 0n, npages: 1n, flags: 0, __reserved: 0, ...entry };
      iommu_hwpt_vtd_s1_invalidate.write(bytes, index * size, all);
    }
    this.memory.write(0x2000n, bytes);
    const array = {
      type: IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
      uptr: 0x2000n,
      entryLen: size,
      entryNum: entries.length,
    };
    const done = domain.cacheInvalidateUser(this.memory, array);
    return { errno: failed(done) ? done.errno : 0, handled: array.entryNum };
  }

  /** RAM of the machine with a text at its start; its physical address. */
  ram(text: string, pages = 1): number {
    const pa = this.kernel.physical.allocate(pages);
    this.kernel.physical.write(pa, bytesOf(text));
    return pa;
  }
}

export const MAPPED_IOVA = 0x4000_0000n;

/** A device with a domain that has one page at {@link MAPPED_IOVA}, `abc`. */
export function mapped(
  rig: Rig,
  flags = 0,
  options: Parameters<Rig['device']>[1] = {},
): { device: RigFunction; domain: IntelPagingDomain; pa: number } {
  const device = rig.device(0x100, options);
  const domain = rig.domain(device, flags);
  const pa = rig.ram('abc');
  assert(!failed(domain.map(MAPPED_IOVA, pa, PAGE, PROT)), 'the page is mapped');
  assert(rig.attach(device, domain) === 0, 'the device is attached');
  rig.take();
  return { device, domain, pa };
}
