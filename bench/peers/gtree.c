// The peer of bench/range-map.mjs: mappings in GLib's GTree, used as QEMU's util/iova-tree.c uses it: the tree is keyed by
// the mapping itself, two mappings compare equal where they overlap, an insert looks for an overlap first, and a removal
// removes whatever overlaps until nothing does.
//
// gtree COUNT ROUNDS: prints nanoseconds per insert, lookup and removal, and bytes of heap per mapping, as JSON.
#include <glib.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct mapping {
	uint64_t iova;
	uint64_t translated;
	uint64_t size; // inclusive: bytes - 1
	int perm;
};

static int compare(const void *a, const void *b, void *data)
{
	const struct mapping *m1 = a, *m2 = b;

	(void)data;
	if (m1->iova > m2->iova + m2->size)
		return 1;
	if (m1->iova + m1->size < m2->iova)
		return -1;
	return 0;
}

static int map(GTree *tree, const struct mapping *mapping)
{
	struct mapping *copy;

	if (mapping->iova + mapping->size < mapping->iova || g_tree_lookup(tree, mapping))
		return -1;
	copy = g_new0(struct mapping, 1);
	*copy = *mapping;
	g_tree_insert(tree, copy, copy);
	return 0;
}

static void unmap(GTree *tree, const struct mapping *mapping)
{
	const struct mapping *overlap;

	while ((overlap = g_tree_lookup(tree, mapping)))
		g_tree_remove(tree, overlap);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e9 + ts.tv_nsec;
}

static uint64_t state = 88172645463325252u;

static uint64_t xorshift(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static uint64_t *shuffled(size_t count)
{
	uint64_t *iovas = malloc(count * sizeof(*iovas));

	for (size_t i = 0; i < count; i++)
		iovas[i] = i * 8192;
	for (size_t i = count - 1; i > 0; i--) {
		size_t j = xorshift() % (i + 1);
		uint64_t t = iovas[i];

		iovas[i] = iovas[j];
		iovas[j] = t;
	}
	return iovas;
}

static double held(void)
{
	return (double)mallinfo2().uordblks + mallinfo2().hblkhd;
}

static double bytes_per_mapping(const uint64_t *iovas, size_t count)
{
	size_t trees = (200000 + count - 1) / count;
	double before = held(), after;
	GTree **all = calloc(trees, sizeof(*all));

	for (size_t t = 0; t < trees; t++) {
		all[t] = g_tree_new_full(compare, NULL, g_free, NULL);
		for (size_t i = 0; i < count; i++)
			map(all[t], &(struct mapping){ .iova = iovas[i], .size = 4095, .perm = 3 });
	}
	after = held();
	for (size_t t = 0; t < trees; t++)
		g_tree_destroy(all[t]);
	free(all);
	return (after - before) / (count * trees);
}

int main(int argc, char **argv)
{
	size_t count = argc > 1 ? strtoul(argv[1], NULL, 0) : 1000;
	size_t rounds = argc > 2 ? strtoul(argv[2], NULL, 0) : 1;
	uint64_t *in = shuffled(count), *look = shuffled(count), *out = shuffled(count);
	GTree *tree = g_tree_new_full(compare, NULL, g_free, NULL);
	double spent[3] = { 0, 0, 0 }, bytes = bytes_per_mapping(in, count);

	for (size_t round = 0; round < rounds; round++) {
		size_t found = 0;
		double t0 = now(), t1, t2, t3;

		for (size_t i = 0; i < count; i++) {
			struct mapping m = { .iova = in[i], .translated = i * 4096, .size = 4095, .perm = 3 };

			if (map(tree, &m))
				return 1;
		}
		t1 = now();
		spent[0] += t1 - t0;
		t2 = now();
		for (size_t i = 0; i < count; i++) {
			struct mapping m = { .iova = look[i] + 100, .size = 0 };

			found += g_tree_lookup(tree, &m) != NULL;
		}
		t3 = now();
		if (found != count)
			return 1;
		spent[1] += t3 - t2;
		t2 = now();
		for (size_t i = 0; i < count; i++) {
			struct mapping m = { .iova = out[i], .size = 4095 };

			unmap(tree, &m);
		}
		spent[2] += now() - t2;
		if (g_tree_nnodes(tree) != 0)
			return 1;
	}
	for (int i = 0; i < 3; i++)
		spent[i] /= (double)count * rounds;
	printf("{\"map\":%.1f,\"find\":%.1f,\"unmap\":%.1f,\"bytes\":%.1f}\n", spent[0], spent[1], spent[2], bytes);
	return 0;
}
