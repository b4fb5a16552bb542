// What the peers of the IOMMU benchmarks share: time, an order to go in, and the fastest of many rounds.
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static inline double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e9 + ts.tv_nsec;
}

// `count` pages from `first` on, in the order of bench/iommu.mjs.
static inline uint64_t *shuffled(long count, uint64_t first)
{
	uint64_t state = 88172645463325252u, *order = malloc(count * sizeof(*order));
	long i;

	for (i = 0; i < count; i++)
		order[i] = first + i * 4096;
	for (i = count - 1; i > 0; i--) {
		uint64_t swapped = order[i];
		long j;

		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		j = state % (i + 1);
		order[i] = order[j];
		order[j] = swapped;
	}
	return order;
}

// Nanoseconds per step of the fastest of `rounds` rounds; `step` is done for `i` from 0 to `count` - 1.
#define FASTEST(rounds, count, step)                                      \
	({                                                                \
		double best = 1e18;                                       \
		for (long round = 0; round < (rounds); round++) {         \
			double spent = now();                             \
			for (long i = 0; i < (count); i++)                \
				step;                                     \
			spent = (now() - spent) / (count);                \
			if (spent < best)                                 \
				best = spent;                             \
		}                                                         \
		best;                                                     \
	})
