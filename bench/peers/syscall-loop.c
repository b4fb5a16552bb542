/*
 * Times system calls that have nothing to do with viommu.
 *
 * usage: syscall-loop NAME CALLS [ROUNDS]   prints nanoseconds per call: the median of ROUNDS, and the best
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int zero, null;
static char buffer[64];

static void call_getppid(void)
{
	syscall(__NR_getppid);
}

static void call_read(void)
{
	if (read(zero, buffer, sizeof(buffer)) < 0)
		exit(1);
}

static void call_write(void)
{
	if (write(null, buffer, sizeof(buffer)) < 0)
		exit(1);
}

static void call_ioctl(void)
{
	int bytes;

	ioctl(zero, FIONREAD, &bytes);
}

static void call_fstat(void)
{
	struct stat st;

	fstat(zero, &st);
}

static void call_stat(void)
{
	struct stat st;

	stat("/etc/passwd", &st);
}

static void call_open(void)
{
	close(open("/etc/passwd", O_RDONLY));
}

static const struct {
	const char *name;
	void (*call)(void);
} calls[] = {
	{ "getppid", call_getppid }, { "read", call_read }, { "write", call_write }, { "ioctl", call_ioctl },
	{ "fstat", call_fstat },     { "stat", call_stat }, { "open", call_open },
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
	int times = argc > 2 ? atoi(argv[2]) : 1000, rounds = argc > 3 ? atoi(argv[3]) : 1;
	double *round_times = calloc(rounds, sizeof(double));
	void (*call)(void) = NULL;

	zero = open("/dev/zero", O_RDONLY);
	null = open("/dev/null", O_WRONLY);
	for (size_t i = 0; argc > 1 && i < sizeof(calls) / sizeof(calls[0]); i++)
		if (!strcmp(argv[1], calls[i].name))
			call = calls[i].call;
	if (!call)
		return 64;
	for (int round = 0; round < rounds; round++) {
		double start = now();

		for (int i = 0; i < times; i++)
			call();
		round_times[round] = (now() - start) / times;
	}
	qsort(round_times, rounds, sizeof(double), ascending);
	printf("%.0f %.0f\n", round_times[rounds / 2], round_times[0]);
	return 0;
}
