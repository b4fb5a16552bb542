// What the peers for IOTLBs share: an access is answered as QEMU answers one, by a call through a pointer that fills an
// answer in; whether that is enough for the access is for the caller to see. A peer does what the translate function of
// its model does when it finds an entry, but for trace points, as of QEMU 11.1. What is the same in all three:
//
// - The device is at hand: each has an address space, and its memory region is part of the model's own struct. Its
//   number is asked for: pci_bus_num() calls its bus's class.
// - SMMUv3 and VT-d take a mutex for the lookup: it keeps the table together, which AMD's leaves to the big lock.
//
// PEER ENTRIES ROUNDS INVALIDATIONS
//
// Prints nanoseconds per access that hits, per invalidation of one page and per invalidation of the mix, of the fastest
// round, as JSON.
#include <glib.h>
#include <pthread.h>
#include "measure.h"

struct bus {
	const struct bus_class *class;
	// The bridge's configuration, NULL for a root bus.
	const uint8_t *bridge;
};

struct bus_class {
	int (*number)(const struct bus *);
};

struct device {
	const struct bus *bus;
	uint8_t function;
};

struct request {
	const struct device *device;
	uint32_t pasid;
	uint64_t address;
	bool write;
};

// IOMMUTLBEntry
struct answer {
	const void *memory;
	uint64_t input, address, mask;
	int permissions;
};

enum { READ = 1, WRITE = 2 };

// Each peer's own.
static void prepare(void);
static void fill(uint64_t address);
static bool translate(const struct request *request, struct answer *answer);
static void invalidate_page(uint64_t address);
// One of every ten is of 16 pages, one of another address space.
static void invalidate_pages(uint64_t address);
static void invalidate_other(void);

// hw/pci/pci.c pcibus_num()
static int number(const struct bus *bus)
{
	return bus->bridge ? bus->bridge[0x19] : 0;
}

// pci_bus_num(), of another file there.
static __attribute__((noipa)) int bus_number(const struct bus *bus)
{
	return bus->class->number(bus);
}

static inline uint16_t source_of(const struct device *device)
{
	return bus_number(device->bus) << 8 | device->function;
}

enum { SOURCE = 0x20, PASID = 3, BATCH = 500 };

static const struct bus_class PCI = { number };
static const struct bus ROOT = { &PCI, NULL };
static const struct device DEVICE = { &ROOT, SOURCE };

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
	struct request request = { .device = &DEVICE, .pasid = PASID, .write = true };
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
