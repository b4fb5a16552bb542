// The peer of bench/amd.mjs for walks: host tables, guest tables and both, of 4 KiB pages and four levels, in plain C,
// with the checks that a walk has to make, and no cache of anything.
//
// amd-walk IMAGE BASE CR3 ROOT PAGES ROUNDS FIRST
//
// IMAGE is the memory from physical address BASE on. Walks PAGES pages from address FIRST on, in a shuffled order, ROUNDS
// times each way, and prints nanoseconds per walk of the fastest round as JSON. CR3 is a GPA in the nested walk and an
// equal SPA otherwise; ROOT is the host tables', with Mode 4.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { READ = 1, WRITE = 2 };
enum fault { NONE, WIDTH, NOT_PRESENT, LEVEL, SKIPPED, RESERVED, SIZE, PERMISSION, ABORT };

static uint8_t *memory;
static uint64_t base, size;
static uint64_t root;

static const uint64_t OUTPUT = 0x000ffffffffff000u;

static enum fault load(uint64_t pa, uint64_t *out)
{
	if (pa < base || pa - base >= size)
		return ABORT;
	*out = *(const uint64_t *)(memory + (pa - base));
	return NONE;
}

static enum fault host(uint64_t gpa, unsigned need, uint64_t *spa)
{
	uint64_t table = root, entry;
	unsigned rights = READ | WRITE, next, level, shift;
	enum fault fault;

	if (gpa >> 48)
		return WIDTH;
	for (level = 4;; level = next) {
		shift = 3 + 9 * level;
		fault = load(table + ((gpa >> shift) & 511) * 8, &entry);
		if (fault)
			return fault;
		if (!(entry & 1))
			return NOT_PRESENT;
		next = entry >> 9 & 7;
		rights &= entry >> 61;
		if (next == 0 || next == 7)
			break;
		if (next >= level)
			return LEVEL;
		if (entry >> 52 & 0x1ff)
			return RESERVED;
		if (next < level - 1 && gpa << (64 - shift) >> (64 - shift) >> (12 + 9 * next))
			return SKIPPED;
		table = entry & OUTPUT;
	}
	if (level == 6)
		return LEVEL;
	if (entry >> 52 & 0x7f)
		return RESERVED;
	if (next == 7) {
		unsigned bits = 13 + __builtin_ctzll(~(entry >> 12));

		if (bits <= shift || bits >= shift + 9 || bits > 52)
			return SIZE;
		shift = bits;
	}
	if ((rights & need) != need)
		return PERMISSION;
	*spa = (entry & OUTPUT & ~((1ull << shift) - 1)) | (gpa & ((1ull << shift) - 1));
	return NONE;
}

static enum fault guest(uint64_t cr3, uint64_t gva, unsigned need, int nested, uint64_t *out)
{
	uint64_t table = cr3, entry, at;
	uint64_t rights = 6;
	enum fault fault;
	int shift;

	if ((int64_t)gva >> 47 != 0 && (int64_t)gva >> 47 != -1)
		return WIDTH;
	for (shift = 39;; shift -= 9) {
		at = table + ((gva >> shift) & 511) * 8;
		if (nested) {
			fault = host(at, READ, &at);
			if (fault)
				return fault;
		}
		fault = load(at, &entry);
		if (fault)
			return fault;
		if (!(entry & 1))
			return NOT_PRESENT;
		rights &= entry;
		if (shift == 12 || (entry & 0x80 && shift < 39))
			break;
		if (entry & 0x80)
			return RESERVED;
		table = entry & OUTPUT;
	}
	if (shift > 12 && entry & ((1ull << shift) - (1u << 13)))
		return RESERVED;
	if (!(rights & 4) || (need & WRITE && !(rights & 2)))
		return PERMISSION;
	*out = (entry & OUTPUT & ~((1ull << shift) - 1)) | (gva & ((1ull << shift) - 1));
	return nested ? host(*out, need, out) : NONE;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e9 + ts.tv_nsec;
}

int main(int argc, char **argv)
{
	uint64_t cr3, first, *order, sum = 0, pa = 0;
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
	cr3 = strtoull(argv[3], NULL, 0);
	root = strtoull(argv[4], NULL, 0);
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
				enum fault fault = way == 0 ? host(order[i], WRITE, &pa) :
							      guest(cr3, order[i], WRITE, way == 2, &pa);

				if (fault) {
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
	printf("{\"host\":%.2f,\"guest\":%.2f,\"nested\":%.2f,\"sum\":%u}\n", t[0], t[1], t[2], (unsigned)sum);
	return 0;
}
