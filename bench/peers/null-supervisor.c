/*
 * The least that any supervisor can cost: it stops what viommu stops (ioctls of type ';') and answers 0 to everything.
 *
 * usage: null-supervisor [--poll | --epoll | --struct | --copy] PROGRAM ARGS...
 *
 * Without an option it blocks in SECCOMP_IOCTL_NOTIF_RECV. With --poll or --epoll it waits for readiness first, as every
 * supervisor must that has more than one thing to wait for. With --struct it blocks in RECV, copies the struct in, and
 * copies it out where there is an answer in it: no supervisor of iommufd can do less. With --copy it does all that one
 * must: it waits with epoll, looks at whose file the descriptor is, and copies the struct.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, uint64_t)
#endif
#define SYNC_WAKE_UP 1 /* SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP */

#if defined(__x86_64__)
#define NATIVE_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE_ARCH AUDIT_ARCH_AARCH64
#else
#error "x86-64 and arm64 only"
#endif

#define IOMMU_IOAS_ALLOC 0x3b81

enum mode { BLOCK, POLL, EPOLL, STRUCT, COPY };

static void die(const char *what)
{
	perror(what);
	exit(125);
}

static void send_fd(int socket, int fd)
{
	char byte = 0, control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	if (sendmsg(socket, &msg, 0) != 1)
		die("sendmsg");
}

static int receive_fd(int socket)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	int fd;

	if (recvmsg(socket, &msg, 0) != 1)
		die("recvmsg");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

static void child(int socket, char **argv)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NATIVE_ARCH, 0, 6),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_ioctl, 0, 4),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xff00),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x3b00, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };
	int listener;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	listener = syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER,
			   SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program);
	if (listener < 0)
		die("seccomp");
	send_fd(socket, listener);
	close(listener);
	close(socket);
	execvp(argv[0], argv);
	die(argv[0]);
}

/* What it has open of the one task that it serves. */
struct task {
	int fdinfo, mem;
};

static void open_task(struct task *task, pid_t pid, int fd)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, fd);
	task->fdinfo = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	task->mem = open(path, O_RDWR | O_CLOEXEC);
}

static void identify(const struct task *task)
{
	char info[192];

	if (pread(task->fdinfo, info, sizeof(info), 0) <= 0)
		die("a task that cannot be looked at");
}

static void copy_struct(const struct task *task, const struct seccomp_notif *request)
{
	char bytes[128];
	off_t arg = request->data.args[2];

	if (pread(task->mem, bytes, sizeof(bytes), arg) <= 0)
		die("a task that cannot be read from");
	if (request->data.args[1] == IOMMU_IOAS_ALLOC && pwrite(task->mem, bytes, 12, arg) != 12)
		die("a task that cannot be written to");
}

static void serve(int listener, int mode)
{
	struct task task = { -1, -1 };
	struct seccomp_notif request;
	struct seccomp_notif_resp response;
	struct epoll_event event = { .events = EPOLLIN };
	struct pollfd ready = { listener, POLLIN, 0 };
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
	for (;;) {
		if (mode == POLL && (poll(&ready, 1, -1) < 0 || !(ready.revents & POLLIN)))
			break;
		if ((mode == EPOLL || mode == COPY) && (epoll_wait(epoll, &event, 1, -1) < 0 || !(event.events & EPOLLIN)))
			break;
		memset(&request, 0, sizeof(request));
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request)) {
			/* The task died meanwhile, or the last one is gone. */
			if (poll(&ready, 1, 0) > 0 && (ready.revents & POLLHUP))
				break;
			continue;
		}
		if (mode >= STRUCT && task.mem < 0)
			open_task(&task, request.pid, request.data.args[0]);
		if (mode == COPY)
			identify(&task);
		if (mode >= STRUCT)
			copy_struct(&task, &request);
		memset(&response, 0, sizeof(response));
		response.id = request.id;
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
	}
}

int main(int argc, char **argv)
{
	static const char *const options[] = {
		[POLL] = "--poll", [EPOLL] = "--epoll", [STRUCT] = "--struct", [COPY] = "--copy",
	};
	int sockets[2], listener, status, mode = BLOCK;
	pid_t pid;

	for (int each = POLL; argc > 1 && each <= COPY; each++)
		if (!strcmp(argv[1], options[each]))
			mode = each;
	argv += mode ? 2 : 1;
	if (!*argv)
		return 125;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets))
		die("socketpair");
	pid = fork();
	if (pid == 0)
		child(sockets[1], argv);
	close(sockets[1]);
	listener = receive_fd(sockets[0]);
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP, 0))
		fprintf(stderr, "null-supervisor: no SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP\n");
	serve(listener, mode);
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
