/*
 * Times IOMMU_IOAS_ALLOC + IOMMU_DESTROY.
 *
 * usage: ioctl-loop PATH PAIRS [ROUNDS]   prints nanoseconds per ioctl: the median of ROUNDS, and the best
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

struct ioas_alloc {
	uint32_t size, flags, out_ioas_id;
};
struct destroy {
	uint32_t size, id;
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
	int fd = open(argc > 1 ? argv[1] : "/dev/iommu", O_RDWR);
	int pairs = argc > 2 ? atoi(argv[2]) : 20000;
	int rounds = argc > 3 ? atoi(argv[3]) : 1;
	double *times = calloc(rounds, sizeof(double));

	if (fd < 0) {
		perror("open");
		return 1;
	}
	for (int round = 0; round < rounds; round++) {
		double start = now();

		for (int i = 0; i < pairs; i++) {
			struct ioas_alloc alloc = { sizeof(alloc), 0, 0 };
			struct destroy destroy = { sizeof(destroy), 0 };

			if (ioctl(fd, 0x3b81, &alloc)) {
				perror("IOMMU_IOAS_ALLOC");
				return 1;
			}
			destroy.id = alloc.out_ioas_id;
			if (ioctl(fd, 0x3b80, &destroy)) {
				perror("IOMMU_DESTROY");
				return 1;
			}
		}
		times[round] = (now() - start) / (2.0 * pairs);
	}
	qsort(times, rounds, sizeof(double), ascending);
	printf("%.0f %.0f\n", times[rounds / 2], times[0]);
	return 0;
}
