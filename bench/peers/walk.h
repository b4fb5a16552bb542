// What the peers for walks share: memory, and the three ways through it.
//
// PEER IMAGE BASE STAGE1 STAGE2 PAGES ROUNDS FIRST
//
// IMAGE is the memory from physical address BASE on; STAGE1 and STAGE2 are the addresses of root tables, the first an
// address of stage 2 in the nested walk and an equal physical one otherwise. Walks PAGES pages from address FIRST on, in
// a shuffled order, ROUNDS times each way, and prints nanoseconds per walk of the fastest round as JSON; then the same of
// accesses, which are walks with a cache.
#include "measure.h"

static uint8_t *memory;
static uint64_t base, size;

static inline uint64_t *entry_at(uint64_t pa)
{
	return pa < base || pa - base >= size ? NULL : (uint64_t *)(memory + (pa - base));
}

enum way { STAGE1, STAGE2, NESTED };

// Each peer's own: a write to an address; false where it faults. `sum` takes what the walk has found, besides `out`.
static void configure(uint64_t stage1_root, uint64_t stage2_root);
static bool walk(enum way way, uint64_t address, uint64_t *out, uint64_t *sum);

static inline void walk_once(enum way way, uint64_t address, uint64_t *sum)
{
	uint64_t out = 0;

	if (!walk(way, address, &out, sum) || out != address) {
		fprintf(stderr, "way %d, address %llx: fault\n", way, (unsigned long long)address);
		exit(1);
	}
	*sum += out;
}

// What an access has beside its walk: a lookup in a cache that has just been emptied, and a new entry. As the models here
// empty theirs, that is a new tag.
static struct cached {
	uint64_t page, out;
	uint32_t tag;
} cache[64];
static uint32_t tag;

static inline void access_once(enum way way, uint64_t address, uint64_t *sum)
{
	uint64_t page = address >> 12, out = 0;
	struct cached *at = &cache[(page ^ ++tag) * 0x9e3779b97f4a7c15u >> 58];

	if ((at->page == page && at->tag == tag) || !walk(way, address, &out, sum) || out != address) {
		fprintf(stderr, "way %d, address %llx: fault\n", way, (unsigned long long)address);
		exit(1);
	}
	*at = (struct cached){ page, out, tag };
	*sum += out;
}

int main(int argc, char **argv)
{
	uint64_t *order, sum = 0;
	long pages, rounds;
	double stage1, stage2, nested, accesses[3];
	FILE *image;

	if (argc != 8 || !(image = fopen(argv[1], "rb")))
		return 2;
	fseek(image, 0, SEEK_END);
	size = ftell(image);
	rewind(image);
	memory = aligned_alloc(4096, size);
	if (!memory || fread(memory, 1, size, image) != size)
		return 2;
	base = strtoull(argv[2], NULL, 0);
	configure(strtoull(argv[3], NULL, 0), strtoull(argv[4], NULL, 0));
	pages = atol(argv[5]);
	rounds = atol(argv[6]);
	order = shuffled(pages, strtoull(argv[7], NULL, 0));
	stage1 = FASTEST(rounds, pages, walk_once(STAGE1, order[i], &sum));
	stage2 = FASTEST(rounds, pages, walk_once(STAGE2, order[i], &sum));
	nested = FASTEST(rounds, pages, walk_once(NESTED, order[i], &sum));
	for (enum way way = STAGE1; way <= NESTED; way++)
		accesses[way] = FASTEST(rounds, pages, access_once(way, order[i], &sum));
	printf("{\"stage1\":%.2f,\"stage2\":%.2f,\"nested\":%.2f,\"stage1Access\":%.2f,\"stage2Access\":%.2f,"
	       "\"nestedAccess\":%.2f,\"sum\":%u}\n",
	       stage1, stage2, nested, accesses[STAGE1], accesses[STAGE2], accesses[NESTED], (unsigned)sum);
	return 0;
}
