// The peer of bench/vtd.mjs for the IOTLB: a GHashTable keyed by page, source-id, PASID and level, used as QEMU's
// hw/i386/intel_iommu.c uses it. A lookup tries every level from the lowest on, after a look at the device's context;
// every invalidation looks at every entry.
//
// vtd-iotlb ENTRIES ROUNDS INVALIDATIONS
//
// Prints nanoseconds per lookup that hits, and per invalidation of the mix, of the fastest round, as JSON.
#include <glib.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

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

struct context {
	uint32_t generation;
	uint16_t did;
};

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

static struct entry *lookup(GHashTable *tlb, uint16_t sid, uint32_t pasid, uint64_t address)
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

enum { BATCH = 500, SID = 0x20, PASID = 3, DID = 13 };

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

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e9 + ts.tv_nsec;
}

int main(int argc, char **argv)
{
	GHashTable *tlb = g_hash_table_new_full(hash, equal, g_free, g_free);
	GHashTable *devices = g_hash_table_new(NULL, NULL);
	static struct context context = { 1, DID };
	long entries, rounds, invalidations, round, i;
	uint64_t state = 88172645463325252u, sum = 0, *order;
	double hit, best, spent;

	if (argc != 4)
		return 2;
	entries = atol(argv[1]);
	rounds = atol(argv[2]);
	invalidations = atol(argv[3]);
	g_hash_table_insert(devices, GUINT_TO_POINTER(SID), &context);
	order = malloc(entries * sizeof(*order));
	for (i = 0; i < entries; i++) {
		struct key *key = g_new0(struct key, 1);
		struct entry *entry = g_new0(struct entry, 1);

		order[i] = 0x40000000 + i * 4096;
		*key = (struct key){ order[i] >> 12, PASID, SID, 1 };
		*entry = (struct entry){ order[i] >> 12, order[i] | 3, ~4095ull, PASID, DID, 3, 3 };
		g_hash_table_insert(tlb, key, entry);
	}
	for (i = entries - 1; i > 0; i--) {
		uint64_t swapped = order[i];
		long j;

		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		j = state % (i + 1);
		order[i] = order[j];
		order[j] = swapped;
	}
	hit = 1e18;
	for (round = 0; round < rounds; round++) {
		spent = now();
		for (i = 0; i < entries; i++) {
			struct context *found = g_hash_table_lookup(devices, GUINT_TO_POINTER(SID));
			struct entry *entry = lookup(tlb, SID, PASID, order[i]);

			if (!entry || found->generation != 1 || !(entry->perm & 2))
				return 1;
			sum += (entry->pte & entry->mask) + (order[i] & ~entry->mask);
		}
		spent = (now() - spent) / entries;
		if (spent < hit)
			hit = spent;
	}
	best = 1e18;
	for (round = 0; round < invalidations / BATCH; round++) {
		spent = now();
		for (i = 0; i < BATCH; i++) {
			// Of what is not there: the fill stays as it is.
			struct named named = { 0x80000000u + i * 4096, ~0ull, PASID, DID };

			if (i % 10 == 8)
				named.mask = ~15ull;
			else if (i % 10 == 9)
				named.pasid = 9;
			g_hash_table_foreach_remove(tlb, i % 10 == 9 ? has_pasid : has_page, &named);
		}
		spent = (now() - spent) / BATCH;
		if (spent < best)
			best = spent;
	}
	printf("{\"hit\":%.2f,\"invalidate\":%.2f,\"sum\":%u}\n", hit, best, (unsigned)sum);
	return 0;
}
