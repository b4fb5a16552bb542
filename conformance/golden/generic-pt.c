// Plays map and unmap requests on the page tables of Linux's drivers/iommu/generic_pt and prints what they answer and what
// is in them. The files themselves are not here: record.mjs puts them, unmodified, where this includes them, and compiles
// this once for each format.
//
// Reads lines, hexadecimal but for the first letter; answers each with one line. What has to be invalidated, and a new top,
// stand where they happen:
//   C features va oa top sizes                a new table; `sizes` are those that a driver leaves    result sizes last-iova, and the levels as hardware has them
//   M iova pa size prot                       iommu_map()      result
//   U iova size                               iommu_unmap()    unmapped
//   W iova                                    marks the entry of an address as written to    result
//   D iova size clear                         read_and_clear_dirty()    result, and what was recorded
//   P iova                                    iova_to_phys()   address
//   A count                                   so many tables can be allocated from now on
//   F feature                                 turns a feature on
//   X                                         all entries      level:iova:entry, *N where N entries say the same,
//                                             +N where N lead to pages in a row; tables without their address; frees

#include GENERIC_PT_FORMAT

static struct pt_iommu_table table;
static struct device device;
static struct iova_bitmap bitmap;
static spinlock_t lock;

static struct pt_iommu *iommu(void)
{
	return &table.iommu;
}

static spinlock_t *top_lock(struct pt_iommu *iommu_table)
{
	(void)iommu_table;
	return &lock;
}

static void change_top(struct pt_iommu *iommu_table, phys_addr_t top, unsigned level)
{
	(void)iommu_table;
	(void)top;
	printf(" top:%x", level);
}

static const struct pt_iommu_driver_ops driver_ops = { .change_top = change_top, .get_top_lock = top_lock };

static void make(const char *line)
{
	unsigned features, va, oa, top;
	unsigned long sizes;
	struct pt_iommu_table_cfg cfg = {};
	struct pt_iommu_table_hw_info info;
	int rc;

	sscanf(line, "C %x %x %x %x %lx", &features, &va, &oa, &top, &sizes);
	cfg.common.features = features;
	cfg.common.hw_max_vasz_lg2 = va;
	cfg.common.hw_max_oasz_lg2 = oa;
	cfg.GENERIC_PT_TOP = top;
	table.iommu.driver_ops = &driver_ops;
	table.iommu.iommu_device = &device;
	rc = pt_iommu_init(&table, &cfg, GFP_KERNEL);
	printf("%d", rc);
	if (rc)
		return;
	table.iommu.domain.pgsize_bitmap &= sizes;
	pt_iommu_hw_info(&table, &info);
	printf(" %lx %llx %x", table.iommu.domain.pgsize_bitmap,
	       (unsigned long long)table.iommu.domain.geometry.aperture_end, info.GENERIC_PT_LEVELS);
}

static size_t unmap(unsigned long iova, size_t size)
{
	struct iommu_iotlb_gather gather;
	size_t unmapped;

	iommu_iotlb_gather_init(&gather);
	unmapped = NS(unmap_range)(iommu(), iova, size, &gather);
	iommu_iotlb_sync(&table.iommu.domain, &gather);
	return unmapped;
}

static int map(unsigned long iova, phys_addr_t pa, size_t size, unsigned prot)
{
	size_t mapped = 0;
	int rc = NS(map_range)(iommu(), iova, pa, size, prot, GFP_KERNEL, &mapped);

	if (rc)
		unmap(iova, mapped);
	return rc;
}

static int read_dirty(unsigned long iova, size_t size, bool clear)
{
	struct iommu_iotlb_gather gather;
	struct iommu_dirty_bitmap dirty = { .bitmap = &bitmap, .gather = &gather };
	int rc;

	iommu_iotlb_gather_init(&gather);
	rc = DOMAIN_NS(read_and_clear_dirty)(&table.iommu.domain, iova, size, clear ? 0 : IOMMU_DIRTY_NO_CLEAR, &dirty);
	iommu_iotlb_sync(&table.iommu.domain, &gather);
	return rc;
}

/** Entries in a row that say the same, or that lead to pages in a row, are shown as one. */
static void dump(struct pt_range *range, unsigned level, struct pt_table_p *entries, u64 base)
{
	struct pt_state pts = pt_init(range, level, entries);
	unsigned item = pt_table_item_lg2sz(&pts);
	unsigned count = level == PT_MAX_TOP_LEVEL ? PAGE_SIZE / sizeof(u64) : 1u << pt_num_items_lg2(&pts);
	const u64 *words = pt_cur_table(&pts, u64);

	for (unsigned run; pts.index < count; pts.index += run) {
		u64 iova = base + ((u64)pts.index << item);
		enum pt_entry_type type = pt_load_entry_raw(&pts);
		u64 step;

		run = 1;
		if (!pts.entry)
			continue;
		if (type == PT_ENTRY_TABLE) {
			printf(" %x:%llx:%llx", level, (unsigned long long)iova,
			       (unsigned long long)(pts.entry & ~GENMASK_ULL(51, 12)));
			dump(range, level - 1, pt_table_ptr(&pts), iova);
			continue;
		}
		step = pts.index + 1 < count && words[pts.index + 1] == pts.entry ? 0 : 1ull << item;
		while (pts.index + run < count && words[pts.index + run] == pts.entry + run * step)
			run++;
		printf(" %x:%llx:%llx%c%x", level, (unsigned long long)iova, (unsigned long long)pts.entry,
		       step ? '+' : '*', run);
	}
}

static void finish(void)
{
	struct pt_range range = pt_top_range(common_from_iommu(iommu()));

	dump(&range, range.top_level, range.top_table, 0);
	pt_iommu_deinit(iommu());
	printf(" = %lx", tables_live);
}

static void play(const char *line)
{
	unsigned long iova, pa, size;
	unsigned number;

	switch (line[0]) {
	case 'C':
		make(line);
		break;
	case 'M':
		sscanf(line, "M %lx %lx %lx %x", &iova, &pa, &size, &number);
		printf(" = %d", map(iova, pa, size, number));
		break;
	case 'U':
		sscanf(line, "U %lx %lx", &iova, &size);
		printf(" = %zx", unmap(iova, size));
		break;
	case 'W':
		sscanf(line, "W %lx", &iova);
		printf(" = %d", NS(set_dirty)(iommu(), iova));
		break;
	case 'D':
		sscanf(line, "D %lx %lx %x", &iova, &size, &number);
		printf(" = %d", read_dirty(iova, size, number));
		break;
	case 'P':
		sscanf(line, "P %lx", &iova);
		printf("%llx", (unsigned long long)DOMAIN_NS(iova_to_phys)(&table.iommu.domain, iova));
		break;
	case 'A':
		sscanf(line, "A %lx", &table_budget);
		break;
	case 'F':
		sscanf(line, "F %x", &number);
		common_from_iommu(iommu())->features |= BIT(number);
		break;
	case 'X':
		finish();
		break;
	}
	printf("\n");
}

int main(void)
{
	char line[256];

	while (fgets(line, sizeof(line), stdin))
		play(line);
	return 0;
}
