// What a device's DMA is measured with: memory of another process, read by process_vm_readv(2).
//
//   vm-readv hold BYTES       has that much private memory, prints its pid and address, and waits for the end of stdin
//   vm-readv read PID ADDRESS BYTES SPAN ROUNDS
//                             prints the nanoseconds of a read of BYTES, at places that go through SPAN
#define _GNU_SOURCE
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "measure.h"

static int hold(size_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char end;

	if (memory == MAP_FAILED)
		return 1;
	memset(memory, 1, bytes);
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	printf("%d %" PRIuPTR "\n", getpid(), (uintptr_t)memory);
	fflush(stdout);
	return read(0, &end, 1) < 0;
}

int main(int argc, char **argv)
{
	size_t bytes, span;
	uintptr_t address;
	char *into;
	pid_t pid;
	long failures = 0;

	if (argc == 3)
		return hold(strtoull(argv[2], NULL, 10));
	if (argc != 7)
		return 2;
	pid = atoi(argv[2]);
	address = strtoull(argv[3], NULL, 10);
	bytes = strtoull(argv[4], NULL, 10);
	span = strtoull(argv[5], NULL, 10);
	into = malloc(bytes);
	printf("%.1f\n", FASTEST(atol(argv[6]), (long)(span / bytes), ({
		struct iovec local = { into, bytes }, remote = { (void *)(address + i * bytes), bytes };
		failures += process_vm_readv(pid, &local, 1, &remote, 1, 0) != (ssize_t)bytes;
	})));
	return failures != 0;
}
