// The peer of bench/iommu.mjs for the IOTLB: a GHashTable keyed by page, source-id, PASID and level, used as QEMU's
// hw/i386/intel_iommu.c uses it: vtd_iommu_translate(), vtd_do_iommu_translate(), vtd_lookup_iotlb(), vtd_iotlb_hash()
// and vtd_iotlb_equal(). A lookup tries every level from the lowest on, and comes before any look at the context; every
// invalidation looks at every entry.
#include "iotlb.h"

struct key {
	uint64_t gfn;
	uint32_t pasid;
	uint16_t sid;
	uint8_t level;
};

struct entry {
	uint64_t gfn, pte, mask;
	uint32_t pasid;
	uint16_t did;
	uint8_t perm, pgtt;
};

enum { DID = 13 };

static GHashTable *tlb;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile bool enabled = true;

static guint hash(gconstpointer of)
{
	const struct key *key = of;
	uint64_t all = key->gfn | (uint64_t)key->sid << 26 | (uint64_t)(key->level - 1) << 42 | (uint64_t)key->pasid << 45;

	return all >> 32 ^ (all & 0xffffffffu);
}

static gboolean equal(gconstpointer a, gconstpointer b)
{
	const struct key *x = a, *y = b;

	return x->sid == y->sid && x->gfn == y->gfn && x->level == y->level && x->pasid == y->pasid;
}

static void prepare(void)
{
	tlb = g_hash_table_new_full(hash, equal, g_free, g_free);
}

static void fill(uint64_t address)
{
	struct key *key = g_new0(struct key, 1);
	struct entry *entry = g_new0(struct entry, 1);

	*key = (struct key){ address >> 12, PASID, SOURCE, 1 };
	*entry = (struct entry){ address >> 12, address | 3, ~4095ull, PASID, DID, READ | WRITE, 3 };
	g_hash_table_insert(tlb, key, entry);
}

static struct entry *lookup(uint16_t sid, uint32_t pasid, uint64_t address)
{
	int level;

	for (level = 1; level < 4; level++) {
		struct key key = { (address & ~((1ull << (12 + 9 * (level - 1))) - 1)) >> 12, pasid, sid, level };
		struct entry *entry = g_hash_table_lookup(tlb, &key);

		if (entry)
			return entry;
	}
	return NULL;
}

static bool translate(const struct request *request, struct answer *answer)
{
	const struct entry *entry;
	uint64_t pte, mask;
	uint16_t source;

	*answer = (struct answer){ .memory = &tlb };
	if (!enabled)
		return false;
	source = source_of(request->device);
	pthread_mutex_lock(&lock);
	entry = lookup(source, request->pasid, request->address);
	if (!entry) {
		pthread_mutex_unlock(&lock);
		return false;
	}
	pte = entry->pte;
	mask = entry->mask;
	answer->permissions = entry->perm;
	pthread_mutex_unlock(&lock);
	answer->input = request->address & mask;
	answer->address = pte & mask & ~3ull;
	answer->mask = ~mask;
	return true;
}

struct named {
	uint64_t address, mask;
	uint32_t pasid;
	uint16_t did;
};

static gboolean has_page(gpointer k, gpointer v, gpointer data)
{
	const struct entry *entry = v;
	const struct named *named = data;
	uint64_t gfn = named->address >> 12 & named->mask;

	(void)k;
	if (entry->did != named->did || entry->pasid != named->pasid)
		return FALSE;
	return (entry->gfn & named->mask) == gfn || entry->gfn == (named->address & entry->mask) >> 12;
}

static gboolean has_pasid(gpointer k, gpointer v, gpointer data)
{
	const struct entry *entry = v;
	const struct named *named = data;

	(void)k;
	return entry->did == named->did && entry->pasid == named->pasid;
}

static void invalidate_page(uint64_t address)
{
	struct named named = { address, ~0ull, PASID, DID };

	g_hash_table_foreach_remove(tlb, has_page, &named);
}

static void invalidate_pages(uint64_t address)
{
	struct named named = { address, ~15ull, PASID, DID };

	g_hash_table_foreach_remove(tlb, has_page, &named);
}

static void invalidate_other(void)
{
	struct named named = { 0, ~0ull, 9, DID };

	g_hash_table_foreach_remove(tlb, has_pasid, &named);
}
