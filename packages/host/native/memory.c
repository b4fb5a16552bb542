/* Reading and writing the memory of a task that waits for an answer. */
#include "viommu.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096u
#define STRING_CHUNK 256u
/* Opening /proc/TID/mem costs as much as it saves in a few paths; most processes ask for no more than that. */
#define PATHS_BEFORE_OPEN 8
/* What is taken for the stack around its bottom: RLIMIT_STACK is 8 MiB where nobody changed it. */
#define STACK_BELOW (8u << 20)
#define STACK_ABOVE (1u << 16)
/* Places that are read in one call; the kernel takes four times as many (UIO_MAXIOV). */
#define PLACES_MAX 256

/* For where process_vm_readv() is refused (an older container's filter): the same bytes by /proc/PID/mem. */
static ssize_t by_mem_file(pid_t pid, uint64_t va, void *bytes, size_t length, bool write_it)
{
	char path[32];
	ssize_t done;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
	fd = open(path, (write_it ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (fd < 0)
		return -1;
	done = write_it ? pwrite(fd, bytes, length, (off_t)va) : pread(fd, bytes, length, (off_t)va);
	close(fd);
	return done;
}

/* How much of it could be read or written: up to a page that is not there, or nothing; -1 with errno. */
static ssize_t transfer(struct supervisor *s, pid_t pid, uint64_t va, void *bytes, size_t length, bool write_it)
{
	struct iovec local = { bytes, length }, remote = { (void *)(uintptr_t)va, length };
	ssize_t done;

	s->by_number = true;
	if (!s->vm_calls_refused) {
		done = write_it ? process_vm_writev(pid, &local, 1, &remote, 1, 0)
				: process_vm_readv(pid, &local, 1, &remote, 1, 0);
		if (done >= 0 || (errno != ENOSYS && errno != EPERM))
			return done;
		s->vm_calls_refused = errno == ENOSYS;
	}
	return by_mem_file(pid, va, bytes, length, write_it);
}

/*
 * The file /proc/TID/mem of the task that waits, where it may stand in for process_vm_readv() and _writev(): it takes
 * two thirds of their time, but it does not heed the protection of a page (FOLL_FORCE). So it serves only a page that
 * they have reached before, and only on the stack, where protections do not change. NULL otherwise, and the page is
 * remembered when the caller has reached it.
 */
static struct slot *known_page(struct supervisor *s, pid_t pid, uint64_t va, size_t length, bool write_it)
{
	struct slot *slot = &s->slots[(uint32_t)pid % SLOTS];
	uint64_t page = va / PAGE + 1;

	if (!s->slot_trusted || (uint32_t)pid != s->box->tid || slot->tid != (uint32_t)pid)
		return NULL;
	if ((va & (PAGE - 1)) + length > PAGE || (write_it ? slot->writable_page : slot->readable_page) != page)
		return NULL;
	if (slot->mem < 0)
		slot->mem = openat(slot->proc, "mem", O_RDWR | O_CLOEXEC);
	return slot->mem < 0 ? NULL : slot;
}

static void remember_page(struct supervisor *s, pid_t pid, uint64_t va, bool write_it)
{
	struct slot *slot = &s->slots[(uint32_t)pid % SLOTS];

	if (slot->tid != (uint32_t)pid)
		return;
	if (va > task_stack(slot) + STACK_ABOVE || va + STACK_BELOW < task_stack(slot))
		return;
	*(write_it ? &slot->writable_page : &slot->readable_page) = va / PAGE + 1;
}

/*
 * Takes along what an ioctl's argument points to and what lies around it in the same page: a struct is nearly always in
 * one page, and what it points to in turn often lies beside it on the stack. What is missing is asked for when it is
 * needed.
 */
void memory_prefetch(struct supervisor *s, uint64_t va)
{
	struct mailbox *box = s->box;
	uint64_t page = va & ~(uint64_t)(PAGE - 1), start, end;
	struct slot *slot;
	ssize_t got;

	start = va - page > PREFETCH_BEFORE ? va - PREFETCH_BEFORE : page;
	end = page + PAGE - start > PREFETCH_BYTES ? start + PREFETCH_BYTES : page + PAGE;
	slot = known_page(s, box->tid, start, end - start, false);
	got = slot ? pread(slot->mem, box->prefetch, end - start, (off_t)start) : -1;
	if (got != (ssize_t)(end - start)) {
		got = transfer(s, box->tid, start, box->prefetch, end - start, false);
		if (got == (ssize_t)(end - start))
			remember_page(s, box->tid, start, false);
	}
	box->prefetch_va = start;
	box->prefetched = got > 0 ? got : 0;
}

/* All of it, or -1. */
ssize_t memory_read(struct supervisor *s, pid_t pid, uint64_t va, void *into, size_t length)
{
	struct slot *slot = known_page(s, pid, va, length, false);

	if (slot && pread(slot->mem, into, length, (off_t)va) == (ssize_t)length)
		return length;
	return transfer(s, pid, va, into, length, false) == (ssize_t)length ? (ssize_t)length : -1;
}

ssize_t memory_write(struct supervisor *s, pid_t pid, uint64_t va, const void *from, size_t length)
{
	struct slot *slot = known_page(s, pid, va, length, true);

	if (slot && pwrite(slot->mem, from, length, (off_t)va) == (ssize_t)length)
		return length;
	if (transfer(s, pid, va, (void *)from, length, true) != (ssize_t)length)
		return -1;
	remember_page(s, pid, va, true);
	return length;
}

/* All of the places, one behind the other, or false; they are `length` bytes together. */
bool memory_gather(struct supervisor *s, pid_t pid, const struct place *places, size_t count, void *into, size_t length)
{
	struct iovec local = { into, length }, remote[PLACES_MAX];
	size_t left = length;

	if (s->vm_calls_refused || count > PLACES_MAX)
		return false;
	for (size_t i = 0; i < count; i++) {
		remote[i].iov_base = (void *)(uintptr_t)((uint64_t)places[i].va_hi << 32 | places[i].va_lo);
		remote[i].iov_len = places[i].length;
		if (remote[i].iov_len > left)
			return false;
		left -= remote[i].iov_len;
	}
	s->by_number = true;
	return left == 0 && process_vm_readv(pid, &local, 1, remote, count, 0) == (ssize_t)length;
}

/*
 * The memory of a task that has asked for several paths already. The protection of the page does not matter here: what
 * is nobody's is read once more by the kernel itself. Nor does it that the slot may be of a task that had this number
 * before: then its memory has gone and reads nothing.
 */
static int path_memory(struct supervisor *s, pid_t pid)
{
	struct slot *slot = &s->slots[(uint32_t)pid % SLOTS];

	if (slot->tid != (uint32_t)pid)
		return -1;
	if (slot->mem < 0 && ++slot->paths > PATHS_BEFORE_OPEN)
		slot->mem = openat(slot->proc, "mem", O_RDWR | O_CLOEXEC);
	return slot->mem;
}

/* A string with its final NUL; its length without, or -1 where it is not readable or longer than `size`. */
ssize_t memory_read_string(struct supervisor *s, pid_t pid, uint64_t va, char *into, size_t size)
{
	int mem = path_memory(s, pid);
	size_t have = 0;

	while (have < size) {
		size_t to_page_end = PAGE - ((va + have) & (PAGE - 1));
		size_t chunk = to_page_end < STRING_CHUNK ? to_page_end : STRING_CHUNK;
		const char *nul;
		ssize_t got;

		if (chunk > size - have)
			chunk = size - have;
		got = mem < 0 ? -1 : pread(mem, into + have, chunk, (off_t)(va + have));
		if (got <= 0)
			got = transfer(s, pid, va + have, into + have, chunk, false);
		if (got <= 0)
			return -1;
		nul = memchr(into + have, 0, got);
		if (nul)
			return nul - into;
		have += got;
	}
	return -1;
}
