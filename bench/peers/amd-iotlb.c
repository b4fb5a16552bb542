// The peer of bench/iommu.mjs for the IOTLB: a GHashTable keyed by page and device, used as QEMU's hw/i386/amd_iommu.c
// uses it. The device is found by bus and function; one lookup finds a page; an invalidation of a page removes one key,
// all others look at every entry.
#include "iotlb.h"

enum { DEVICE = 0x20, DOMAIN = 7 };

struct key {
	uint16_t device;
	uint64_t page;
};

struct entry {
	uint16_t domain, device;
	uint64_t perms, translated, mask;
};

struct device {
	bool translates;
	uint16_t id;
};

static const struct request FIRST = { .device = DEVICE, .write = true };
static GHashTable *tlb;
static struct device **buses[256];
static bool enabled = true;

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
	buses[0] = g_new0(struct device *, 256);
	buses[0][DEVICE] = g_new0(struct device, 1);
	*buses[0][DEVICE] = (struct device){ true, DEVICE };
}

static void fill(uint64_t address)
{
	struct key *key = g_new0(struct key, 1);
	struct entry *entry = g_new0(struct entry, 1);

	*key = (struct key){ DEVICE, address >> 12 };
	*entry = (struct entry){ DOMAIN, DEVICE, READ | WRITE, address, ~(uint64_t)4095 };
	g_hash_table_insert(tlb, key, entry);
}

static bool translate(const struct request *request, struct answer *answer)
{
	const struct device *device = buses[request->device >> 8][request->device & 255];
	const struct entry *entry;
	struct key key;

	if (!enabled || !device->translates || (request->address >= 0xfee00000u && request->address <= 0xfeefffffu))
		return false;
	key = (struct key){ device->id, request->address >> 12 };
	entry = g_hash_table_lookup(tlb, &key);
	if (!entry)
		return false;
	answer->address = entry->translated & entry->mask;
	answer->mask = ~entry->mask;
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
	struct key key = { DEVICE, address >> 12 };

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
