// Plays map and unmap requests on Linux's drivers/iommu/io-pgtable-arm.c and prints what it answers and builds. The file
// itself is not here: record.mjs puts it, unmodified, where this includes it.
//
// Reads lines, hexadecimal but for the first letter; answers each with one line:
//   C stage ias oas pgsizes coherent hd fwb   a new table      tsz tg irgn orgn sh ps sl pgsizes ias oas
//   M iova pa pgsize count prot               map_pages()      result mapped
//   U iova pgsize count                       unmap_pages()    unmapped, and the TLB callbacks
//   D iova size clear                         dirty pages      result, and what was recorded
//   P iova                                    iova_to_phys()   address
//   X                                         all entries      level:iova:descriptor, tables without their address; frees

#include "io-pgtable-arm.c"

static void flush_all(void *cookie)
{
	(void)cookie;
	printf(" all");
}

static void flush_walk(unsigned long iova, size_t size, size_t granule, void *cookie)
{
	(void)cookie;
	printf(" walk:%lx:%zx:%zx", iova, size, granule);
}

static void add_page(struct iommu_iotlb_gather *gather, unsigned long iova, size_t granule, void *cookie)
{
	(void)gather;
	(void)cookie;
	printf(" page:%lx:%zx", iova, granule);
}

static const struct iommu_flush_ops flush_ops = {
	.tlb_flush_all = flush_all,
	.tlb_flush_walk = flush_walk,
	.tlb_add_page = add_page,
};

static struct io_pgtable *table;
static int stage;

static void make(const char *line)
{
	struct io_pgtable_cfg cfg = { .tlb = &flush_ops };
	unsigned ias, oas, coherent, hd, fwb;
	unsigned long sizes;

	sscanf(line, "C %x %x %x %lx %x %x %x", (unsigned *)&stage, &ias, &oas, &sizes, &coherent, &hd, &fwb);
	cfg.ias = ias;
	cfg.oas = oas;
	cfg.pgsize_bitmap = sizes;
	cfg.coherent_walk = coherent;
	cfg.quirks = (hd ? IO_PGTABLE_QUIRK_ARM_HD : 0) | (fwb ? IO_PGTABLE_QUIRK_ARM_S2FWB : 0);
	table = stage == 1 ? io_pgtable_arm_64_lpae_s1_init_fns.alloc(&cfg, NULL) :
			     io_pgtable_arm_64_lpae_s2_init_fns.alloc(&cfg, NULL);
	if (!table) {
		printf("none");
		return;
	}
	// alloc_io_pgtable_ops() does this.
	table->fmt = stage == 1 ? ARM_64_LPAE_S1 : ARM_64_LPAE_S2;
	table->cfg = cfg;
	if (stage == 1)
		printf("%x %x %x %x %x %x 0", cfg.arm_lpae_s1_cfg.tcr.tsz, cfg.arm_lpae_s1_cfg.tcr.tg,
		       cfg.arm_lpae_s1_cfg.tcr.irgn, cfg.arm_lpae_s1_cfg.tcr.orgn, cfg.arm_lpae_s1_cfg.tcr.sh,
		       cfg.arm_lpae_s1_cfg.tcr.ips);
	else
		printf("%x %x %x %x %x %x %x", cfg.arm_lpae_s2_cfg.vtcr.tsz, cfg.arm_lpae_s2_cfg.vtcr.tg,
		       cfg.arm_lpae_s2_cfg.vtcr.irgn, cfg.arm_lpae_s2_cfg.vtcr.orgn, cfg.arm_lpae_s2_cfg.vtcr.sh,
		       cfg.arm_lpae_s2_cfg.vtcr.ps, cfg.arm_lpae_s2_cfg.vtcr.sl);
	printf(" %lx %x %x", cfg.pgsize_bitmap, cfg.ias, cfg.oas);
}

static void dump(struct arm_lpae_io_pgtable *data, arm_lpae_iopte *entries, int level, u64 base)
{
	int count = level == data->start_level ? 1 << data->pgd_bits : 1 << data->bits_per_level;

	for (int i = 0; i < count; i++) {
		u64 iova = base + (u64)i * ARM_LPAE_BLOCK_SIZE(level, data);
		arm_lpae_iopte pte = entries[i];

		if (!pte)
			continue;
		if (iopte_leaf(pte, level, table->fmt)) {
			printf(" %x:%llx:%llx", level, (unsigned long long)iova, (unsigned long long)pte);
			continue;
		}
		printf(" %x:%llx:%llx", level, (unsigned long long)iova,
		       (unsigned long long)(pte & ~ARM_LPAE_PTE_ADDR_MASK));
		dump(data, iopte_deref(pte, data), level + 1, iova);
	}
}

static void play(const char *line)
{
	struct iommu_iotlb_gather gather;
	struct iommu_dirty_bitmap dirty;
	unsigned long iova, pa, size, count;
	size_t mapped = 0;
	unsigned prot;
	int rc;

	switch (line[0]) {
	case 'C':
		make(line);
		break;
	case 'M':
		sscanf(line, "M %lx %lx %lx %lx %x", &iova, &pa, &size, &count, &prot);
		rc = table->ops.map_pages(&table->ops, iova, pa, size, count, prot, GFP_KERNEL, &mapped);
		printf(" = %d %zx", rc, mapped);
		break;
	case 'U':
		sscanf(line, "U %lx %lx %lx", &iova, &size, &count);
		mapped = table->ops.unmap_pages(&table->ops, iova, size, count, &gather);
		printf(" = %zx", mapped);
		break;
	case 'D':
		sscanf(line, "D %lx %lx %x", &iova, &size, &prot);
		rc = table->ops.read_and_clear_dirty(&table->ops, iova, size, prot ? 0 : IOMMU_DIRTY_NO_CLEAR, &dirty);
		printf(" = %d", rc);
		break;
	case 'P':
		sscanf(line, "P %lx", &iova);
		printf("%llx", (unsigned long long)table->ops.iova_to_phys(&table->ops, iova));
		break;
	case 'X':
		dump(io_pgtable_to_data(table), io_pgtable_to_data(table)->pgd, io_pgtable_to_data(table)->start_level, 0);
		arm_lpae_free_pgtable(table);
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
