// What drivers/iommu/io-pgtable-arm.c needs of a kernel beyond kernel.h.

struct iommu_domain {
	int unused;
};

static inline void *iommu_alloc_pages_node_sz(int node, gfp_t gfp, size_t size)
{
	size_t whole = DIV_ROUND_UP(size, PAGE_SIZE) * PAGE_SIZE;
	void *pages = aligned_alloc(whole, whole);

	(void)node;
	(void)gfp;
	if (pages)
		memset(pages, 0, whole);
	return pages;
}

#define iommu_free_pages(pages) free(pages)
#define iommu_pages_start_incoherent(pages, device) 0
#define iommu_pages_free_incoherent(pages, device) free(pages)

// include/linux/iommu.h: what an unmap and a look at dirty pages collect.
struct iommu_iotlb_gather {
	int unused;
};
struct iommu_dirty_bitmap {
	int unused;
};

#define iommu_iotlb_gather_queued(gather) false

static inline void iommu_dirty_bitmap_record(struct iommu_dirty_bitmap *dirty, unsigned long iova, unsigned long size)
{
	(void)dirty;
	printf(" dirty:%lx:%lx", iova, size);
}
