import {
  IOMMU_DEV_ASSIGN_VIRTUAL_ID,
  IOMMU_DEV_INVALIDATE,
  IOMMU_HWPT_IOTLB_SYNC,
  IOMMU_RFC_GET_HW_INFO,
  IOMMU_RFC_HWPT_ALLOC,
  IOMMU_RFC_VIOMMU_ALLOC,
  iommu_dev_assign_virtual_id,
  iommu_dev_invalidate,
  iommu_hwpt_iotlb_sync,
  iommu_rfc_hw_info,
  iommu_rfc_hwpt_alloc,
  iommu_rfc_viommu_alloc,
} from '../../abi/rfc-2023-12.ts';
import { op, type IoctlOp } from '../ioctl-op.ts';
import { devAssignVirtualId } from './assign.ts';
import { getHwInfo } from './hw-info.ts';
import { hwptAlloc } from './hwpt.ts';
import { devInvalidate, hwptIotlbSync } from './invalidate.ts';
import { viommuAlloc } from './viommu.ts';

// The rows of the trial uAPI rfc-2023-12. Any Linux can have them.

function row(...columns: Parameters<typeof op>): IoctlOp {
  return { ...op(...columns), uapi: 'rfc-2023-12' };
}

/** Any Linux that has an iommufd. */
const ANY = 602;

/** By ascending number. */
export const RFC_2023_12_OPS: readonly IoctlOp[] = [
  row(
    'IOMMU_RFC_VIOMMU_ALLOC',
    IOMMU_RFC_VIOMMU_ALLOC,
    iommu_rfc_viommu_alloc,
    '__reserved',
    ANY,
    viommuAlloc,
    'Linux has IOMMU_VIOMMU_ALLOC since 6.13',
  ),
  row(
    'IOMMU_RFC_HWPT_ALLOC',
    IOMMU_RFC_HWPT_ALLOC,
    iommu_rfc_hwpt_alloc,
    '__reserved2',
    ANY,
    hwptAlloc,
    'Linux takes a viommu as pt_id since 6.13',
  ),
  row(
    'IOMMU_RFC_GET_HW_INFO',
    IOMMU_RFC_GET_HW_INFO,
    iommu_rfc_hw_info,
    '__reserved2',
    ANY,
    getHwInfo,
    'Linux does not name physical IOMMUs',
  ),
  row(
    'IOMMU_DEV_ASSIGN_VIRTUAL_ID',
    IOMMU_DEV_ASSIGN_VIRTUAL_ID,
    iommu_dev_assign_virtual_id,
    'id',
    ANY,
    devAssignVirtualId,
    'Linux has IOMMU_VDEVICE_ALLOC since 6.13',
  ),
  row(
    'IOMMU_DEV_INVALIDATE',
    IOMMU_DEV_INVALIDATE,
    iommu_dev_invalidate,
    '__reserved',
    ANY,
    devInvalidate,
    'Linux takes all commands in one IOMMU_HWPT_INVALIDATE, as two would reorder them',
  ),
  row(
    'IOMMU_HWPT_IOTLB_SYNC',
    IOMMU_HWPT_IOTLB_SYNC,
    iommu_hwpt_iotlb_sync,
    '__reserved',
    ANY,
    hwptIotlbSync,
    'in Linux it is IOMMU_HWPT_INVALIDATE on a nested HWPT',
  ),
];
