// What the peers for IOTLBs share: an access is answered as QEMU answers one, by a call through a pointer that fills an
// answer in; whether that is enough for the access is for the caller to see.
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
	uint64_t address, mask;
	int permissions;
};

enum { READ = 1, WRITE = 2 };

// Each peer's own.
static void prepare(void);
static void fill(uint64_t address);
static const struct request FIRST;
static bool translate(const struct request *request, struct answer *answer);
static void invalidate_page(uint64_t address);
// One of every ten is of 16 pages, one of another address space.
static void invalidate_pages(uint64_t address);
static void invalidate_other(void);

enum { BATCH = 500 };

// Of what is not there: the fill stays as it is.
static inline uint64_t absent(long i)
{
	return 0x80000000u + (i & 0xffff) * 4096;
}

static inline void invalidate_mixed(long i)
{
	if (i % 10 == 8)
		invalidate_pages(absent(i));
	else if (i % 10 == 9)
		invalidate_other();
	else
		invalidate_page(absent(i));
}

static inline void access_once(bool (*through)(const struct request *, struct answer *), struct request *request,
			       uint64_t address, uint64_t *sum)
{
	struct answer answer;

	request->address = address;
	if (!through(request, &answer) || !(answer.permissions & (request->write ? WRITE : READ)))
		exit(1);
	*sum += answer.address + (address & answer.mask);
}

int main(int argc, char **argv)
{
	bool (*volatile through)(const struct request *, struct answer *) = translate;
	struct request request = FIRST;
	long entries, rounds, invalidations;
	uint64_t sum = 0, *order;
	double hit, page, mixed;

	if (argc != 4)
		return 2;
	entries = atol(argv[1]);
	rounds = atol(argv[2]);
	invalidations = atol(argv[3]);
	prepare();
	for (long i = 0; i < entries; i++)
		fill(i * 4096);
	order = shuffled(entries, 0);
	hit = FASTEST(rounds, entries, access_once(through, &request, order[i], &sum));
	page = FASTEST(invalidations / BATCH, BATCH, invalidate_page(absent(i)));
	mixed = FASTEST(invalidations / BATCH, BATCH, invalidate_mixed(i));
	printf("{\"hit\":%.2f,\"page\":%.2f,\"mixed\":%.2f,\"sum\":%u}\n", hit, page, mixed, (unsigned)sum);
	return 0;
}
