/*
 * What the tests run under the supervisor: client NAME [ARGS] plays one scene and prints a line for each thing that it
 * found out. Requests from 0xd0 on are of the stand-in kernel (stub-kernel.ts).
 */
#ifndef CLIENT_H
#define CLIENT_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef __NR_pidfd_getfd
#define __NR_pidfd_getfd 438
#endif
#ifndef __NR_openat2
#define __NR_openat2 437
#endif
#ifndef __NR_faccessat2
#define __NR_faccessat2 439
#endif
#ifndef __NR_close_range
#define __NR_close_range 436
#endif

enum nr {
	EVENT_QUEUE = 0xd0, EVENTS, ACCESS, MAPPING, KEEP, RECALL, FILE_OF, WHO, CHARGE, FAILPOINT, COPY, COUNT, BACKING,
	STORE,
};

struct request {
	uint64_t word[8];
};

/* A scene plays with the arguments after its name, and answers the program's exit status. */
struct scene {
	const char *name;
	int (*play)(char **argv);
};
extern const struct scene file_scenes[], memory_scenes[], path_scenes[], process_scenes[];

int ask(int fd, enum nr nr, struct request *request);
int open_iommu(void);
/* The id of a new IOAS, or -1. */
int alloc(int fd);
/* How many files the stand-in kernel has open, the one asked by included. */
long count(int fd);
void say(const char *what, long value);
void say_errno(const char *what, long result);
/* Says whether an open worked and its descriptor does. */
void use(const char *way, int fd);

#endif
