// What drivers/iommu/generic_pt needs of a kernel beyond kernel.h. What the code under test asks to be invalidated is
// printed, and page tables come out of a budget, so that allocations can fail.

#define __KERNEL__
#define CONFIG_IOMMU_PT 1
#define CONFIG_IOMMUFD_DRIVER 1
// Makes set_dirty() there.
#define CONFIG_IOMMUFD_TEST 1
#define CONFIG_64BIT 1
#define CONFIG_SMP 1
#define CONFIG_X86 1

#include <assert.h>
#include <limits.h>
#include <linux/kconfig.h>

#define __always_inline inline __attribute__((always_inline))
#define __maybe_unused __attribute__((unused))
#define likely(condition) (condition)
#define unlikely(condition) (condition)
#define BUILD_BUG() __builtin_trap()
#define EXPORT_SYMBOL_NS_GPL(symbol, space)
#define MODULE_LICENSE(text)
#define MODULE_DESCRIPTION(text)
#define MODULE_IMPORT_NS(text)
#define pr_err_ratelimited(...) ((void)0)

#define U32_MAX UINT32_MAX
#define U64_MAX UINT64_MAX
#define PAGE_SHIFT 12
#define SZ_512G 0x8000000000ull
#define BIT_ULL(n) (1ull << (n))
#define GENMASK(high, low) GENMASK_ULL(high, low)
#define __bf_shf(mask) (__builtin_ffsll(mask) - 1)
#define FIELD_GET(mask, value) (((u64)(value) & (mask)) >> __bf_shf(mask))
#define FIELD_PREP(mask, value) (((u64)(value) << __bf_shf(mask)) & (mask))

static inline int fls(u32 value)
{
	return value ? 32 - __builtin_clz(value) : 0;
}

static inline int fls64(u64 value)
{
	return value ? 64 - __builtin_clzll(value) : 0;
}

#define __ffs64(value) ((unsigned)__builtin_ctzll(value))
#define ffz(value) ((unsigned)__builtin_ctzll(~(u64)(value)))

#define IS_ERR(pointer) ((uintptr_t)(pointer) >= (uintptr_t)-4095)
#define PTR_ERR(pointer) ((int)(intptr_t)(pointer))
#define ERR_PTR(error) ((void *)(intptr_t)(error))
#define __va(address) phys_to_virt(address)
#define check_add_overflow(a, b, sum) __builtin_add_overflow(a, b, sum)
#define memset_after(object, value, member)                                                        \
	memset((char *)(object) + offsetof(__typeof__(*(object)), member) + sizeof((object)->member), value, \
	       sizeof(*(object)) - offsetof(__typeof__(*(object)), member) - sizeof((object)->member))

static inline void memset64(u64 *to, u64 value, size_t count)
{
	while (count-- > 0)
		*to++ = value;
}

#define try_cmpxchg64(pointer, old, new) \
	__atomic_compare_exchange_n(pointer, old, new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)
#define try_cmpxchg64_release(pointer, old, new) try_cmpxchg64(pointer, old, new)
#define try_cmpxchg_release(pointer, old, new) try_cmpxchg64(pointer, old, new)
#define smp_mb() __sync_synchronize()
#define smp_load_acquire(pointer) __atomic_load_n(pointer, __ATOMIC_ACQUIRE)

typedef struct {
	int unused;
} spinlock_t;

#define spin_lock_irqsave(lock, flags) ((void)(lock), (flags) = 0)
#define spin_unlock_irqrestore(lock, flags) ((void)(lock), (void)(flags))

// Memory is not encrypted.
#define __sme_set(value) (value)
#define __sme_clr(value) (value)

// include/linux/iommu.h: domains, and what gathers until caches are invalidated.
#define __IOMMU_DOMAIN_PAGING 1u

struct list_head {
	struct list_head *next;
	void *page;
};

#define INIT_LIST_HEAD(list) ((list)->next = NULL)

struct iommu_pages_list {
	struct list_head pages;
};

#define IOMMU_PAGES_LIST_INIT(name) ((struct iommu_pages_list){ .pages = { NULL, NULL } })

struct iommu_iotlb_gather {
	unsigned long start;
	unsigned long end;
	struct iommu_pages_list freelist;
	bool queued;
	struct {
		u8 leaf_levels_bitmap;
		u8 table_levels_bitmap;
	} pt;
};

struct iommu_domain {
	unsigned type;
	const void *ops;
	unsigned long pgsize_bitmap;
	bool is_iommupt;
	struct {
		dma_addr_t aperture_start;
		dma_addr_t aperture_end;
		bool force_aperture;
	} geometry;
};

struct iova_bitmap {
	int unused;
};

struct iommu_dirty_bitmap {
	struct iova_bitmap *bitmap;
	struct iommu_iotlb_gather *gather;
};

static inline void iova_bitmap_set(struct iova_bitmap *bitmap, unsigned long iova, size_t length)
{
	(void)bitmap;
	printf(" dirty:%lx:%zx", iova, length);
}

static inline void iommu_pages_list_add(struct iommu_pages_list *list, void *page)
{
	struct list_head *node = malloc(sizeof(*node));

	node->next = list->pages.next;
	node->page = page;
	list->pages.next = node;
}

static inline void iommu_pages_list_splice(struct iommu_pages_list *from, struct iommu_pages_list *to)
{
	struct list_head *last = &from->pages;

	while (last->next)
		last = last->next;
	last->next = to->pages.next;
	to->pages.next = from->pages.next;
}

static inline bool iommu_pages_list_empty(const struct iommu_pages_list *list)
{
	return !list->pages.next;
}

/** Tables that can still be allocated, and those that are. */
static long table_budget = LONG_MAX;
static long tables_live;

static inline void *iommu_alloc_pages_node_sz(int node, gfp_t gfp, size_t size)
{
	void *pages;

	(void)node;
	(void)gfp;
	if (table_budget <= 0)
		return NULL;
	table_budget--;
	tables_live++;
	pages = aligned_alloc(PAGE_SIZE, size);
	memset(pages, 0, size);
	return pages;
}

static inline void iommu_free_pages(void *pages)
{
	tables_live--;
	free(pages);
}

/** Answers how many. */
static inline unsigned iommu_put_pages_list(struct iommu_pages_list *list)
{
	unsigned count = 0;

	while (list->pages.next) {
		struct list_head *node = list->pages.next;

		list->pages.next = node->next;
		iommu_free_pages(node->page);
		free(node);
		count++;
	}
	return count;
}

// The caches of a CPU show in nothing that is recorded.
#define iommu_pages_flush_incoherent(device, pages, offset, length) ((void)(device))
#define iommu_pages_start_incoherent(pages, device) 0
#define iommu_pages_start_incoherent_list(list, device) 0
#define iommu_pages_stop_incoherent_list(list, device) ((void)(device))
#define iommu_pages_free_incoherent(pages, device) iommu_free_pages(pages)

static inline void iommu_iotlb_gather_init(struct iommu_iotlb_gather *gather)
{
	*gather = (struct iommu_iotlb_gather){ .start = ULONG_MAX };
}

static inline bool iommu_iotlb_gather_queued(const struct iommu_iotlb_gather *gather)
{
	return gather->queued;
}

static inline void iommu_iotlb_gather_add_range(struct iommu_iotlb_gather *gather, unsigned long iova, size_t size)
{
	unsigned long last = iova + size - 1;

	gather->start = min(gather->start, iova);
	gather->end = max(gather->end, last);
}

static inline bool iommu_iotlb_gather_is_disjoint(const struct iommu_iotlb_gather *gather, unsigned long iova,
						  size_t size)
{
	return gather->end != 0 && (iova + size < gather->start || iova > gather->end + 1);
}

static inline void iommu_iotlb_sync(struct iommu_domain *domain, struct iommu_iotlb_gather *gather)
{
	(void)domain;
	if (gather->start < gather->end) {
		printf(" sync:%lx:%lx", gather->start, gather->end);
		printf(":%u", iommu_put_pages_list(&gather->freelist));
	}
	iommu_iotlb_gather_init(gather);
}
