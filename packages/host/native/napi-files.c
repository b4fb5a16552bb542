/* Descriptors: what stands behind the files that the program sees, and what it has open itself. */
#include "viommu.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef __NR_pidfd_open
#define __NR_pidfd_open 434
#endif
#ifndef __NR_pidfd_getfd
#define __NR_pidfd_getfd 438
#endif
#ifndef __NR_pidfd_send_signal
#define __NR_pidfd_send_signal 424
#endif
#ifndef O_TMPFILE
#define O_TMPFILE (020000000 | O_DIRECTORY)
#endif
#define KCMP_VM 1

static int reopen(int fd, int flags)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_CLOEXEC);
}

static int watch_close(struct supervisor *s, int fd, uint32_t mask)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return inotify_add_watch(s->inotify, path, mask | IN_ONESHOT);
}

/*
 * A file without a name, whose last close is told by inotify. Opened with `flags` (an access mode, O_NONBLOCK): only
 * closes of that mode count, so that somebody who looks at the file read-only from elsewhere does not end it.
 */
static int placeholder(struct supervisor *s, int flags, struct stat *st, int *wd)
{
	int mode = flags & O_ACCMODE, fd, error;
	int first = open(s->placeholder_dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (first < 0)
		return -1;
	/* Once more, since F_GETFL would tell of O_TMPFILE, and O_DIRECTORY is in it. */
	fd = reopen(first, flags & (O_ACCMODE | O_NONBLOCK));
	close(first);
	if (fd < 0)
		return -1;
	if (fstat(fd, st) == 0) {
		*wd = watch_close(s, fd, mode == O_RDONLY ? IN_CLOSE_NOWRITE : IN_CLOSE_WRITE);
		if (*wd >= 0)
			return fd;
	}
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

/* useDirectory(path): 0 where files without names can be made there and tell when they are closed; else -errno. */
static napi_value use_directory(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	struct pollfd told = { s->inotify, POLLIN, 0 };
	napi_value argv[1];
	struct stat st;
	char buffer[256];
	char *path;
	int fd, wd;

	glue_args(env, info, argv, 1);
	path = glue_string(env, argv[0]);
	if (!path)
		return glue_number(env, -EINVAL);
	snprintf(s->placeholder_dir, sizeof(s->placeholder_dir), "%s", path);
	free(path);
	fd = placeholder(s, O_RDWR, &st, &wd);
	if (fd < 0)
		return glue_result(env, -1);
	s->placeholder_dev = st.st_dev;
	s->placeholder_mount = task_mount_of(fd);
	close(fd);
	if (poll(&told, 1, 0) != 1 || read(s->inotify, buffer, sizeof(buffer)) <= 0)
		return glue_number(env, -EOPNOTSUPP);
	return glue_number(env, 0);
}

/* placeholder(flags): descriptor, with out[0] = inode, out[1] = watch. */
static napi_value make_placeholder(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	napi_value argv[1];
	struct stat st;
	int fd, wd = -1;

	glue_args(env, info, argv, 1);
	fd = placeholder(s, (int)glue_int(env, argv[0]), &st, &wd);
	if (fd >= 0) {
		s->box->out[0] = (double)st.st_ino;
		s->box->out[1] = wd;
	}
	return glue_result(env, fd);
}

/* openOf(tid, fd, flags): the file behind a descriptor of a task, opened by us once more. */
static napi_value open_of(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	struct slot *slot;
	napi_value argv[3];
	char name[16];

	glue_args(env, info, argv, 3);
	slot = task_fresh_slot(s, (uint32_t)glue_int(env, argv[0]));
	if (!slot)
		return glue_number(env, -ESRCH);
	snprintf(name, sizeof(name), "%d", (int)glue_int(env, argv[1]));
	return glue_result(env, openat(slot->fds, name, (int)glue_int(env, argv[2]) | O_CLOEXEC));
}

/*
 * directory(path): an empty directory that nobody can name, to stand for `path` where that does not exist. Paths that
 * start from a descriptor of it are taken to start from `path`.
 */
static napi_value make_directory(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	char name[300];
	napi_value argv[1];
	struct stat st;
	char *path;
	int fd;

	glue_args(env, info, argv, 1);
	if (s->directory_count == DIRECTORIES_MAX)
		return glue_number(env, -ENFILE);
	snprintf(name, sizeof(name), "%s/viommu-XXXXXX", s->placeholder_dir);
	if (!mkdtemp(name))
		return glue_result(env, -1);
	fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	rmdir(name);
	if (fd < 0)
		return glue_result(env, fd);
	path = glue_string(env, argv[0]);
	fstat(fd, &st);
	snprintf(s->directories[s->directory_count].path, sizeof(s->directories[0].path), "%s", path ? path : "");
	s->directories[s->directory_count++].inode = st.st_ino;
	free(path);
	return glue_number(env, fd);
}

/* reopen(fd, flags): the same file, opened again. */
static napi_value reopen_fd(napi_env env, napi_callback_info info)
{
	napi_value argv[2];

	glue_args(env, info, argv, 2);
	return glue_result(env, reopen((int)glue_int(env, argv[0]), (int)glue_int(env, argv[1])));
}

/*
 * pipe(flags): the program's end, opened with `flags` (an access mode, O_NONBLOCK); with out[0] = inode, out[1] = our end. One byte in it makes
 * the program's end readable for poll(2); our end gets EPOLLERR when the program's last copy is closed.
 */
static napi_value make_pipe(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	napi_value argv[1];
	int ends[2], theirs;
	struct stat st;

	glue_args(env, info, argv, 1);
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK))
		return glue_result(env, -1);
	theirs = reopen(ends[1], (int)glue_int(env, argv[0]) & (O_ACCMODE | O_NONBLOCK));
	close(ends[0]);
	if (theirs < 0 || fstat(theirs, &st)) {
		close(ends[1]);
		return glue_result(env, -1);
	}
	s->box->out[0] = (double)st.st_ino;
	s->box->out[1] = ends[1];
	return glue_number(env, theirs);
}

/* takeByte(ourEnd): takes back the byte that made the program's end readable. */
static napi_value take_byte(napi_env env, napi_callback_info info)
{
	napi_value argv[1];
	char byte;
	ssize_t got;
	int fd;

	glue_args(env, info, argv, 1);
	fd = reopen((int)glue_int(env, argv[0]), O_RDONLY | O_NONBLOCK);
	if (fd < 0)
		return glue_result(env, -1);
	got = read(fd, &byte, 1);
	close(fd);
	return glue_result(env, got);
}

/* putByte(ourEnd) */
static napi_value put_byte(napi_env env, napi_callback_info info)
{
	napi_value argv[1];

	glue_args(env, info, argv, 1);
	return glue_result(env, write((int)glue_int(env, argv[0]), "", 1));
}

/* signalEventfd(fd): adds one to its count, unless that would wait. 0, or -errno. */
static napi_value signal_eventfd(napi_env env, napi_callback_info info)
{
	struct pollfd ready = { -1, POLLOUT, 0 };
	uint64_t one = 1;
	napi_value argv[1];

	glue_args(env, info, argv, 1);
	ready.fd = (int)glue_int(env, argv[0]);
	/* A count that cannot grow has told all that there is to tell. */
	if (poll(&ready, 1, 0) != 1 || !(ready.revents & POLLOUT))
		return glue_number(env, 0);
	return glue_result(env, write(ready.fd, &one, sizeof(one)) < 0 ? -1 : 0);
}

/* takeEventfd(fd): 1 where it had a count, which is 0 now; else 0. Does not wait, whatever its flags say. */
static napi_value take_eventfd(napi_env env, napi_callback_info info)
{
	uint64_t count;
	struct iovec into = { &count, sizeof(count) };
	napi_value argv[1];

	glue_args(env, info, argv, 1);
	return glue_number(env, preadv2((int)glue_int(env, argv[0]), &into, 1, -1, RWF_NOWAIT) == sizeof(count));
}

/* unwatch(fd): no more events of it. */
static napi_value unwatch(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	napi_value argv[1];

	glue_args(env, info, argv, 1);
	return glue_result(env, epoll_ctl(s->epoll, EPOLL_CTL_DEL, (int)glue_int(env, argv[0]), NULL));
}

/* watch(fd, kind, token): an event of that kind when fd is readable (an exit) or hangs up (a pipe). */
static napi_value watch(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	struct epoll_event event = { 0 };
	napi_value argv[3];

	glue_args(env, info, argv, 3);
	event.events = glue_int(env, argv[1]) == EVENT_HANG_UP ? 0 : EPOLLIN;
	event.data.u64 = (uint64_t)glue_int(env, argv[1]) << 32 | (uint32_t)glue_int(env, argv[2]);
	return glue_result(env, epoll_ctl(s->epoll, EPOLL_CTL_ADD, (int)glue_int(env, argv[0]), &event));
}

/* closeFd(fd) */
static napi_value close_fd(napi_env env, napi_callback_info info)
{
	napi_value argv[1];

	glue_args(env, info, argv, 1);
	return glue_result(env, close((int)glue_int(env, argv[0])));
}

/* addFd(fd, at, closeOnExec, answer): installs fd in the task that waits; its number there. at = -1: the lowest free. */
static napi_value add_fd(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	struct seccomp_notif_addfd add = { 0 };
	napi_value argv[4];
	int64_t at;

	glue_args(env, info, argv, 4);
	at = glue_int(env, argv[1]);
	add.id = s->box->id;
	add.srcfd = (uint32_t)glue_int(env, argv[0]);
	if (at >= 0) {
		add.newfd = (uint32_t)at;
		add.flags |= SECCOMP_ADDFD_FLAG_SETFD;
	}
	if (glue_int(env, argv[2]))
		add.newfd_flags = O_CLOEXEC;
	if (glue_int(env, argv[3]))
		add.flags |= SECCOMP_ADDFD_FLAG_SEND;
	return glue_result(env, ioctl(s->listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add));
}

/* identify(tid, fd): whose it is, with out[0] = inode. */
static napi_value identify(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	napi_value argv[2];
	double inode = 0;
	enum whose whose;

	glue_args(env, info, argv, 2);
	whose = task_identify(s, (uint32_t)glue_int(env, argv[0]), (int)glue_int(env, argv[1]), &inode);
	s->box->out[0] = inode;
	return glue_number(env, whose);
}

/* lowestFree(tid, low, high): the lowest number from low to high - 1 under which the task has nothing open, or -1. */
static napi_value lowest_free(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	struct slot *slot;
	napi_value argv[3];
	struct stat st;
	char name[16];
	int64_t high;

	glue_args(env, info, argv, 3);
	slot = task_fresh_slot(s, (uint32_t)glue_int(env, argv[0]));
	high = glue_int(env, argv[2]);
	for (int64_t fd = glue_int(env, argv[1]); slot && fd < high; fd++) {
		snprintf(name, sizeof(name), "%d", (int)fd);
		if (fstatat(slot->fds, name, &st, AT_SYMLINK_NOFOLLOW) && errno == ENOENT)
			return glue_number(env, (double)fd);
	}
	return glue_number(env, -1);
}

/* textFile(bytes): a file without a name that holds them, opened to be read. */
static napi_value text_file(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	napi_value argv[1];
	uint8_t *bytes;
	size_t length;
	int fd, first;

	glue_args(env, info, argv, 1);
	bytes = glue_bytes(env, argv[0], &length);
	first = open(s->placeholder_dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0644);
	if (first < 0)
		return glue_result(env, first);
	fd = write(first, bytes, length) == (ssize_t)length ? reopen(first, O_RDONLY) : -1;
	close(first);
	return glue_result(env, fd);
}

/* identifyPath(path): the same for what a path leads to in our view; links are followed. */
static napi_value identify_path(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	enum whose whose = WHOSE_FOREIGN;
	napi_value argv[1];
	struct stat st;
	char *path;

	glue_args(env, info, argv, 1);
	path = glue_string(env, argv[0]);
	if (path && stat(path, &st) == 0) {
		s->box->out[0] = (double)st.st_ino;
		if (st.st_dev == s->placeholder_dev)
			whose = WHOSE_PLACEHOLDER;
		else if (st.st_dev == s->pipe_dev)
			whose = WHOSE_PIPE;
	}
	free(path);
	return glue_number(env, whose);
}

/* pidfdOpen(pid) */
static napi_value pidfd_open_(napi_env env, napi_callback_info info)
{
	napi_value argv[1];

	glue_args(env, info, argv, 1);
	return glue_result(env, syscall(__NR_pidfd_open, (pid_t)glue_int(env, argv[0]), 0));
}

/* pidfdGetfd(pidfd, fd): our own copy of a descriptor of that process. */
static napi_value pidfd_getfd_(napi_env env, napi_callback_info info)
{
	napi_value argv[2];

	glue_args(env, info, argv, 2);
	return glue_result(env, syscall(__NR_pidfd_getfd, (int)glue_int(env, argv[0]), (int)glue_int(env, argv[1]), 0));
}

/* pidfdSignal(pidfd, signal) */
static napi_value pidfd_signal(napi_env env, napi_callback_info info)
{
	napi_value argv[2];

	glue_args(env, info, argv, 2);
	return glue_result(env, syscall(__NR_pidfd_send_signal, (int)glue_int(env, argv[0]),
					(int)glue_int(env, argv[1]), NULL, 0));
}

/* fileSystem(fd): the magic number of its file system, with out[0] = the block size (of hugetlbfs: the page size). */
static napi_value file_system(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	napi_value argv[1];
	struct statfs fs;

	glue_args(env, info, argv, 1);
	if (fstatfs((int)glue_int(env, argv[0]), &fs))
		return glue_result(env, -1);
	s->box->out[0] = (double)fs.f_bsize;
	return glue_number(env, (double)(uint32_t)fs.f_type);
}

/* sameMemory(tid, tid): 1 where two tasks share an address space, 0 where not, -errno where it cannot be known. */
static napi_value same_memory(napi_env env, napi_callback_info info)
{
	napi_value argv[2];
	long order;

	glue_args(env, info, argv, 2);
	order = syscall(__NR_kcmp, (pid_t)glue_int(env, argv[0]), (pid_t)glue_int(env, argv[1]), KCMP_VM, 0, 0);
	return glue_result(env, order < 0 ? order : order == 0);
}

/* sizeOf(fd): the file's length in bytes, -errno. */
static napi_value size_of(napi_env env, napi_callback_info info)
{
	napi_value argv[1];
	struct stat st;

	glue_args(env, info, argv, 1);
	return glue_result(env, fstat((int)glue_int(env, argv[0]), &st) ? -1 : st.st_size);
}

/* growTo(fd, bytes): makes the file that long where it is shorter. */
static napi_value grow_to(napi_env env, napi_callback_info info)
{
	napi_value argv[2];
	struct stat st;
	off_t bytes;
	int fd;

	glue_args(env, info, argv, 2);
	fd = (int)glue_int(env, argv[0]);
	bytes = (off_t)glue_u64(env, argv[1]);
	if (fstat(fd, &st))
		return glue_result(env, -1);
	return glue_result(env, st.st_size < bytes ? ftruncate(fd, bytes) : 0);
}

/* shrinkTo(fd, bytes): makes the file that long; what programs have mapped beyond is SIGBUS then. */
static napi_value shrink_to(napi_env env, napi_callback_info info)
{
	napi_value argv[2];

	glue_args(env, info, argv, 2);
	return glue_result(env, ftruncate((int)glue_int(env, argv[0]), (off_t)glue_u64(env, argv[1])));
}

void napi_files_register(napi_env env, napi_value exports)
{
	static const struct export table[] = {
		{ "useDirectory", use_directory },
		{ "placeholder", make_placeholder },
		{ "openOf", open_of },
		{ "directory", make_directory },
		{ "reopen", reopen_fd },
		{ "pipe", make_pipe },
		{ "takeByte", take_byte },
		{ "putByte", put_byte },
		{ "watch", watch },
		{ "unwatch", unwatch },
		{ "signalEventfd", signal_eventfd },
		{ "takeEventfd", take_eventfd },
		{ "closeFd", close_fd },
		{ "addFd", add_fd },
		{ "identify", identify },
		{ "identifyPath", identify_path },
		{ "lowestFree", lowest_free },
		{ "textFile", text_file },
		{ "pidfdOpen", pidfd_open_ },
		{ "pidfdGetfd", pidfd_getfd_ },
		{ "pidfdSignal", pidfd_signal },
		{ "fileSystem", file_system },
		{ "sameMemory", same_memory },
		{ "sizeOf", size_of },
		{ "growTo", grow_to },
		{ "shrinkTo", shrink_to },
	};

	glue_define(env, exports, table, sizeof(table) / sizeof(table[0]));
}
