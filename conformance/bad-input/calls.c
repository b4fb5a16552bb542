/*
 * Random ioctls on /dev/iommu: random requests, sizes, bytes and pointers. Each answers a number or an errno.
 *
 * calls COUNT SEED
 *
 * A second /dev/iommu, opened before, is asked between them for what it was told before: whatever happens to the first
 * must not touch it. Prints how many calls succeeded and how many were refused; ends with 1 and a message otherwise.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define ARENA 0x200000000000UL
#define ARENA_BYTES (1UL << 20)
#define STRUCT 0x400000000000UL
#define STRUCT_BYTES 8192UL
#define READ_ONLY 0x500000000000UL
#define REQUEST(number) (0x3b00UL | (number))
#define CALLS_PER_CONTEXT 2000
#define CONTROL_LENGTH 0x4000UL

static uint64_t state;

/* splitmix64 */
static uint64_t next(void)
{
	uint64_t z = (state += 0x9e3779b97f4a7c15UL);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9UL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebUL;
	return z ^ (z >> 31);
}

static uint64_t below(uint64_t bound)
{
	return next() % bound;
}

static uint64_t pointer(void)
{
	switch (below(8)) {
	case 0:
		return 0;
	case 1:
		return READ_ONLY + below(4096);
	case 2:
		return ARENA + ARENA_BYTES - below(64);
	case 3:
		return UINT64_MAX - below(4096);
	case 4:
		return 0xffff800000000000UL + below(1UL << 40);
	default:
		return ARENA + below(ARENA_BYTES / 4096) * 4096 + (below(4) ? 0 : below(4096));
	}
}

static uint32_t word(void)
{
	switch (below(8)) {
	case 0:
		return next();
	case 1:
		return UINT32_MAX;
	case 2:
		return 0xdeadbeef;
	case 3:
		return 1u << below(32);
	case 4:
	case 5:
		return 0;
	default:
		return below(20);
	}
}

static void fill(uint8_t *to, size_t size)
{
	for (size_t at = 0; at + 8 <= size; at += 8) {
		uint64_t two = (uint64_t)word() << 32 | word();

		if (below(3))
			two = 0;
		else if (below(3) == 0)
			two = below(3) ? pointer() : below(64) * 4096;
		memcpy(to + at, &two, 8);
	}
}

static void fail(const char *what, unsigned long call)
{
	fprintf(stderr, "calls: call %lu: %s (%s)\n", call, what, strerror(errno));
	exit(1);
}

static int open_iommu(void)
{
	int fd = open("/dev/iommu", O_RDWR);

	if (fd < 0)
		fail("/dev/iommu does not open", 0);
	return fd;
}

/* The control: an IOAS in which one range is mapped, at IOVA 0. */
struct control {
	int fd;
	uint32_t ioas;
};

static struct control control_open(void)
{
	struct control control = { .fd = open_iommu() };
	struct { uint32_t size, flags, id; } alloc = { .size = 12 };
	struct { uint32_t size, flags, ioas, reserved; uint64_t user_va, length, iova; } map = {
		.size = 40, .flags = 7, .user_va = ARENA, .length = CONTROL_LENGTH,
	};

	if (ioctl(control.fd, REQUEST(0x81), &alloc))
		fail("IOMMU_IOAS_ALLOC", 0);
	control.ioas = map.ioas = alloc.id;
	if (ioctl(control.fd, REQUEST(0x85), &map))
		fail("IOMMU_IOAS_MAP", 0);
	return control;
}

/* Unmaps and maps it again: both must go as ever. */
static void control_check(const struct control *control, unsigned long call)
{
	struct { uint32_t size, ioas; uint64_t iova, length; } unmap = { 24, control->ioas, 0, CONTROL_LENGTH };
	struct { uint32_t size, flags, ioas, reserved; uint64_t user_va, length, iova; } map = {
		40, 7, control->ioas, 0, ARENA, CONTROL_LENGTH, 0,
	};

	if (ioctl(control->fd, REQUEST(0x85), &map) != -1 || errno != EEXIST)
		fail("what another iommufd has mapped can be mapped over", call);
	if (ioctl(control->fd, REQUEST(0x86), &unmap) || unmap.length != CONTROL_LENGTH)
		fail("what another iommufd has mapped cannot be unmapped", call);
	if (ioctl(control->fd, REQUEST(0x85), &map))
		fail("what another iommufd has unmapped cannot be mapped again", call);
}

static uint64_t argument(void)
{
	uint64_t at = STRUCT;
	uint32_t size;

	if (below(16) == 0)
		return pointer();
	if (below(8) == 0)
		at = STRUCT + STRUCT_BYTES - 4 * below(24);
	size = below(8) ? 8 * below(11) : word();
	if (below(3) == 0)
		size = 72; /* struct iommu_test_cmd */
	fill((uint8_t *)STRUCT, 256);
	if (below(2)) {
		/* The ids and operations come first. */
		uint32_t ids[3] = { below(16), below(16), below(16) };

		memcpy((uint8_t *)STRUCT + 4, ids, 4 * (1 + below(3)));
	}
	memcpy((void *)STRUCT, &size, 4);
	if (at > STRUCT && at + 4 <= STRUCT + STRUCT_BYTES)
		memcpy((void *)at, &size, 4);
	return at;
}

static void *map_at(uint64_t at, size_t bytes, int protection)
{
	void *got = mmap((void *)at, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (got == MAP_FAILED)
		fail("memory at a fixed address", 0);
	return got;
}

int main(int argc, char **argv)
{
	unsigned long count, done = 0, refused = 0;
	struct control control;
	int fd = -1, first;

	if (argc != 3) {
		fprintf(stderr, "usage: calls COUNT SEED\n");
		return 2;
	}
	count = strtoul(argv[1], NULL, 0);
	state = strtoul(argv[2], NULL, 0);
	map_at(ARENA, ARENA_BYTES, PROT_READ | PROT_WRITE);
	map_at(STRUCT, STRUCT_BYTES, PROT_READ | PROT_WRITE);
	map_at(READ_ONLY, 4096, PROT_READ);
	control = control_open();
	first = control.fd + 1;
	for (unsigned long call = 0; call < count; call++) {
		/* Most of them IOMMU_TEST_CMD's, some of requests that nobody knows. */
		uint64_t number = below(4) == 0 ? 0xa0 : below(8) == 0 ? 0x64 + below(16) : 0x80 + below(0x18);
		int rc;

		if (call % CALLS_PER_CONTEXT == 0) {
			if (call)
				close_range(first, ~0u, 0);
			control_check(&control, call);
			fd = open_iommu();
		}
		rc = ioctl(fd, REQUEST(number), argument());
		if (rc >= 0)
			done++;
		else if (rc == -1 && errno > 0 && errno < 4096)
			refused++;
		else
			fail("neither a number nor an errno", call);
	}
	close_range(first, ~0u, 0);
	control_check(&control, count);
	printf("%lu succeeded, %lu refused\n", done, refused);
	return 0;
}
