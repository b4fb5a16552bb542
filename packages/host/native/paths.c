/*
 * Whether a path may be one that we answer for. Almost none is, so the question is settled here; the path that may
 * be ours is left in the mailbox, absolute and without '.', '..' and '//'.
 */
#include "viommu.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef __NR_openat2
#define __NR_openat2 437
#endif
#define LINKS_MAX 8 /* Linux follows 40; a chain to /dev/iommu that long is no one's */

/* `*` stands for any run of characters, slashes included. */
static bool matches(const char *pattern, const char *path)
{
	const char *star = NULL, *resume = NULL;

	while (*path) {
		if (*pattern == '*') {
			star = pattern++;
			resume = path;
		} else if (*pattern == *path) {
			pattern++;
			path++;
		} else if (star) {
			pattern = star + 1;
			path = ++resume;
		} else {
			return false;
		}
	}
	while (*pattern == '*')
		pattern++;
	return !*pattern;
}

static bool candidate(const struct supervisor *s, const char *path)
{
	for (int i = 0; i < s->pattern_count; i++)
		if (matches(s->patterns[i], path))
			return true;
	return false;
}

/* Appends the components of `more` to the normalised absolute `path`. False where it grows too long. */
static bool append(char *path, size_t size, const char *more)
{
	size_t length = strlen(path);

	while (*more) {
		size_t part;

		while (*more == '/')
			more++;
		part = strcspn(more, "/");
		if (part == 0 || (part == 1 && more[0] == '.')) {
			more += part;
			continue;
		}
		if (part == 2 && more[0] == '.' && more[1] == '.') {
			while (length > 0 && path[--length] != '/')
				;
			path[length] = 0;
			more += part;
			continue;
		}
		if (length + 1 + part + 1 > size)
			return false;
		path[length++] = '/';
		memcpy(path + length, more, part);
		length += part;
		path[length] = 0;
		more += part;
	}
	return true;
}

static uint32_t thread_group(struct slot *slot)
{
	char text[512];
	const char *line;
	ssize_t got;
	int fd;

	if (slot->tgid)
		return slot->tgid;
	fd = openat(slot->proc, "status", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return slot->tid;
	got = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[got < 0 ? 0 : got] = 0;
	line = strstr(text, "\nTgid:");
	slot->tgid = line ? strtoul(line + 6, NULL, 10) : slot->tid;
	return slot->tgid;
}

/* `prefix` at the start of `path`, ended by a slash or by the path's end: what follows it, else NULL. */
static const char *after(const char *path, const char *prefix)
{
	size_t length = strlen(prefix);

	return !strncmp(path, prefix, length) && (path[length] == '/' || !path[length]) ? path + length : NULL;
}

/* The links of /proc and /dev that mean the caller: for us they would mean ourselves. */
static bool resolve_self(struct supervisor *s, char *path, size_t size)
{
	char resolved[PATH_BYTES];
	const char *rest, *thread = NULL, *place = "";
	struct slot *slot;
	int length;

	if (path[1] == 'p' && (rest = after(path, "/proc/self")))
		;
	else if (path[1] == 'p' && (rest = after(path, "/proc/thread-self")))
		thread = "/task/";
	else if (path[1] == 'd' && (rest = after(path, "/dev/fd")))
		place = "/fd";
	else
		return true;
	slot = task_fresh_slot(s, s->box->tid);
	if (!slot)
		return false;
	if (thread)
		length = snprintf(resolved, sizeof(resolved), "/proc/%u/task/%u%s", thread_group(slot), slot->tid, rest);
	else
		length = snprintf(resolved, sizeof(resolved), "/proc/%u%s%s", thread_group(slot), place, rest);
	if (length < 0 || (size_t)length >= size)
		return false;
	memcpy(path, resolved, length + 1);
	return true;
}

/* The path under which a directory of ours stands for one that may not exist, else NULL. */
static const char *own_directory(const struct supervisor *s, const struct slot *slot, const char *link)
{
	struct stat st;

	if (fstatat(slot->proc, link, &st, 0) || st.st_dev != s->placeholder_dev)
		return NULL;
	for (int i = 0; i < s->directory_count; i++)
		if (s->directories[i].inode == st.st_ino)
			return s->directories[i].path;
	return NULL;
}

/* The directory that a relative path starts from, as an absolute path. */
static bool start_of(struct supervisor *s, int dirfd, char *path, size_t size)
{
	struct slot *slot = task_fresh_slot(s, s->box->tid);
	const char *own;
	char link[32];
	ssize_t got;

	if (!slot)
		return false;
	if (dirfd == AT_FDCWD)
		strcpy(link, "cwd");
	else
		snprintf(link, sizeof(link), "fd/%d", dirfd);
	own = s->directory_count ? own_directory(s, slot, link) : NULL;
	if (own)
		return append(path, size, own);
	got = readlinkat(slot->proc, link, path, size - 1);
	if (got <= 0 || path[0] != '/')
		return false;
	path[got == 1 ? 0 : got] = 0; /* the root is empty, as append() wants it */
	return true;
}

/*
 * Replaces `path` by what the symbolic link there says; false where there is none. Looked up in our own view of the
 * file system: a program that changed its root and links to us from there is not followed.
 */
static bool follow_link(struct supervisor *s, char *path, size_t size)
{
	char target[PATH_BYTES];
	ssize_t got = readlinkat(AT_FDCWD, path, target, sizeof(target) - 1);

	if (got <= 0)
		return false;
	target[got] = 0;
	*(target[0] == '/' ? path : strrchr(path, '/')) = 0;
	return append(path, size, target) && resolve_self(s, path, size);
}

/* `path` up to `rest`, which starts with a slash or is empty, becomes `start`. False where it grows too long. */
static bool replace_start(char *path, size_t size, const char *start, const char *rest)
{
	char whole[PATH_BYTES];
	int length = snprintf(whole, sizeof(whole), "%s%s", strcmp(start, "/") ? start : "", rest);

	if (length < 0 || (size_t)length >= sizeof(whole) || (size_t)length >= size)
		return false;
	memcpy(path, whole, length + 1);
	return true;
}

/* The directory at `path` under the name that has no links in it, where that is another one. */
static bool canonical(const char *path, char *name, size_t size)
{
	char link[32];
	ssize_t got;
	int fd = open(path, O_PATH | O_CLOEXEC);

	if (fd < 0)
		return false;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	got = readlink(link, name, size - 1);
	close(fd);
	if (got <= 0 || name[0] != '/')
		return false;
	name[got] = 0;
	return strcmp(name, path) != 0;
}

/*
 * For a path at which the system has nothing: one step towards the path that has no link among its directories. A link
 * may lead to what only we have, so the directories are looked at from the last one that there is.
 */
static bool follow_parents(struct supervisor *s, char *path, size_t size)
{
	char target[PATH_BYTES], rest[PATH_BYTES];
	char *end = path + strlen(path);

	while ((end = memrchr(path, '/', end - path)) && end > path) {
		ssize_t got;
		bool resolved;

		strcpy(rest, end);
		*end = 0;
		got = readlinkat(AT_FDCWD, path, target, sizeof(target) - 1);
		if (got > 0) {
			target[got] = 0;
			*(target[0] == '/' ? path : strrchr(path, '/')) = 0;
			return append(path, size, target) && append(path, size, rest) && resolve_self(s, path, size);
		}
		resolved = errno == EINVAL && canonical(path, target, sizeof(target));
		if (resolved)
			return replace_start(path, size, target, rest) && resolve_self(s, path, size);
		if (errno != ENOENT)
			return false;
		*end = rest[0];
		strcpy(end, rest);
	}
	return false;
}

/* Whether a link is met on the way to what is missing at `path`: in one call, as this is asked often. */
static bool has_links(const char *path)
{
	struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS };
	int fd = syscall(__NR_openat2, AT_FDCWD, path, &how, sizeof(how));

	if (fd >= 0)
		close(fd); /* it has just been made */
	return fd < 0 && errno == ELOOP;
}

/* One step of following links; false where there is no link. */
static bool step(struct supervisor *s, char *path, size_t size, bool follow)
{
	char none[1];

	if (!path[0])
		return false;
	if (follow && follow_link(s, path, size))
		return true;
	if (!follow && readlinkat(AT_FDCWD, path, none, sizeof(none)) >= 0)
		return false;
	return errno == ENOENT && has_links(path) && follow_parents(s, path, size);
}

static bool climbs(const char *path)
{
	for (const char *at = path; (at = strstr(at, "..")); at += 2)
		if ((at == path || at[-1] == '/') && (at[2] == '/' || !at[2]))
			return true;
	return false;
}

/*
 * Whether the path in the mailbox, which starts from `dirfd` where it is relative, may be ours; then it is replaced
 * by its absolute form. A last component that is a symbolic link is followed where the call follows it. Of `resolve`
 * (openat2()'s) what the path does not keep to is left to the kernel, which says why.
 */
bool paths_candidate(struct supervisor *s, int dirfd, bool follow, uint64_t resolve)
{
	struct mailbox *box = s->box;
	const bool scoped = resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT);
	char path[PATH_BYTES];

	if (resolve & RESOLVE_NO_XDEV || (scoped && climbs((char *)box->path)))
		return false;
	if (resolve & RESOLVE_BENEATH && box->path[0] == '/')
		return false;
	path[0] = 0;
	if ((box->path[0] != '/' || resolve & RESOLVE_IN_ROOT) && !start_of(s, dirfd, path, sizeof(path)))
		return false;
	if (!append(path, sizeof(path), (char *)box->path) || !resolve_self(s, path, sizeof(path)))
		return false;
	for (int links = 0; !candidate(s, path); links++)
		if (links == LINKS_MAX || !step(s, path, sizeof(path), follow) || scoped || resolve & RESOLVE_NO_SYMLINKS)
			return false;
	if (resolve & (RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS) && !strncmp(path, "/proc/", 6))
		return false;
	box->path_length = strlen(path);
	memcpy(box->path, path, box->path_length + 1);
	return true;
}
