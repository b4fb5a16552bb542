// The peer of bench/iommu.mjs for the IOTLB: a GHashTable keyed by page and device, used as QEMU's hw/i386/amd_iommu.c
// uses it: amdvi_translate(), amdvi_do_translate(), amdvi_iotlb_lookup(), amdvi_iotlb_hash() and amdvi_iotlb_equal().
// One lookup finds a page, whatever its domain; an invalidation of a page removes one key, all others look at every
// entry.
#include "iotlb.h"

enum { DOMAIN = 7 };

struct key {
	uint16_t device;
	uint64_t page;
};

struct entry {
	uint16_t domain, device;
	uint64_t perms, translated, mask;
};

static GHashTable *tlb;
static volatile bool enabled = true;

static guint hash(gconstpointer of)
{
	const struct key *key = of;

	return (guint)(key->page << 12 | (key->device & 4095));
}

static gboolean equal(gconstpointer a, gconstpointer b)
{
	const struct key *x = a, *y = b;

	return x->device == y->device && x->page == y->page;
}

static void prepare(void)
{
	tlb = g_hash_table_new_full(hash, equal, g_free, g_free);
}

static void fill(uint64_t address)
{
	struct key *key = g_new0(struct key, 1);
	struct entry *entry = g_new0(struct entry, 1);

	*key = (struct key){ SOURCE, address >> 12 };
	*entry = (struct entry){ DOMAIN, SOURCE, READ | WRITE, address, 4095 };
	g_hash_table_insert(tlb, key, entry);
}

static bool translate(const struct request *request, struct answer *answer)
{
	const struct entry *entry;
	struct key key;

	*answer = (struct answer){ .memory = &tlb, .input = request->address, .mask = ~(uint64_t)0 };
	if (!enabled || (request->address >= 0xfee00000u && request->address <= 0xfeefffffu))
		return false;
	key = (struct key){ source_of(request->device), request->address >> 12 };
	entry = g_hash_table_lookup(tlb, &key);
	if (!entry)
		return false;
	answer->input = request->address & ~entry->mask;
	answer->address = entry->translated;
	answer->mask = entry->mask;
	answer->permissions = entry->perms;
	return true;
}

static gboolean has_domain(gpointer k, gpointer v, gpointer data)
{
	(void)k;
	return ((struct entry *)v)->domain == *(uint16_t *)data;
}

static void invalidate_page(uint64_t address)
{
	struct key key = { SOURCE, address >> 12 };

	g_hash_table_remove(tlb, &key);
}

static void invalidate_other(void)
{
	uint16_t other = DOMAIN + 1;

	g_hash_table_foreach_remove(tlb, has_domain, &other);
}

static void invalidate_pages(uint64_t address)
{
	(void)address;
	invalidate_other();
}
