import { PASID_CACHE_GRANULARITY, P_IOTLB_GRANULARITY, DESC } from '../../spec/invalidation.ts';
import { CONTEXT_GRANULARITY, IOTLB_GRANULARITY } from '../../spec/registers.ts';
import type { DmarFeatures } from '../features.ts';

// Descriptors of the invalidation queue as the driver writes them: drivers/iommu/intel/iommu.h qi_desc_*() and dmar.c
// qi_flush_*(). Four words; the upper half of a 256-bit descriptor is zero in all of them.

/** qw0 and qw1 of struct qi_desc, the lower word of each first. */
export type Descriptor = readonly [number, number, number, number];

/** Orders of addresses: 2^order pages. At this one everything is meant (MAX_AGAW_PFN_WIDTH). */
export const ORDER_ALL = 52;

/** `page` times 4096, as two words, with `low` in the bits below. */
function addressWords(page: number, low: number): [number, number] {
  return [(((page * 4096) % 0x1_0000_0000) | low) >>> 0, Math.floor(page / 0x10_0000)];
}

/** qi_flush_context() */
export function contextCache(granularity: number, did: number, sid: number): Descriptor {
  return [(DESC.CC_INV | (granularity << 4) | (did << 16)) >>> 0, sid & 0xffff, 0, 0];
}
export const CONTEXT_GLOBAL = contextCache(CONTEXT_GRANULARITY.GLOBAL, 0, 0);

/** qi_flush_pasid_cache() */
function pasidCache(granularity: number, did: number, pasid: number): Descriptor {
  return [(DESC.PC_INV | (granularity << 4) | (did << 16)) >>> 0, pasid, 0, 0];
}
export const PASID_CACHE_GLOBAL = pasidCache(PASID_CACHE_GRANULARITY.GLOBAL, 0, 0);

/** pasid_cache_invalidation_with_pasid() */
export function pasidCacheOf(did: number, pasid: number): Descriptor {
  return pasidCache(PASID_CACHE_GRANULARITY.PASID, did, pasid);
}

type Drains = Pick<DmarFeatures, 'writeDrain' | 'readDrain'>;

/** qi_desc_iotlb() */
function iotlb(
  { writeDrain, readDrain }: Drains,
  granularity: number,
  did: number,
  page: number,
  low: number,
): Descriptor {
  const drains = (readDrain ? 1 << 7 : 0) | (writeDrain ? 1 << 6 : 0);
  const lo = (DESC.IOTLB_INV | (granularity << 4) | drains | (did << 16)) >>> 0;
  return [lo, 0, ...addressWords(page, low)];
}

export function iotlbGlobal(drains: Drains): Descriptor {
  return iotlb(drains, IOTLB_GRANULARITY.GLOBAL, 0, 0, 0);
}

/** DMA_TLB_DSI_FLUSH */
export function iotlbDomain(drains: Drains, did: number): Descriptor {
  return iotlb(drains, IOTLB_GRANULARITY.DOMAIN, did, 0, 0);
}

/** DMA_TLB_PSI_FLUSH: 2^`order` pages; with `hint`, tables that lead to them have not changed. */
export function iotlbPages(
  drains: Drains,
  did: number,
  page: number,
  order: number,
  hint: boolean,
): Descriptor {
  return iotlb(drains, IOTLB_GRANULARITY.PAGE, did, page, (hint ? 1 << 6 : 0) | (order & 0x3f));
}

/** qi_desc_piotlb_all() */
export function pasidIotlbAll(did: number, pasid: number): Descriptor {
  const lo = (DESC.P_IOTLB_INV | (P_IOTLB_GRANULARITY.PASID << 4) | (did << 16)) >>> 0;
  return [lo, pasid, 0, 0];
}

/** qi_desc_piotlb() */
export function pasidIotlbPages(
  did: number,
  pasid: number,
  page: number,
  order: number,
  hint: boolean,
): Descriptor {
  const lo = (DESC.P_IOTLB_INV | (P_IOTLB_GRANULARITY.PAGE << 4) | (did << 16)) >>> 0;
  return [lo, pasid, ...addressWords(page, (hint ? 1 << 6 : 0) | (order & 0x3f))];
}

/** A function whose translation cache is meant: its source-id, that of its PF where throttling wants it, its queue. */
export interface DeviceTlb {
  readonly requesterId: number;
  readonly pfsid: number;
  readonly queueDepth: number;
}

/** QI_DEV_IOTLB_MAX_INVS */
const QUEUE_DEPTH_MAX = 32;

/** The pages whose number ends in `order` - 1 ones above a zero: how a size is written (§6.5.2.5). */
function sizedPage(page: number, order: number): number {
  return order === 0 ? page : page - (page % 2 ** order) + 2 ** (order - 1) - 1;
}

/** qi_desc_dev_iotlb() */
export function deviceTlb(device: DeviceTlb, page: number, order: number): Descriptor {
  const depth = device.queueDepth >= QUEUE_DEPTH_MAX ? 0 : device.queueDepth & 0x1f;
  const { pfsid } = device;
  const lo = (DESC.DEV_TLB_INV | ((pfsid & 0xf) << 12) | (depth << 16)) >>> 0;
  const hi = ((device.requesterId & 0xffff) | ((pfsid & 0xfff0) << 16)) >>> 0;
  return [lo, hi, ...addressWords(sizedPage(page, order), order === 0 ? 0 : 1)];
}

/** QI_DEV_EIOTLB_SIZE */
const PASID_SIZE = 1 << 11;

/** qi_desc_dev_iotlb_pasid() */
export function pasidDeviceTlb(device: DeviceTlb, pasid: number, page: number, order: number): Descriptor {
  const { pfsid } = device;
  const depth = (device.queueDepth & 0x1f) << 4;
  const sid = (device.requesterId & 0xffff) << 16;
  const lo = (DESC.P_DEV_TLB_INV | depth | ((pfsid & 0xf) << 12) | sid) >>> 0;
  const hi = ((pasid & 0xf_ffff) | ((pfsid & 0xfff0) << 16)) >>> 0;
  const bounded = Math.min(order, ORDER_ALL);
  return [lo, hi, ...addressWords(sizedPage(page, bounded), bounded === 0 ? 0 : PASID_SIZE)];
}

/** Bits of a wait descriptor. */
export const WAIT = { STATUS_WRITE: 1 << 5, FENCE: 1 << 6, DRAIN: 1 << 7 } as const;

/** QI_IWD_TYPE: `status` is written to `address` where `flags` say so. */
export function wait(flags: number, status: number, address: number): Descriptor {
  const lo = (DESC.INV_WAIT | flags) >>> 0;
  return [lo, status, address >>> 0, Math.floor(address / 0x1_0000_0000)];
}

/** intel_iommu_page_response(): `pasid` is null for a request that came without. */
export function pageGroupResponse(
  requesterId: number,
  pasid: number | null,
  group: number,
  code: number,
): Descriptor {
  const present = pasid === null ? 0 : 1 << 4;
  const lo = (DESC.PAGE_GRP_RESP | present | (code << 12) | (requesterId << 16)) >>> 0;
  return [lo, pasid ?? 0, (group << 3) >>> 0, 0];
}
