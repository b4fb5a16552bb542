// The peer of bench/smmu.mjs for the IOTLB: a GHashTable keyed by address, ASID, VMID, granule and level, used as QEMU's
// hw/arm/smmu-common.c uses it. A lookup tries every level from the start level on, after a lookup of the device's
// configuration; an invalidation of one page with a level removes one key; all others look at every entry.
//
// smmu-iotlb ENTRIES ROUNDS INVALIDATIONS
//
// Prints nanoseconds per lookup that hits, and per invalidation of the mix, of the fastest round, as JSON.
#include <glib.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

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

static struct entry *lookup(GHashTable *tlb, const struct config *config, uint64_t iova)
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

enum { BATCH = 500 };

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

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e9 + ts.tv_nsec;
}

int main(int argc, char **argv)
{
	GHashTable *tlb = g_hash_table_new_full(hash, equal, g_free, g_free);
	GHashTable *configs = g_hash_table_new(NULL, NULL);
	static struct config config = { 1, 7, 48 };
	long entries, rounds, invalidations, round, i;
	uint64_t state = 88172645463325252u, sum = 0, *order;
	double hit, best, spent;

	if (argc != 4)
		return 2;
	entries = atol(argv[1]);
	rounds = atol(argv[2]);
	invalidations = atol(argv[3]);
	g_hash_table_insert(configs, GUINT_TO_POINTER(5), &config);
	order = malloc(entries * sizeof(*order));
	for (i = 0; i < entries; i++) {
		struct key *key = g_new0(struct key, 1);
		struct entry *entry = g_new0(struct entry, 1);

		order[i] = 0x40000000 + i * 4096;
		*key = (struct key){ order[i], 1, 7, 1, 3 };
		*entry = (struct entry){ order[i], 4095, order[i] * 2, 3 };
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
			struct config *found = g_hash_table_lookup(configs, GUINT_TO_POINTER(5));
			struct entry *entry = lookup(tlb, found, order[i]);

			if (!entry || !(entry->perm & 2))
				return 1;
			sum += entry->translated + (order[i] & entry->mask);
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
			uint64_t iova = 0x80000000u + (i & 0xffff) * 4096;

			if (i % 10 == 8) {
				struct range range = { iova, iova + 16 * 4096 - 1, 1, 7 };

				g_hash_table_foreach_remove(tlb, touches, &range);
			} else if (i % 10 == 9) {
				struct range range = { 0, 0, 2, 7 };

				g_hash_table_foreach_remove(tlb, has_asid, &range);
			} else {
				struct key key = { iova, 1, 7, 1, 3 };

				g_hash_table_remove(tlb, &key);
			}
		}
		spent = (now() - spent) / BATCH;
		if (spent < best)
			best = spent;
	}
	printf("{\"hit\":%.2f,\"invalidate\":%.2f,\"sum\":%u}\n", hit, best, (unsigned)sum);
	return 0;
}
