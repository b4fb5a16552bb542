// What a device's DMA is measured with: memory of another process, read by process_vm_readv(2), or by pread(2) where the
// memory is a file that is shared.
//
//   vm-readv hold private|shared BYTES
//                             has that much memory, prints its pid, its address, and its file's path or -, and waits for
//                             the end of stdin
//   vm-readv time PID ADDRESS PATH|- SPAN STRIDE
//                             for each line of stdin, a number of bytes, prints the nanoseconds of a read of so many, at
//                             places that go through SPAN, from ADDRESS in the process's memory or in the file on; page
//                             after page, or STRIDE pages of memory further with each, to its start again at its end
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "measure.h"

static int hold(bool shared, size_t bytes)
{
	int fd = shared ? memfd_create("ram", 0) : -1;
	int flags = shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
	void *memory;
	char end;

	if (shared && ftruncate(fd, bytes))
		return 1;
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (memory == MAP_FAILED)
		return 1;
	memset(memory, 1, bytes);
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	printf("%d %" PRIuPTR " ", getpid(), (uintptr_t)memory);
	if (shared)
		printf("/proc/%d/fd/%d\n", getpid(), fd);
	else
		printf("-\n");
	fflush(stdout);
	return read(0, &end, 1) < 0;
}

#define PAGE 4096

struct source {
	pid_t pid;
	int fd; // -1: the memory of `pid`
	uintptr_t address;
	size_t span, stride;
};

static ssize_t read_at(const struct source *from, void *into, size_t bytes, size_t at)
{
	struct iovec local = { into, bytes }, remote[256] = { { (void *)(from->address + at), bytes } };
	size_t places = 1;

	if (from->fd >= 0)
		return pread(from->fd, into, bytes, (off_t)(from->address + at));
	for (size_t i = 0; from->stride != 1 && i < bytes / PAGE; i++, places = i)
		remote[i] = (struct iovec){ (void *)(from->address + (at + i * PAGE) * from->stride % from->span), PAGE };
	return process_vm_readv(from->pid, &local, 1, remote, places, 0);
}

int main(int argc, char **argv)
{
	struct source from;
	char line[32];

	if (argc == 4)
		return hold(!strcmp(argv[2], "shared"), strtoull(argv[3], NULL, 10));
	if (argc != 7)
		return 2;
	from.pid = atoi(argv[2]);
	from.address = strtoull(argv[3], NULL, 10);
	from.fd = strcmp(argv[4], "-") ? open(argv[4], O_RDONLY) : -1;
	from.span = strtoull(argv[5], NULL, 10);
	from.stride = strtoull(argv[6], NULL, 10);
	while (fgets(line, sizeof(line), stdin)) {
		size_t bytes = strtoull(line, NULL, 10);
		char *into = aligned_alloc(PAGE, bytes);
		long failures = 0;

		// The first round warms up and the second one is the faster.
		printf("%.1f\n", FASTEST(2, (long)(from.span / bytes), ({
			failures += read_at(&from, into, bytes, i * bytes) != (ssize_t)bytes;
		})));
		fflush(stdout);
		free(into);
		if (failures)
			return 1;
	}
	return 0;
}
