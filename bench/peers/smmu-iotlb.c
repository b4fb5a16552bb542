// The peer of bench/iommu.mjs for the IOTLB: a GHashTable keyed by address, ASID, VMID, granule and level, used as QEMU's
// hw/arm/smmu-common.c uses it: smmuv3_translate() and smmuv3_get_config() of smmuv3.c, smmu_translate(),
// smmu_iotlb_lookup(), smmu_iotlb_key_hash() and smmu_iotlb_key_equal(). A lookup tries every level from the start level
// on, after a lookup of the device's configuration; an invalidation of one page with a level removes one key; all others
// look at every entry.
#include "iotlb.h"

struct key {
	uint64_t iova;
	uint16_t asid, vmid;
	uint8_t tg, level;
};

struct entry {
	uint64_t iova, mask, translated;
	int perm;
};

struct config {
	uint16_t asid, vmid;
	uint8_t input_bits;
};

static uint32_t rol(uint32_t x, int by)
{
	return x << by | x >> (32 - by);
}

// Bob Jenkins' mix of three words.
static guint hash(gconstpointer of)
{
	const struct key *key = of;
	uint32_t a, b, c;

	a = b = c = 0xdeadbeef + sizeof(*key);
	a += key->asid + key->vmid + key->level + key->tg;
	b += (uint32_t)key->iova;
	c += key->iova >> 32;
	a -= c, a ^= rol(c, 4), c += b;
	b -= a, b ^= rol(a, 6), a += c;
	c -= b, c ^= rol(b, 8), b += a;
	a -= c, a ^= rol(c, 16), c += b;
	b -= a, b ^= rol(a, 19), a += c;
	c -= b, c ^= rol(b, 4), b += a;
	return c;
}

static gboolean equal(gconstpointer a, gconstpointer b)
{
	const struct key *x = a, *y = b;

	return x->asid == y->asid && x->iova == y->iova && x->level == y->level && x->tg == y->tg && x->vmid == y->vmid;
}

enum { ASID = 1, VMID = 7 };

static GHashTable *tlb, *configs;
static struct config config = { ASID, VMID, 48 };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile bool enabled = true;

static void prepare(void)
{
	tlb = g_hash_table_new_full(hash, equal, g_free, g_free);
	configs = g_hash_table_new(NULL, NULL);
	g_hash_table_insert(configs, (void *)&DEVICE, &config);
}

static void fill(uint64_t address)
{
	struct key *key = g_new0(struct key, 1);
	struct entry *entry = g_new0(struct entry, 1);

	*key = (struct key){ address, ASID, VMID, 1, 3 };
	*entry = (struct entry){ address, 4095, address * 2, READ | WRITE };
	g_hash_table_insert(tlb, key, entry);
}

static struct entry *lookup(const struct config *config, uint64_t iova)
{
	int level = 4 - (config->input_bits - 4) / 9;

	for (; level <= 3; level++) {
		uint64_t mask = (1ull << (12 + 9 * (3 - level))) - 1;
		struct key key = { iova & ~mask, config->asid, config->vmid, 1, level };
		struct entry *entry = g_hash_table_lookup(tlb, &key);

		if (entry)
			return entry;
	}
	return NULL;
}

static struct {
	uint16_t source;
} fault;

static bool translate(const struct request *request, struct answer *answer)
{
	const struct config *found;
	const struct entry *entry = NULL;

	// For the record of a fault, which this may end in.
	fault.source = source_of(request->device);
	*answer = (struct answer){ .memory = &tlb, .input = request->address, .mask = ~(uint64_t)0 };
	pthread_mutex_lock(&lock);
	found = enabled ? g_hash_table_lookup(configs, request->device) : NULL;
	if (found)
		entry = lookup(found, request->address);
	pthread_mutex_unlock(&lock);
	if (!entry)
		return false;
	answer->address = entry->translated;
	answer->mask = entry->mask;
	answer->permissions = entry->perm;
	return true;
}

struct range {
	uint64_t first, last;
	int asid, vmid;
};

static gboolean touches(gpointer k, gpointer v, gpointer data)
{
	const struct key *key = k;
	const struct entry *entry = v;
	const struct range *range = data;

	if ((range->asid >= 0 && range->asid != key->asid) || (range->vmid >= 0 && range->vmid != key->vmid))
		return FALSE;
	return entry->iova <= range->last && entry->iova + entry->mask >= range->first;
}

static gboolean has_asid(gpointer k, gpointer v, gpointer data)
{
	const struct key *key = k;
	const struct range *range = data;

	(void)v;
	return key->asid == range->asid && key->vmid == range->vmid;
}

static void invalidate_page(uint64_t address)
{
	struct key key = { address, ASID, VMID, 1, 3 };

	g_hash_table_remove(tlb, &key);
}

static void invalidate_pages(uint64_t address)
{
	struct range range = { address, address + 16 * 4096 - 1, ASID, VMID };

	g_hash_table_foreach_remove(tlb, touches, &range);
}

static void invalidate_other(void)
{
	struct range range = { 0, 0, ASID + 1, VMID };

	g_hash_table_foreach_remove(tlb, has_asid, &range);
}
