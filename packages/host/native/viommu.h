/*
 * What the parts of the addon share. The addon moves notifications, bytes and descriptors between the traced
 * program and JavaScript; it knows nothing of iommufd.
 */
#ifndef VIOMMU_H
#define VIOMMU_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <node_api.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Linux 6.6 and other things that older headers lack. */
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, uint64_t)
#endif
#define VIOMMU_SYNC_WAKE_UP 1 /* SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP */
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef SECCOMP_ADDFD_FLAG_SEND
#define SECCOMP_ADDFD_FLAG_SEND (1UL << 1)
#endif

/*
 * What a stopped system call asks for, the same on every architecture. Mirrored in src/native.ts. Where it has a path,
 * a3 says whether that ended in a slash, which the path in the mailbox no longer does.
 */
enum op {
	OP_NONE = 0,
	OP_IOCTL,    /* fd, a0 = cmd, a1 = arg */
	OP_OPEN,     /* path, a0 = open flags, a1 = mode */
	OP_ACCESS,   /* path, a0 = mode, a1 = AT_ flags */
	OP_STAT,     /* path, a0 = struct stat *, a1 = AT_ flags */
	OP_STATX,    /* path, a0 = struct statx *, a1 = AT_ flags, a2 = mask */
	OP_FSTAT,    /* fd, a0 = struct stat * */
	OP_FSTATX,   /* fd, a0 = struct statx *, a2 = mask */
	OP_READLINK, /* path, a0 = buffer, a1 = size */
	OP_MMAP,     /* fd, a0 = address, a1 = length, a2 = prot | flags << 32, a3 = offset */
	OP_READ,     /* fd, a0 = buffer, a1 = count */
	OP_WRITE,
	OP_READV, /* fd, a0 = struct iovec *, a1 = count */
	OP_WRITEV,
	OP_PREAD, /* fd, a0 = buffer, a1 = count, a3 = offset */
	OP_PWRITE,
	OP_PREADV, /* fd, a0 = struct iovec *, a1 = count, a3 = offset */
	OP_PWRITEV,
	OP_XATTR, /* path; a0 = 1 where names are listed */
	OP_LSEEK, /* fd, a0 = offset, a1 = whence */
	OP_EXEC,  /* nothing is known of these two beyond the task: it is about to execute another program, */
	OP_CREDENTIALS, /* or to change who it is or what it may do */
	OP_DUP, /* fd, a0 = the lowest number that the copy may have, a1 = 1 where it is close-on-exec */
};

/* Whose file a descriptor is. Mirrored in src/native.ts. */
enum whose { WHOSE_FOREIGN = 0, WHOSE_PLACEHOLDER = 1, WHOSE_PIPE = 2 };

/* What happened besides a notification. Mirrored in src/native.ts. */
enum event {
	EVENT_LAST_CLOSE = 1, /* a = inotify watch descriptor */
	EVENT_HANG_UP = 2,    /* a = token */
	EVENT_EXIT = 3,	      /* a = token */
	EVENT_SIGNAL = 4,     /* a = signal number, b = si_code, c = si_pid */
	EVENT_GONE = 5,	      /* no task holds the filter any more */
	EVENT_OVERFLOW = 6,   /* inotify lost events */
	EVENT_EVENTFD = 8,    /* a = token: an eventfd of a program has a count */
	EVENT_NOTIFICATION = 7, /* not for JavaScript: the listener's place in epoll */
};

/* So much client memory before and from the argument of an ioctl on comes with it, as far as its page reaches. */
#define PREFETCH_BEFORE 256
#define PREFETCH_BYTES 512
#define PATH_BYTES 4096
#define SCRATCH_BYTES 4096
#define EVENTS_MAX 512

enum response { RESPOND_NOTHING = 0, RESPOND_VALUE = 1, RESPOND_CONTINUE = 2 };

/*
 * The memory that C and JavaScript share, one notification at a time. Offsets are mirrored in src/native.ts; every
 * field is naturally aligned.
 */
struct mailbox {
	/* 0: the response that next() sends first; written by JavaScript. */
	uint64_t response_id;
	int64_t response_value;
	int32_t response_error; /* negative errno, or 0 */
	uint32_t respond;
	/* 24: the notification. */
	uint32_t notified;
	uint32_t op;
	uint64_t id;
	uint32_t tid;
	uint32_t generation; /* a new one each time a task number is looked at afresh */
	int32_t fd;
	uint32_t whose;
	double inode;
	uint64_t a[4];
	uint64_t prefetch_va; /* of an ioctl: where the client memory in `prefetch` is from, */
	uint32_t prefetched;  /* and how many bytes of it there are */
	uint32_t path_length;
	uint32_t event_count;
	uint32_t received; /* notifications so far */
	uint32_t pad[2];
	/* 128: results of functions that return more than a number. */
	double out[16];
	/* 256 */
	uint64_t wide[16];
	uint64_t spare[16];
	/* 512 */
	struct {
		uint32_t kind;
		int32_t a, b, c;
	} events[EVENTS_MAX];
	/* 8704 */
	uint8_t path[PATH_BYTES];
	/* 12800 */
	uint8_t scratch[SCRATCH_BYTES];
	/* 16896 */
	uint8_t prefetch[PREFETCH_BYTES];
};

_Static_assert(offsetof(struct mailbox, a) == 64, "mirrored in native.ts");
_Static_assert(offsetof(struct mailbox, out) == 128, "mirrored in native.ts");
_Static_assert(offsetof(struct mailbox, events) == 512, "mirrored in native.ts");
_Static_assert(offsetof(struct mailbox, path) == 8704, "mirrored in native.ts");
_Static_assert(offsetof(struct mailbox, scratch) == 12800, "mirrored in native.ts");
_Static_assert(offsetof(struct mailbox, prefetch) == 16896, "mirrored in native.ts");

/* Open directories of tasks that were heard of lately. */
#define SLOTS 64
struct slot {
	uint32_t tid; /* 0: empty */
	uint32_t tgid;
	uint32_t generation;
	int proc; /* /proc/TID */
	int fds;  /* /proc/TID/fd */
	int mem;  /* /proc/TID/mem, -1 until it is needed */
	int paths; /* asked for without `mem` */
	uint64_t stack; /* the bottom of the first thread's stack, 0 until it is needed */
	/* Pages of it that process_vm_readv() and _writev() reached: from then on by `mem`, which is cheaper. */
	uint64_t readable_page, writable_page;
};

/* /proc/TID/fdinfo/FD of descriptors that calls were made on lately. */
#define VIEWS 64
#define INFO_BYTES 192
struct view {
	uint32_t tid; /* 0: empty */
	int fd;
	int info;
	/* What it said last, as it nearly always says the same, and what that means. */
	char text[INFO_BYTES];
	ssize_t length;
	enum whose whose;
	double inode;
};

#define PATTERNS_MAX 64
#define DIRECTORIES_MAX 32
struct supervisor {
	struct mailbox *box;
	int listener;
	int epoll;
	int inotify;
	int signals[2];
	dev_t placeholder_dev;
	dev_t pipe_dev;
	long placeholder_mount, pipe_mount; /* mnt_id of /proc/PID/fdinfo, -1 where the kernel does not tell */
	char placeholder_dir[256];
	bool stop_reads;
	bool slot_trusted; /* the slot of box->tid is known to be of the task that waits */
	bool by_number;	   /* memory was reached by the task's number since the notification came */
	bool vm_calls_refused; /* no process_vm_readv() here: /proc/PID/mem instead */
	uint32_t generation;
	struct slot slots[SLOTS];
	struct view views[VIEWS];
	char *patterns[PATTERNS_MAX];
	int pattern_count;
	struct {
		ino_t inode;
		char path[128];
	} directories[DIRECTORIES_MAX];
	int directory_count;
	size_t notif_size, response_size; /* the kernel's, from SECCOMP_GET_NOTIF_SIZES */
	union {
		struct seccomp_notif notif;
		char room[256];
	} in;
	union {
		struct seccomp_notif_resp response;
		char room[256];
	} out;
};

/* filter.c */
struct sock_fprog;
struct filter_options {
	int window_low, window_high; /* descriptors low..high-1 have read and write stopped */
	bool stop_reads;	     /* every descriptor from 3 on has */
	bool stop_io_uring;	     /* io_uring_setup() fails with EPERM */
};
int filter_build(const struct filter_options *options, struct sock_fprog *program);
enum op filter_op(const struct seccomp_data *data, struct mailbox *box, uint64_t *path_va, int *dirfd);

/* spawn.c */
struct spawn_options {
	struct filter_options filter;
	char **candidates; /* paths to try in turn, as execvp() does */
	char **argv;
	char **shell_argv; /* "/bin/sh", room for the path, argv from [1] on */
	char **envp;
	int *inherit; /* descriptors that lose FD_CLOEXEC */
	int inherit_count;
	int64_t nofile_soft; /* RLIMIT_NOFILE for the program, or -1 */
};
enum spawn_stage { SPAWN_OK = 0, SPAWN_FORK, SPAWN_NO_NEW_PRIVS, SPAWN_SECCOMP, SPAWN_LISTENER, SPAWN_EXEC };
struct spawn_result {
	enum spawn_stage stage;
	int error;
	pid_t pid;
	int listener;
};
void spawn_program(const struct spawn_options *options, struct spawn_result *result);

/* loop.c */
int loop_next(struct supervisor *s, int timeout_ms);
int loop_send(struct supervisor *s);
bool loop_id_valid(struct supervisor *s, uint64_t id);
void loop_close(struct supervisor *s);

/* tasks.c */
struct slot *task_slot(struct supervisor *s, uint32_t tid);
struct slot *task_fresh_slot(struct supervisor *s, uint32_t tid);
enum whose task_identify(struct supervisor *s, uint32_t tid, int fd, double *inode);
uint64_t task_stack(struct slot *slot);
void task_forget_all(struct supervisor *s);
void task_forget_memory(struct supervisor *s);
long task_mount_of(int fd);

/* paths.c */
bool paths_candidate(struct supervisor *s, int dirfd, bool follow, uint64_t resolve);

/* memory.c */
ssize_t memory_read(struct supervisor *s, pid_t pid, uint64_t va, void *into, size_t length);
ssize_t memory_write(struct supervisor *s, pid_t pid, uint64_t va, const void *from, size_t length);
struct place { /* as JavaScript writes it: three words */
	uint32_t va_lo, va_hi, length;
};
bool memory_gather(struct supervisor *s, pid_t pid, const struct place *places, size_t count, void *into, size_t length);
void memory_prefetch(struct supervisor *s, uint64_t va);
ssize_t memory_read_string(struct supervisor *s, pid_t pid, uint64_t va, char *into, size_t size);

/* glue.c: what the functions of napi-*.c have in common */
struct supervisor *glue_supervisor(napi_env env); /* NULL before create() and after close() */
int glue_args(napi_env env, napi_callback_info info, napi_value *argv, size_t max);
int64_t glue_int(napi_env env, napi_value value); /* of a number or a boolean */
uint64_t glue_u64(napi_env env, napi_value value); /* of a bigint */
uint8_t *glue_bytes(napi_env env, napi_value value, size_t *length);
char *glue_string(napi_env env, napi_value value); /* of a string or its bytes; to free */
char **glue_strings(napi_env env, napi_value value, size_t before, uint32_t *count); /* to free_strings() */
void glue_free_strings(char **strings);
napi_value glue_number(napi_env env, double value);
napi_value glue_result(napi_env env, int64_t result); /* result, or -errno where it is negative */
struct export {
	const char *name;
	napi_callback function;
};
void glue_define(napi_env env, napi_value exports, const struct export *table, size_t count);

void napi_run_register(napi_env env, napi_value exports);
void napi_files_register(napi_env env, napi_value exports);
void napi_memory_register(napi_env env, napi_value exports);

#endif
