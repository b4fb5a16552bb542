/*
 * Whether a path may be one that we answer for. Almost none is, so the question is settled here; the path that may
 * be ours is left in the mailbox, absolute and without '.', '..' and '//'.
 */
#include "viommu.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

/*
 * Whether the path in the mailbox, which starts from `dirfd` where it is relative, may be ours; then it is replaced
 * by its absolute form. A last component that is a symbolic link is followed where the call follows it.
 */
bool paths_candidate(struct supervisor *s, int dirfd, bool follow)
{
	struct mailbox *box = s->box;
	char path[PATH_BYTES];

	path[0] = 0;
	if (box->path[0] != '/' && !start_of(s, dirfd, path, sizeof(path)))
		return false;
	if (!append(path, sizeof(path), (char *)box->path) || !resolve_self(s, path, sizeof(path)))
		return false;
	for (int links = 0; !candidate(s, path); links++)
		if (!follow || links == LINKS_MAX || !path[0] || !follow_link(s, path, sizeof(path)))
			return false;
	box->path_length = strlen(path);
	memcpy(box->path, path, box->path_length + 1);
	return true;
}
