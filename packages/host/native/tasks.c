/*
 * What /proc tells of tasks, kept open. An open file of /proc belongs to its task and not to the number: it answers
 * ENOENT or ESRCH when the task is gone, also when the number is in use again.
 */
#include "viommu.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void slot_forget_memory(struct slot *slot)
{
	if (slot->mem >= 0)
		close(slot->mem);
	slot->mem = -1;
	slot->paths = 0;
	slot->stack = slot->readable_page = slot->writable_page = 0;
}

static void slot_clear(struct slot *slot)
{
	if (slot->tid) {
		slot_forget_memory(slot);
		close(slot->fds);
		close(slot->proc);
	}
	slot->tid = 0;
}

/* A directory of /proc that outlives its task answers ENOENT to everything, also when the number is in use again. */
static bool slot_alive(const struct slot *slot)
{
	return faccessat(slot->proc, "stat", F_OK, 0) == 0;
}

static bool slot_open(struct supervisor *s, struct slot *slot, uint32_t tid)
{
	char path[32];

	slot_clear(slot);
	snprintf(path, sizeof(path), "/proc/%u", tid);
	slot->proc = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (slot->proc < 0)
		return false;
	slot->fds = openat(slot->proc, "fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (slot->fds < 0) {
		close(slot->proc);
		return false;
	}
	slot->tid = tid;
	slot->tgid = 0;
	slot->mem = -1;
	slot->paths = 0;
	slot->stack = slot->readable_page = slot->writable_page = 0;
	slot->generation = ++s->generation;
	return true;
}

/* The open directories of a task, or NULL where they cannot be opened (it died, or it is not ours to look at). */
struct slot *task_slot(struct supervisor *s, uint32_t tid)
{
	struct slot *slot = &s->slots[tid % SLOTS];

	if (slot->tid == tid || slot_open(s, slot, tid))
		return slot;
	return NULL;
}

/* The same directories, known to belong to the task that has the number now. */
struct slot *task_fresh_slot(struct supervisor *s, uint32_t tid)
{
	struct slot *slot = &s->slots[tid % SLOTS];

	if (slot->tid == tid && slot_alive(slot))
		return slot;
	return slot_open(s, slot, tid) ? slot : NULL;
}

static char *decimal(char *end, unsigned value)
{
	*--end = 0;
	do
		*--end = '0' + value % 10;
	while (value /= 10);
	return end;
}

static enum whose whose_device(const struct supervisor *s, const struct stat *st)
{
	if (st->st_dev == s->placeholder_dev)
		return WHOSE_PLACEHOLDER;
	return st->st_dev == s->pipe_dev ? WHOSE_PIPE : WHOSE_FOREIGN;
}

/* By the link in /proc/TID/fd. -1 where the descriptor is closed. */
static int identify_by_link(struct supervisor *s, uint32_t tid, int fd, double *inode)
{
	char name[16];
	const char *number = decimal(name + sizeof(name), fd);
	struct slot *slot = task_slot(s, tid);
	struct stat st;

	if (fd < 0 || !slot)
		return -1;
	if (fstatat(slot->fds, number, &st, 0)) {
		/* Closed, or the directory is of a task that had this number before. */
		uint32_t before = slot->generation;

		slot = task_fresh_slot(s, tid);
		if (!slot || slot->generation == before || fstatat(slot->fds, number, &st, 0))
			return -1;
	}
	*inode = (double)st.st_ino;
	return whose_device(s, &st);
}

static long number_after(const char *text, const char *key)
{
	const char *at = strstr(text, key);

	return at ? strtol(at + strlen(key), NULL, 10) : -1;
}

/* Reads an open file of /proc/PID/fdinfo: how many bytes, and a NUL; 0 or less where the descriptor is closed. */
static ssize_t read_info(int info, char text[INFO_BYTES])
{
	ssize_t got = pread(info, text, INFO_BYTES - 1, 0);

	if (got > 0)
		text[got] = 0;
	return got;
}

/* The bottom of the stack that execve() made: field 28 of /proc/TID/stat. */
uint64_t task_stack(struct slot *slot)
{
	char text[1024], *at;
	ssize_t got;
	int fd;

	if (slot->stack)
		return slot->stack;
	fd = openat(slot->proc, "stat", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	got = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[got < 0 ? 0 : got] = 0;
	at = strrchr(text, ')'); /* the end of field 2, which may hold anything */
	for (int field = 2; at && field < 28; field++)
		at = strchr(at + 1, ' ');
	slot->stack = at ? strtoull(at, NULL, 10) : 0;
	return slot->stack;
}

/* The mount that one of our own descriptors is on, as /proc tells it. -1 where it does not tell (ino: Linux 5.14). */
long task_mount_of(int fd)
{
	char path[40], text[INFO_BYTES];
	long mount = -1;
	int info;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = open(path, O_RDONLY | O_CLOEXEC);
	if (info < 0)
		return -1;
	if (read_info(info, text) > 0 && number_after(text, "\nino:") >= 0)
		mount = number_after(text, "\nmnt_id:");
	close(info);
	return mount;
}

static void view_clear(struct view *view)
{
	if (view->tid && view->info >= 0)
		close(view->info);
	view->tid = 0;
	view->info = -1;
	view->length = 0;
}

static bool identify_by_view(struct supervisor *s, struct view *view, enum whose *whose, double *inode)
{
	char text[INFO_BYTES];
	ssize_t length = read_info(view->info, text);

	if (length <= 0)
		return false;
	if (length != view->length || memcmp(text, view->text, length)) {
		long mount = number_after(text, "\nmnt_id:");

		memcpy(view->text, text, length);
		view->length = length;
		view->whose = mount == s->placeholder_mount ? WHOSE_PLACEHOLDER
			      : mount == s->pipe_mount	    ? WHOSE_PIPE
							    : WHOSE_FOREIGN;
		view->inode = (double)number_after(text, "\nino:");
	}
	*whose = view->whose;
	*inode = view->inode;
	return true;
}

/*
 * Whose file descriptor `fd` of a task is, by its inode, asked anew each time: a number means nothing from one call to
 * the next. A descriptor that is used again gets its file of /proc/TID/fdinfo kept open, which is read in less than
 * half the time that the link in /proc/TID/fd takes to follow.
 */
enum whose task_identify(struct supervisor *s, uint32_t tid, int fd, double *inode)
{
	struct view *view = &s->views[(tid * 31u + (uint32_t)fd) % VIEWS];
	enum whose whose;
	char name[32];
	int found;

	if (view->tid == tid && view->fd == fd && view->info >= 0) {
		if (identify_by_view(s, view, &whose, inode))
			return whose;
		view_clear(view);
	}
	found = identify_by_link(s, tid, fd, inode);
	if (found < 0 || s->placeholder_mount < 0)
		return found < 0 ? WHOSE_FOREIGN : found;
	if (view->tid != tid || view->fd != fd) {
		view_clear(view);
		view->tid = tid;
		view->fd = fd;
	} else {
		snprintf(name, sizeof(name), "fdinfo/%d", fd);
		view->info = openat(s->slots[tid % SLOTS].proc, name, O_RDONLY | O_CLOEXEC);
	}
	return found;
}

/* After an execve() the same task has another address space. */
void task_forget_memory(struct supervisor *s)
{
	for (int i = 0; i < SLOTS; i++)
		if (s->slots[i].tid)
			slot_forget_memory(&s->slots[i]);
}

void task_forget_all(struct supervisor *s)
{
	for (int i = 0; i < SLOTS; i++)
		slot_clear(&s->slots[i]);
	for (int i = 0; i < VIEWS; i++)
		view_clear(&s->views[i]);
}
