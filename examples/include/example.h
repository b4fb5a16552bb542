/* How the examples speak. */
#ifndef EXAMPLES_EXAMPLE_H
#define EXAMPLES_EXAMPLE_H

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "iommufd.h"

/* A line of the program, marked and at once, so that it stands in its place among the lines of the trace. */
__attribute__((format(printf, 1, 2))) static inline void say(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	fputs("==> ", stdout);
	vprintf(format, list);
	va_end(list);
	putchar('\n');
	fflush(stdout);
}

static inline void stop(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static inline int open_iommu(void)
{
	int iommu = open("/dev/iommu", O_RDWR | O_CLOEXEC);

	if (iommu < 0)
		stop("/dev/iommu");
	return iommu;
}

/* A request that must succeed. */
static inline void request(int iommu, unsigned long number, void *argument, const char *what)
{
	if (ioctl(iommu, number, argument))
		stop(what);
}

/* A request that must be refused, with that errno. */
static inline void refused(int iommu, unsigned long number, void *argument, int expected, const char *what)
{
	int rc = ioctl(iommu, number, argument);

	if (rc == 0 || errno != expected) {
		fprintf(stderr, "%s: %s, not %s\n", what, rc == 0 ? "success" : strerror(errno), strerror(expected));
		exit(1);
	}
	say("%s: %s", what, strerror(expected));
}

static inline uint32_t ioas_alloc(int iommu)
{
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };

	request(iommu, IOMMU_IOAS_ALLOC, &cmd, "IOMMU_IOAS_ALLOC");
	return cmd.out_ioas_id;
}

/* Maps `buffer` at `iova`, for a device to read and write. */
static inline void ioas_map(int iommu, uint32_t ioas, void *buffer, uint64_t length, uint64_t iova)
{
	struct iommu_ioas_map cmd = {
		.size = sizeof(cmd),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE,
		.ioas_id = ioas,
		.user_va = (uintptr_t)buffer,
		.length = length,
		.iova = iova,
	};

	request(iommu, IOMMU_IOAS_MAP, &cmd, "IOMMU_IOAS_MAP");
}

static inline void *allocate(size_t length)
{
	void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		stop("mmap");
	return memory;
}

/* A device behind the mock IOMMU, attached to `ioas`. */
static inline struct iommu_test_cmd mock_device(int iommu, uint32_t ioas)
{
	struct iommu_test_cmd cmd = { .size = sizeof(cmd), .op = IOMMU_TEST_OP_MOCK_DOMAIN, .id = ioas };

	request(iommu, IOMMU_TEST_CMD, &cmd, "IOMMU_TEST_OP_MOCK_DOMAIN");
	return cmd;
}

#endif
