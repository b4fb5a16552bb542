// The peer of bench/vtd.mjs for walks: first-stage, second-stage and nested walks of 4-level tables in plain C, with the
// checks that a walk has to make, and no cache of anything.
//
// vtd-walk IMAGE BASE FIRST_ROOT SECOND_ROOT PAGES ROUNDS FIRST
//
// IMAGE is the memory from physical address BASE on. Walks PAGES pages from address FIRST on, in a shuffled order, ROUNDS
// times each way, and prints nanoseconds per walk of the fastest round as JSON.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { READ = 1, WRITE = 2, HAW = 46 };
enum fault { NONE, NOT_CANONICAL, NOT_PRESENT, RESERVED, PERMISSION, FETCH };

static uint8_t *memory;
static uint64_t base, size;
static uint64_t second_root;

static const uint64_t ADDRESS = 0x000ffffffffff000u;
static const uint64_t ABOVE = 0x000fffffffffffffu & ~((1ull << HAW) - 1);

static uint64_t *at(uint64_t pa)
{
	if (pa < base || pa - base >= size)
		return NULL;
	return (uint64_t *)(memory + (pa - base));
}

static enum fault second_stage(uint64_t gpa, unsigned need, uint64_t *pa)
{
	uint64_t table = second_root, *entry, reserved;
	unsigned rights = READ | WRITE;
	int shift, leaf;

	if (gpa >> 48)
		return NOT_CANONICAL;
	for (shift = 39;; shift -= 9) {
		entry = at(table + (gpa >> shift & 511) * 8);
		if (!entry)
			return FETCH;
		if (!(*entry & 3))
			return NOT_PRESENT;
		leaf = shift == 12 || (shift <= 30 && *entry >> 7 & 1);
		// Above the host address width, IW; SNP and PS in tables, low address bits in large pages.
		reserved = ABOVE | 1ull << 62;
		if (!leaf)
			reserved |= 1u << 11 | (shift > 30) << 7;
		else
			reserved |= (1ull << shift) - 4096;
		if (*entry & reserved)
			return RESERVED;
		rights &= *entry;
		if (leaf)
			break;
		table = *entry & ADDRESS;
	}
	if (!rights)
		return NOT_PRESENT;
	if ((rights & need) != need)
		return PERMISSION;
	*pa = (*entry & ADDRESS) | (gpa & ((1ull << shift) - 1));
	return NONE;
}

static enum fault first_stage(uint64_t root, uint64_t va, unsigned need, int nested, uint64_t *out)
{
	uint64_t table = root, *entry, place, reserved, flags;
	unsigned rights = 6;
	enum fault fault;
	int shift, leaf;

	if ((int64_t)va >> 47 != 0 && (int64_t)va >> 47 != -1)
		return NOT_CANONICAL;
	for (shift = 39;; shift -= 9) {
		place = table + (va >> shift & 511) * 8;
		if (nested) {
			fault = second_stage(place, READ, &place);
			if (fault)
				return fault;
		}
		entry = at(place);
		if (!entry)
			return FETCH;
		if (!(*entry & 1))
			return NOT_PRESENT;
		leaf = shift == 12 || (shift <= 30 && *entry >> 7 & 1);
		reserved = ABOVE;
		if (!leaf)
			reserved |= (shift > 30) << 7;
		else if (shift > 12)
			reserved |= (1ull << shift) - 8192;
		if (*entry & reserved)
			return RESERVED;
		rights &= *entry;
		// Users: U/S everywhere, R/W as well to write.
		if (leaf && (!(rights & 4) || ((need & WRITE) && !(rights & 2))))
			return PERMISSION;
		flags = leaf && (need & WRITE) ? 0x60 : 0x20;
		if ((*entry & flags) != flags)
			*entry |= flags;
		if (leaf)
			break;
		table = *entry & ADDRESS;
	}
	*out = (*entry & ADDRESS) | (va & ((1ull << shift) - 1));
	return nested ? second_stage(*out, need, out) : NONE;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e9 + ts.tv_nsec;
}

int main(int argc, char **argv)
{
	uint64_t root, first, *order, sum = 0, pa = 0;
	long pages, rounds, round, i;
	double t[3];
	uint64_t state = 88172645463325252u;
	FILE *image;
	int way;

	if (argc != 8 || !(image = fopen(argv[1], "rb")))
		return 2;
	fseek(image, 0, SEEK_END);
	size = ftell(image);
	rewind(image);
	memory = aligned_alloc(4096, size);
	if (!memory || fread(memory, 1, size, image) != size)
		return 2;
	base = strtoull(argv[2], NULL, 0);
	root = strtoull(argv[3], NULL, 0);
	second_root = strtoull(argv[4], NULL, 0);
	pages = atol(argv[5]);
	rounds = atol(argv[6]);
	first = strtoull(argv[7], NULL, 0);
	order = malloc(pages * sizeof(*order));
	for (i = 0; i < pages; i++)
		order[i] = first + i * 4096;
	for (i = pages - 1; i > 0; i--) {
		uint64_t swapped = order[i];
		long j;

		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		j = state % (i + 1);
		order[i] = order[j];
		order[j] = swapped;
	}
	for (way = 0; way < 3; way++) {
		t[way] = 1e18;
		for (round = 0; round < rounds; round++) {
			double before = now(), spent;

			for (i = 0; i < pages; i++) {
				enum fault fault = way == 1 ? second_stage(order[i], WRITE, &pa) :
							      first_stage(root, order[i], WRITE, way == 2, &pa);

				if (fault || pa != order[i]) {
					fprintf(stderr, "way %d, page %ld: fault %d\n", way, i, fault);
					return 1;
				}
				sum += pa;
			}
			spent = (now() - before) / pages;
			if (spent < t[way])
				t[way] = spent;
		}
	}
	printf("{\"first\":%.2f,\"second\":%.2f,\"nested\":%.2f,\"sum\":%u}\n", t[0], t[1], t[2], (unsigned)sum);
	return 0;
}
