/*
 * One turn of the loop: send the previous response, wait, receive one notification, look at everything else that
 * happened, find out whose file or path the call is about. What is nobody's is continued here, without JavaScript.
 */
#include "viommu.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <unistd.h>

#define KVM_SET_DEVICE_ATTR 0x4018aee1u
#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif
#define EPOLL_BATCH 128
/* More of struct open_how than this is not looked at. */
#define HOW_BYTES_MAX 256
#ifdef __aarch64__
#define KERNEL_O_LARGEFILE 0400000 /* which glibc says is 0 */
#else
#define KERNEL_O_LARGEFILE 0100000
#endif
/* include/linux/fcntl.h VALID_OPEN_FLAGS. */
#define OPEN_FLAGS                                                                                                     \
	((uint64_t)(O_ACCMODE | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND | O_NONBLOCK | O_SYNC | FASYNC |      \
		    O_DIRECT | KERNEL_O_LARGEFILE | O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC | O_PATH | O_TMPFILE))
#define RESOLVE_FLAGS                                                                                                  \
	(RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH | RESOLVE_IN_ROOT |           \
	 RESOLVE_CACHED)

/* Sends the response in the mailbox. 0, or -errno; ENOENT means that the task died meanwhile. */
int loop_send(struct supervisor *s)
{
	struct mailbox *box = s->box;
	struct seccomp_notif_resp *response = &s->out.response;

	memset(&s->out, 0, s->response_size);
	response->id = box->response_id;
	if (box->respond == RESPOND_CONTINUE) {
		response->flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	} else {
		response->error = box->response_error;
		response->val = box->response_value;
	}
	box->respond = RESPOND_NOTHING;
	return ioctl(s->listener, SECCOMP_IOCTL_NOTIF_SEND, response) ? -errno : 0;
}

bool loop_id_valid(struct supervisor *s, uint64_t id)
{
	return ioctl(s->listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0;
}

static void add_event(struct supervisor *s, enum event kind, int a, int b, int c)
{
	struct mailbox *box = s->box;

	if (box->event_count == EVENTS_MAX)
		return; /* callers leave what does not fit in its queue */
	box->events[box->event_count].kind = kind;
	box->events[box->event_count].a = a;
	box->events[box->event_count].b = b;
	box->events[box->event_count].c = c;
	box->event_count++;
}

static bool events_have_room(struct supervisor *s)
{
	return s->box->event_count < EVENTS_MAX - 2 * EPOLL_BATCH;
}

static void drain_inotify(struct supervisor *s)
{
	char buffer[EPOLL_BATCH * sizeof(struct inotify_event)]
		__attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t got;

	while (events_have_room(s) && (got = read(s->inotify, buffer, sizeof(buffer))) > 0) {
		for (char *at = buffer; at < buffer + got;) {
			struct inotify_event *event = (struct inotify_event *)at;

			if (event->mask & IN_Q_OVERFLOW)
				add_event(s, EVENT_OVERFLOW, 0, 0, 0);
			else if (event->mask & IN_CLOSE)
				add_event(s, EVENT_LAST_CLOSE, event->wd, 0, 0);
			at += sizeof(*event) + event->len;
		}
	}
}

static void drain_signals(struct supervisor *s)
{
	int record[3];

	while (events_have_room(s) && read(s->signals[0], record, sizeof(record)) == sizeof(record))
		add_event(s, EVENT_SIGNAL, record[0], record[1], record[2]);
}

/* Takes up everything but the listener; whether the listener is ready is in `listener`. */
static void take_events(struct supervisor *s, const struct epoll_event *events, int count, uint32_t *listener)
{
	for (int i = 0; i < count; i++) {
		enum event kind = events[i].data.u64 >> 32;
		int token = (int)events[i].data.u64;

		if (kind == EVENT_NOTIFICATION)
			*listener = events[i].events;
		else if (kind == EVENT_LAST_CLOSE)
			drain_inotify(s);
		else if (kind == EVENT_SIGNAL)
			drain_signals(s);
		else
			add_event(s, kind, token, 0, 0);
	}
}

static bool receive(struct supervisor *s)
{
	memset(&s->in, 0, s->notif_size);
	return ioctl(s->listener, SECCOMP_IOCTL_NOTIF_RECV, &s->in) == 0;
}

static bool prepare_ioctl(struct supervisor *s)
{
	struct mailbox *box = s->box;

	box->whose = task_identify(s, box->tid, box->fd, &box->inode);
	if (box->whose == WHOSE_FOREIGN)
		return (uint32_t)box->a[0] == KVM_SET_DEVICE_ATTR;
	s->slot_trusted = true;
	memory_prefetch(s, box->a[1]);
	return true;
}

static bool read_path(struct supervisor *s, uint64_t va)
{
	ssize_t got = memory_read_string(s, s->box->tid, va, (char *)s->box->path, PATH_BYTES);

	s->box->path_length = got < 0 ? 0 : got;
	return got >= 0;
}

/* stat(2) of a descriptor under its other names: newfstatat() and statx() with AT_EMPTY_PATH. */
static bool prepare_empty_path(struct supervisor *s, int dirfd)
{
	struct mailbox *box = s->box;

	if ((box->op != OP_STAT && box->op != OP_STATX) || !(box->a[1] & AT_EMPTY_PATH))
		return false;
	box->op = box->op == OP_STAT ? OP_FSTAT : OP_FSTATX;
	box->fd = dirfd;
	box->whose = task_identify(s, box->tid, dirfd, &box->inode);
	return box->whose != WHOSE_FOREIGN;
}

/*
 * openat2(): puts the flags in a[0], where the address of struct open_how was, whose size is in a[2]. False where the
 * kernel refuses the struct before it looks at the path (fs/open.c build_open_flags()).
 */
static bool read_how(struct supervisor *s, uint64_t *resolve)
{
	struct mailbox *box = s->box;
	struct {
		struct open_how how;
		uint8_t later[HOW_BYTES_MAX - sizeof(struct open_how)];
	} given = { 0 };
	const struct open_how *how = &given.how;

	if (box->a[2] < sizeof(*how) || box->a[2] > sizeof(given) ||
	    memory_read(s, box->tid, box->a[0], &given, box->a[2]) < 0)
		return false;
	for (size_t i = 0; i < sizeof(given.later); i++)
		if (given.later[i])
			return false;
	if (how->flags & ~OPEN_FLAGS || how->resolve & ~RESOLVE_FLAGS)
		return false;
	if (how->mode && (!(how->flags & (O_CREAT | O_TMPFILE)) || how->mode & ~(uint64_t)07777))
		return false;
	box->a[0] = how->flags;
	*resolve = how->resolve;
	return true;
}

static bool prepare_path(struct supervisor *s, uint64_t va, int dirfd)
{
	struct mailbox *box = s->box;
	bool follow = !(box->a[1] & AT_SYMLINK_NOFOLLOW);
	uint64_t resolve = 0;

	if (va == 0 || !read_path(s, va) || box->path_length == 0)
		return prepare_empty_path(s, dirfd);
	box->a[3] = box->path[box->path_length - 1] == '/';
	follow = follow || box->a[3];
	if (box->op == OP_OPEN) {
		if (box->a[2] != 0 && !read_how(s, &resolve))
			return false;
		follow = !(box->a[0] & O_NOFOLLOW) || box->a[3];
	}
	return paths_candidate(s, dirfd, follow && box->op != OP_READLINK, resolve) && task_fresh_slot(s, box->tid);
}

/* Fills the mailbox. False where the call is nobody's and the kernel shall go on with it. */
static bool prepare(struct supervisor *s)
{
	struct mailbox *box = s->box;
	uint64_t path_va;
	struct slot *slot;
	bool ours;
	int dirfd;

	box->id = s->in.notif.id;
	box->tid = s->in.notif.pid;
	box->whose = WHOSE_FOREIGN;
	box->prefetched = 0;
	box->path_length = 0;
	s->slot_trusted = false;
	box->op = filter_op(&s->in.notif.data, box, &path_va, &dirfd);
	switch (box->op) {
	case OP_NONE:
		return false;
	case OP_IOCTL:
		ours = prepare_ioctl(s);
		break;
	case OP_OPEN:
	case OP_ACCESS:
	case OP_STAT:
	case OP_STATX:
	case OP_READLINK:
	case OP_XATTR:
		ours = prepare_path(s, path_va, dirfd);
		break;
	case OP_EXEC:
		task_forget_memory(s);
		/* fallthrough */
	case OP_CREDENTIALS:
		box->generation = 0; /* seldom of interest: the task is not looked at */
		return true;
	default:
		box->whose = task_identify(s, box->tid, box->fd, &box->inode);
		ours = box->whose != WHOSE_FOREIGN;
	}
	if (!ours)
		return false;
	slot = task_slot(s, box->tid);
	box->generation = slot ? slot->generation : 0;
	return slot != NULL;
}

/* Receives one notification. True where it is for JavaScript; what is nobody's gets its response from the next turn. */
static bool take_notification(struct supervisor *s)
{
	struct mailbox *box = s->box;

	if (!receive(s))
		return false;
	box->received++;
	s->by_number = false;
	if (prepare(s))
		/*
		 * What was looked at came by open files of /proc, which are of the task itself, or by its number: in the
		 * second case it must still be the one that asked.
		 */
		return !s->by_number || loop_id_valid(s, box->id);
	box->response_id = box->id;
	box->respond = RESPOND_CONTINUE;
	return false;
}

/*
 * One turn. Returns when there is something for JavaScript: a notification, events, or both; then the events came
 * first. 0 after `timeout_ms` without either; -errno when waiting itself failed.
 *
 * The order holds because one epoll_wait() tells of both: what a task closed before it asked was in epoll's list
 * before its question was, and of the questions only the oldest is taken, which was there when epoll_wait() returned.
 */
int loop_next(struct supervisor *s, int timeout_ms)
{
	struct mailbox *box = s->box;
	struct epoll_event events[EPOLL_BATCH];

	box->notified = 0;
	box->event_count = 0;
	for (;;) {
		uint32_t listener = 0;
		int count;

		if (box->respond != RESPOND_NOTHING)
			loop_send(s);
		count = epoll_wait(s->epoll, events, EPOLL_BATCH, timeout_ms);
		if (count < 0 && errno != EINTR)
			return -errno;
		if (count == 0)
			return 0;
		take_events(s, events, count, &listener);
		if (count == EPOLL_BATCH)
			return 1; /* there may be more that came before the notification */
		if (listener & EPOLLIN)
			box->notified = take_notification(s);
		else if (listener & EPOLLHUP)
			add_event(s, EVENT_GONE, 0, 0, 0);
		/* Who gave a time must be asked again also where others keep us busy. */
		if (box->notified || box->event_count || timeout_ms >= 0)
			return 1;
	}
}

void loop_close(struct supervisor *s)
{
	int fds[] = { s->listener, s->epoll, s->inotify, s->signals[0], s->signals[1] };

	task_forget_all(s);
	for (int i = 0; i < s->pattern_count; i++)
		free(s->patterns[i]);
	s->pattern_count = 0;
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	s->listener = s->epoll = s->inotify = s->signals[0] = s->signals[1] = -1;
}
