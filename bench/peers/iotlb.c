// The peer of bench/iommu.mjs for the IOTLB of every vendor: translations in a GHashTable, as QEMU's models keep theirs,
// and for each access the work that the models here do:
//
// - The device's configuration is the last one's where device and PASID are the last's, else it is looked up. It has
//   two tags, which are ASID and VMID, domain and source, or domain and PASID, and bounds addresses.
// - One lookup finds the entry: of the smallest size that the IOTLB holds, the only one here. The hash is of page, size
//   and both tags; GLib compares hashes, then equal() compares page, size and both tags.
// - The permission is checked, and an answer filled in. The access is a call through a pointer.
//
// An invalidation of one page removes one key, all others look at every entry, as in QEMU.
//
// PEER ENTRIES ROUNDS INVALIDATIONS
//
// Prints nanoseconds per access that hits, per invalidation of one page and per invalidation of the mix, of the fastest
// round, as JSON.
#include <glib.h>
#include "measure.h"

struct request {
	uint16_t device;
	uint32_t pasid;
	uint64_t address;
	bool write;
};

struct answer {
	uint64_t address, bytes;
};

struct config {
	uint32_t tag, other;
	uint8_t input_bits;
};

struct key {
	uint64_t page;
	uint32_t tag, other;
	uint8_t size;
};

struct entry {
	struct key key;
	uint64_t translated;
	int permissions;
};

enum { READ = 1, WRITE = 2 };
enum { DEVICE = 0x20, PASID = 3, TAG = 13, OTHER = 3, SIZE = 12, BATCH = 500 };

static GHashTable *tlb, *configs;
static struct config config = { TAG, OTHER, 48 };
static const struct config *last;
static uint16_t last_device;
static uint32_t last_pasid;

static guint hash(gconstpointer of)
{
	const struct key *key = of;
	uint64_t tags = (uint64_t)key->tag << 40 ^ (uint64_t)key->other << 20 ^ key->size;

	return (key->page ^ tags) * 0x9e3779b97f4a7c15u >> 32;
}

static gboolean equal(gconstpointer a, gconstpointer b)
{
	const struct key *x = a, *y = b;

	return x->page == y->page && x->tag == y->tag && x->other == y->other && x->size == y->size;
}

static gpointer config_key(uint16_t device, uint32_t pasid)
{
	return GSIZE_TO_POINTER((gsize)pasid << 16 | device);
}

static const struct config *find_config(uint16_t device, uint32_t pasid)
{
	last = g_hash_table_lookup(configs, config_key(device, pasid));
	last_device = device;
	last_pasid = pasid;
	return last;
}

static void fill(uint64_t address)
{
	struct entry *entry = g_new0(struct entry, 1);

	*entry = (struct entry){ { address >> SIZE, TAG, OTHER, SIZE }, address, READ | WRITE };
	g_hash_table_insert(tlb, &entry->key, entry);
}

static bool translate(const struct request *request, struct answer *answer)
{
	const struct config *of = last;
	const struct entry *entry;
	uint64_t offset = request->address & ((1u << SIZE) - 1);

	if (!of || request->device != last_device || request->pasid != last_pasid)
		of = find_config(request->device, request->pasid);
	if (!of || request->address >> of->input_bits)
		return false;
	struct key key = { request->address >> SIZE, of->tag, of->other, SIZE };
	entry = g_hash_table_lookup(tlb, &key);
	if (!entry || !(entry->permissions & (request->write ? WRITE : READ)))
		return false;
	answer->address = entry->translated + offset;
	answer->bytes = (1ull << entry->key.size) - offset;
	return true;
}

struct range {
	uint64_t first, last;
	uint32_t tag, other;
};

static gboolean touches(gpointer k, gpointer v, gpointer data)
{
	const struct key *key = k;
	const struct range *range = data;

	(void)v;
	return key->tag == range->tag && key->other == range->other && key->page <= range->last &&
	       key->page >= range->first;
}

// Of what is not there: the fill stays as it is.
static void invalidate(long i, bool mixed)
{
	uint64_t page = (0x80000000u >> SIZE) + (i & 0xffff);
	struct key key = { page, TAG, OTHER, SIZE };
	struct range pages = { page, page + 15, TAG, OTHER };
	struct range space = { 0, ~0ull, TAG, OTHER + 1 };

	if (mixed && i % 10 == 8)
		g_hash_table_foreach_remove(tlb, touches, &pages);
	else if (mixed && i % 10 == 9)
		g_hash_table_foreach_remove(tlb, touches, &space);
	else
		g_hash_table_remove(tlb, &key);
}

static inline void access_once(bool (*through)(const struct request *, struct answer *), struct request *request,
			       uint64_t address, uint64_t *sum)
{
	struct answer answer;

	request->address = address;
	if (!through(request, &answer))
		exit(1);
	*sum += answer.address;
}

int main(int argc, char **argv)
{
	bool (*volatile through)(const struct request *, struct answer *) = translate;
	struct request request = { .device = DEVICE, .pasid = PASID, .write = true };
	long entries, rounds, invalidations;
	uint64_t sum = 0, *order;
	double hit, page, mixed;

	if (argc != 4)
		return 2;
	entries = atol(argv[1]);
	rounds = atol(argv[2]);
	invalidations = atol(argv[3]);
	tlb = g_hash_table_new_full(hash, equal, NULL, g_free);
	configs = g_hash_table_new(NULL, NULL);
	g_hash_table_insert(configs, config_key(DEVICE, PASID), &config);
	for (long i = 0; i < entries; i++)
		fill(i * 4096);
	order = shuffled(entries, 0);
	hit = FASTEST(rounds, entries, access_once(through, &request, order[i], &sum));
	page = FASTEST(invalidations / BATCH, BATCH, invalidate(i, false));
	mixed = FASTEST(invalidations / BATCH, BATCH, invalidate(i, true));
	printf("{\"hit\":%.2f,\"page\":%.2f,\"mixed\":%.2f,\"sum\":%u}\n", hit, page, mixed, (unsigned)sum);
	return 0;
}
