// The peer of bench/amd.mjs for the IOTLB: a GHashTable keyed by page and device, used as QEMU's hw/i386/amd_iommu.c
// uses it. One lookup finds a page; invalidations of a page remove one key, invalidations of a domain look at every
// entry.
//
// amd-iotlb ENTRIES ROUNDS INVALIDATIONS
//
// Prints nanoseconds per lookup that hits, and per invalidation of the mix, of the fastest round, as JSON.
#include <glib.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { BATCH = 500, DEVICE = 0x20, DOMAIN = 7, KEY_SHIFT = 36 };

struct entry {
	uint16_t domain, device;
	uint64_t perms, translated, mask;
};

static guint hash(gconstpointer key)
{
	return (guint) * (const uint64_t *)key;
}

static gboolean equal(gconstpointer a, gconstpointer b)
{
	return *(const uint64_t *)a == *(const uint64_t *)b;
}

static uint64_t key_of(uint64_t address)
{
	return address >> 12 | (uint64_t)DEVICE << KEY_SHIFT;
}

static gboolean has_domain(gpointer k, gpointer v, gpointer data)
{
	(void)k;
	return ((struct entry *)v)->domain == *(uint16_t *)data;
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
	long entries, rounds, invalidations, round, i;
	uint64_t state = 88172645463325252u, sum = 0, *order;
	double hit = 1e18, best = 1e18, spent;

	if (argc != 4)
		return 2;
	entries = atol(argv[1]);
	rounds = atol(argv[2]);
	invalidations = atol(argv[3]);
	order = malloc(entries * sizeof(*order));
	for (i = 0; i < entries; i++) {
		uint64_t *key = g_new0(uint64_t, 1);
		struct entry *entry = g_new0(struct entry, 1);

		order[i] = 0x40000000 + i * 4096;
		*key = key_of(order[i]);
		*entry = (struct entry){ DOMAIN, DEVICE, 3, order[i], ~(uint64_t)4095 };
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
	for (round = 0; round < rounds; round++) {
		spent = now();
		for (i = 0; i < entries; i++) {
			uint64_t key = key_of(order[i]);
			struct entry *entry = g_hash_table_lookup(tlb, &key);

			if (!entry || !(entry->perms & 2))
				return 1;
			sum += (entry->translated & entry->mask) + (order[i] & ~entry->mask);
		}
		spent = (now() - spent) / entries;
		if (spent < hit)
			hit = spent;
	}
	for (round = 0; round < invalidations / BATCH; round++) {
		spent = now();
		for (i = 0; i < BATCH; i++) {
			// Of what is not there: the fill stays as it is.
			if (i % 10 >= 8) {
				uint16_t other = DOMAIN + 1;

				g_hash_table_foreach_remove(tlb, has_domain, &other);
			} else {
				uint64_t key = key_of(0x80000000u + (i & 0xffff) * 4096);

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
