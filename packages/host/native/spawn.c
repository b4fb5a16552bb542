/*
 * Starts the program behind the filter. Everything between fork() and execve() is async-signal-safe: Node has other
 * threads, whose locks the child inherits in whatever state they are.
 */
#include "viommu.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the child says about itself before it has become the program. */
struct report {
	int stage;
	int error;
};

static void report_and_exit(int socket, enum spawn_stage stage, int error)
{
	struct report report = { stage, error };

	if (write(socket, &report, sizeof(report)) < 0)
		_exit(125);
	_exit(127);
}

static int send_listener(int socket, int listener)
{
	struct report report = { SPAWN_OK, 0 };
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { &report, sizeof(report) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &listener, sizeof(listener));
	return sendmsg(socket, &msg, 0) == sizeof(report) ? 0 : -1;
}

static bool receive_report(int socket, struct report *report, int *listener)
{
	char control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { report, sizeof(*report) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	struct cmsghdr *cmsg;
	ssize_t got;

	do
		got = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == EINTR);
	if (got != sizeof(*report))
		return false;
	cmsg = CMSG_FIRSTHDR(&msg);
	if (cmsg && cmsg->cmsg_type == SCM_RIGHTS)
		memcpy(listener, CMSG_DATA(cmsg), sizeof(*listener));
	return true;
}

/* Node changes signal dispositions, the mask and RLIMIT_NOFILE (src/node.cc PlatformInit()); the program gets its own. */
static void restore_environment(const struct spawn_options *options)
{
	struct sigaction action;
	sigset_t none;
	struct rlimit limit;

	memset(&action, 0, sizeof(action));
	action.sa_handler = SIG_DFL;
	for (int signal = 1; signal < NSIG; signal++)
		sigaction(signal, &action, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (options->nofile_soft >= 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = options->nofile_soft;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	/* src/node.cc: uv_disable_stdio_inheritance(), which takes every descriptor it finds. */
	for (int fd = 0; fd < 3; fd++)
		fcntl(fd, F_SETFD, 0);
	for (int i = 0; i < options->inherit_count; i++)
		fcntl(options->inherit[i], F_SETFD, 0);
}

static int install_filter(const struct sock_fprog *program)
{
	static const unsigned long flags[] = {
		SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_SPEC_ALLOW |
			SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
		SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_SPEC_ALLOW,
	};
	int listener = -1;

	for (int i = 0; i < 2 && listener < 0; i++) {
		listener = syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, flags[i], program);
		if (listener < 0 && errno != EINVAL)
			break;
	}
	return listener;
}

static void become_program(const struct spawn_options *options, int socket)
{
	int error = ENOENT;

	for (char **path = options->candidates; *path; path++) {
		execve(*path, options->argv, options->envp);
		if (errno == ENOEXEC) { /* a script without #!, as execvp() runs it */
			options->shell_argv[1] = *path;
			execve(options->shell_argv[0], options->shell_argv, options->envp);
		}
		if (errno == EACCES)
			error = EACCES; /* as execvp(): a later candidate may do, else this is the answer */
		else if (errno != ENOENT && errno != ENOTDIR)
			report_and_exit(socket, SPAWN_EXEC, errno);
	}
	report_and_exit(socket, SPAWN_EXEC, error);
}

static void child(const struct spawn_options *options, const struct sock_fprog *program, int socket, pid_t parent)
{
	int listener;

	restore_environment(options);
	/* Should the supervisor die, so does the program: without it every stopped call would answer ENOSYS. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(125);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		report_and_exit(socket, SPAWN_NO_NEW_PRIVS, errno);
	listener = install_filter(program);
	if (listener < 0)
		report_and_exit(socket, SPAWN_SECCOMP, errno);
	if (send_listener(socket, listener))
		_exit(125);
	close(listener);
	become_program(options, socket);
}

/* Lets the child's own execve() through, which its filter stops, until it has become the program or cannot. */
static bool pass_exec(int socket, int listener, struct report *report)
{
	struct pollfd ready[2] = { { listener, POLLIN, 0 }, { socket, POLLIN, 0 } };
	union {
		struct seccomp_notif notif;
		char room[256];
	} in;
	union {
		struct seccomp_notif_resp response;
		char room[256];
	} out;

	for (;;) {
		if (poll(ready, 2, -1) < 0) {
			if (errno == EINTR)
				continue;
			return false;
		}
		/* The socket is close-on-exec: its end without a report is the program's beginning. */
		if (ready[1].revents)
			return receive_report(socket, report, &(int){ -1 });
		memset(&in, 0, sizeof(in));
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &in))
			continue;
		memset(&out, 0, sizeof(out));
		out.response.id = in.notif.id;
		out.response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &out);
	}
}

static void spawn_failed(struct spawn_result *result, enum spawn_stage stage, int error)
{
	if (result->pid > 0) {
		kill(result->pid, SIGKILL);
		waitpid(result->pid, NULL, 0);
	}
	if (result->listener >= 0)
		close(result->listener);
	result->stage = stage;
	result->error = error;
}

void spawn_program(const struct spawn_options *options, struct spawn_result *result)
{
	struct sock_fprog program;
	struct report report = { SPAWN_OK, 0 };
	sigset_t all, before;
	pid_t parent = getpid();
	int sockets[2];

	*result = (struct spawn_result){ SPAWN_OK, 0, -1, -1 };
	if (filter_build(&options->filter, &program)) {
		spawn_failed(result, SPAWN_FORK, ENOMEM);
		return;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets)) {
		spawn_failed(result, SPAWN_FORK, errno);
		free(program.filter);
		return;
	}
	/* No handler of Node's may run in the child. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	result->pid = fork();
	if (result->pid == 0)
		child(options, &program, sockets[1], parent);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	close(sockets[1]);
	free(program.filter);
	if (result->pid < 0)
		spawn_failed(result, SPAWN_FORK, errno);
	else if (!receive_report(sockets[0], &report, &result->listener))
		spawn_failed(result, SPAWN_LISTENER, ECHILD);
	else if (report.stage != SPAWN_OK)
		spawn_failed(result, report.stage, report.error);
	else if (result->listener < 0)
		spawn_failed(result, SPAWN_LISTENER, EMFILE);
	else if (pass_exec(sockets[0], result->listener, &report))
		spawn_failed(result, report.stage, report.error);
	close(sockets[0]);
}
