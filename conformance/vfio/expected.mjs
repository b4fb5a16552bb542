// What Linux's VFIO selftests come to under viommu.

const NO_HUGE = 'the system has no huge pages of that size';
const NO_SRIOV = 'no function here has virtual functions';
const TYPE1_P2P =
  '/dev/vfio/vfio is iommufd here (CONFIG_IOMMUFD_VFIO_CONTAINER), which maps no memory of devices, in Linux neither';

/**
 * By program: its arguments, how many of its tests pass at least, and those that may not, with the reason. `all` in
 * `skips`: the program as a whole.
 *
 * @type {Record<string, { devices: number, pass: number, skips: [RegExp | 'all', string][], fails: [RegExp, string][] }>}
 */
export const EXPECTED = {
  vfio_iommufd_setup_test: { devices: 1, pass: 6, skips: [], fails: [] },
  vfio_pci_device_test: { devices: 1, pass: 5, skips: [], fails: [] },
  vfio_dma_mapping_test: { devices: 1, pass: 20, skips: [[/_hugetlb_/, NO_HUGE]], fails: [] },
  vfio_dma_mapping_mmio_test: {
    devices: 1,
    pass: 9,
    skips: [],
    fails: [[/\.vfio_type1(v2)?_iommu\./, TYPE1_P2P]],
  },
  vfio_pci_device_init_perf_test: { devices: 2, pass: 5, skips: [], fails: [] },
  vfio_pci_driver_test: { devices: 1, pass: 35, skips: [], fails: [] },
  vfio_pci_sriov_uapi_test: { devices: 1, pass: 0, skips: [['all', NO_SRIOV]], fails: [] },
};
