/* The supervisor's life: create, spawn, next, wait, signals, exit. */
#include "viommu.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Where the signal handler writes: handlers have no argument of ours. */
static volatile int signal_pipe = -1;

static void on_signal(int signal, siginfo_t *info, void *context)
{
	int record[3] = { signal, info->si_code, info->si_pid };
	int error = errno;
	ssize_t written = write(signal_pipe, record, sizeof(record));

	(void)written; /* a full pipe: so many signals are on their way that one less makes no difference */
	(void)context;
	errno = error;
}

static int watch(struct supervisor *s, int fd, enum event kind, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.u64 = (uint64_t)kind << 32 };

	return epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &event);
}

static int open_all(struct supervisor *s)
{
	struct seccomp_notif_sizes sizes;
	struct stat st;
	int pipes[2];

	s->listener = -1;
	s->epoll = epoll_create1(EPOLL_CLOEXEC);
	s->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (s->epoll < 0 || s->inotify < 0 || pipe2(s->signals, O_CLOEXEC | O_NONBLOCK))
		return -1;
	if (watch(s, s->inotify, EVENT_LAST_CLOSE, EPOLLIN) || watch(s, s->signals[0], EVENT_SIGNAL, EPOLLIN))
		return -1;
	if (pipe2(pipes, O_CLOEXEC))
		return -1;
	fstat(pipes[0], &st);
	s->pipe_dev = st.st_dev;
	s->pipe_mount = task_mount_of(pipes[0]);
	close(pipes[0]);
	close(pipes[1]);
	s->notif_size = sizeof(struct seccomp_notif);
	s->response_size = sizeof(struct seccomp_notif_resp);
	if (syscall(__NR_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) == 0) {
		s->notif_size = sizes.seccomp_notif;
		s->response_size = sizes.seccomp_notif_resp;
	}
	return s->notif_size > sizeof(s->in) || s->response_size > sizeof(s->out) ? (errno = E2BIG, -1) : 0;
}

static void finalize(napi_env env, void *data, void *hint)
{
	struct supervisor *s = data;

	(void)env;
	(void)hint;
	loop_close(s);
	free(s);
}

/* create(patterns): the mailbox, or -errno. */
static napi_value create(napi_env env, napi_callback_info info)
{
	struct supervisor *s = calloc(1, sizeof(*s));
	napi_value argv[1], buffer;
	uint32_t count;
	char **patterns;

	if (!s)
		return glue_number(env, -ENOMEM);
	glue_args(env, info, argv, 1);
	s->epoll = s->inotify = s->signals[0] = s->signals[1] = -1;
	if (open_all(s)) {
		napi_value error = glue_result(env, -1);

		finalize(env, s, NULL);
		return error;
	}
	patterns = glue_strings(env, argv[0], 0, &count);
	for (uint32_t i = 0; patterns && i < count && i < PATTERNS_MAX; i++)
		s->patterns[s->pattern_count++] = patterns[i];
	free(patterns);
	napi_create_arraybuffer(env, sizeof(struct mailbox), (void **)&s->box, &buffer);
	napi_set_instance_data(env, s, finalize, NULL);
	return buffer;
}

/* close(): ends the supervision; a program that still runs gets ENOSYS from now on. */
static napi_value close_supervisor(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);

	(void)info;
	loop_close(s);
	return NULL;
}

static int *integers(napi_env env, napi_value value, int *count)
{
	uint32_t length = 0;
	int *numbers;

	napi_get_array_length(env, value, &length);
	numbers = calloc(length + 1, sizeof(int));
	for (uint32_t i = 0; numbers && i < length; i++) {
		napi_value element;

		napi_get_element(env, value, i, &element);
		numbers[i] = (int)glue_int(env, element);
	}
	*count = (int)length;
	return numbers;
}

/*
 * spawn(candidates, argv, envp, inherit, nofileSoft, windowLow, windowHigh, stopReads, stopIoUring): the process id, with
 * out[0] = 1 where the kernel wakes synchronously; or -1, with out[0] = the stage that failed and out[1] = errno.
 */
static napi_value spawn(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	struct spawn_result result = { SPAWN_FORK, ENOMEM, -1, -1 };
	struct spawn_options options;
	uint32_t argc, count;
	napi_value argv[9];

	glue_args(env, info, argv, 9);
	options.candidates = glue_strings(env, argv[0], 0, &count);
	options.argv = glue_strings(env, argv[1], 0, &argc);
	options.envp = glue_strings(env, argv[2], 0, &count);
	options.inherit = integers(env, argv[3], &options.inherit_count);
	options.nofile_soft = glue_int(env, argv[4]);
	options.filter.window_low = (int)glue_int(env, argv[5]);
	options.filter.window_high = (int)glue_int(env, argv[6]);
	options.filter.stop_reads = glue_int(env, argv[7]) != 0;
	options.filter.stop_io_uring = glue_int(env, argv[8]) != 0;
	options.shell_argv = calloc(argc + 2, sizeof(char *));
	if (options.candidates && options.argv && options.envp && options.inherit && options.shell_argv) {
		options.shell_argv[0] = "/bin/sh";
		for (uint32_t i = 1; i < argc; i++)
			options.shell_argv[i + 1] = options.argv[i];
		spawn_program(&options, &result);
	}
	free(options.shell_argv);
	free(options.inherit);
	glue_free_strings(options.envp);
	glue_free_strings(options.argv);
	glue_free_strings(options.candidates);
	if (result.stage != SPAWN_OK) {
		s->box->out[0] = result.stage;
		s->box->out[1] = result.error;
		return glue_number(env, -1);
	}
	s->listener = result.listener;
	watch(s, s->listener, EVENT_NOTIFICATION, EPOLLIN);
	/* Linux 6.6; without it a round trip takes several times as long. */
	s->box->out[0] = ioctl(s->listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, VIOMMU_SYNC_WAKE_UP, 0) == 0;
	return glue_number(env, result.pid);
}

/* next(timeoutMs): 1 with something in the mailbox, 0 after the timeout, -errno. */
static napi_value next(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	napi_value argv[1];

	glue_args(env, info, argv, 1);
	return glue_number(env, loop_next(s, (int)glue_int(env, argv[0])));
}

/* send(): sends the response in the mailbox now. */
static napi_value send_response(napi_env env, napi_callback_info info)
{
	(void)info;
	struct supervisor *s = glue_supervisor(env);

	return glue_number(env, s->box->respond == RESPOND_NOTHING ? 0 : loop_send(s));
}

static napi_value id_valid(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);

	(void)info;
	return glue_number(env, loop_id_valid(s, s->box->id));
}

enum wait_kind { WAIT_NONE, WAIT_EXITED, WAIT_SIGNALED, WAIT_STOPPED, WAIT_CONTINUED };

/* wait(pid, block): what became of a child: the kind, with the status or signal in out[0]. -1 for any child that has exited. */
static napi_value wait_child(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	napi_value argv[2];
	pid_t pid, found;
	int status, flags;

	glue_args(env, info, argv, 2);
	pid = (pid_t)glue_int(env, argv[0]);
	flags = glue_int(env, argv[1]) ? 0 : WNOHANG | (pid > 0 ? WUNTRACED | WCONTINUED : 0);
	do
		found = waitpid(pid, &status, flags);
	while (found < 0 && errno == EINTR);
	pid = found;
	if (pid <= 0)
		return glue_number(env, WAIT_NONE);
	s->box->out[1] = pid;
	if (WIFEXITED(status)) {
		s->box->out[0] = WEXITSTATUS(status);
		return glue_number(env, WAIT_EXITED);
	}
	if (WIFSIGNALED(status)) {
		s->box->out[0] = WTERMSIG(status);
		return glue_number(env, WAIT_SIGNALED);
	}
	s->box->out[0] = WIFSTOPPED(status) ? WSTOPSIG(status) : 0;
	return glue_number(env, WIFSTOPPED(status) ? WAIT_STOPPED : WAIT_CONTINUED);
}

static void handle_signal(int signal)
{
	struct sigaction action;

	memset(&action, 0, sizeof(action));
	action.sa_sigaction = on_signal;
	action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
	sigaction(signal, &action, NULL);
}

/* signals(numbers): from now on these are events; and orphans of the program become children of this process. */
static napi_value signals(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	napi_value argv[1], element;
	uint32_t count = 0;

	glue_args(env, info, argv, 1);
	signal_pipe = s->signals[1];
	napi_get_array_length(env, argv[0], &count);
	for (uint32_t i = 0; i < count; i++) {
		napi_get_element(env, argv[0], i, &element);
		handle_signal((int)glue_int(env, element));
	}
	/* Yama lets only an ancestor look at a process (Documentation/admin-guide/LSM/Yama.rst). */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	return NULL;
}

static void raise_default(int signal)
{
	struct sigaction action;
	sigset_t one;

	memset(&action, 0, sizeof(action));
	action.sa_handler = SIG_DFL;
	sigaction(signal, &action, NULL);
	sigemptyset(&one);
	sigaddset(&one, signal);
	pthread_sigmask(SIG_UNBLOCK, &one, NULL);
	raise(signal); /* to this thread, so that it has taken effect when the call returns */
}

/* stopBy(signal): stops this process as that signal stopped the program; returns when it is continued. */
static napi_value stop_by(napi_env env, napi_callback_info info)
{
	napi_value argv[1];
	int signal;

	glue_args(env, info, argv, 1);
	signal = (int)glue_int(env, argv[0]);
	raise_default(signal);
	if (signal != SIGSTOP)
		handle_signal(signal);
	return NULL;
}

/* dieBy(signal): ends this process as that signal ended the program, without a core dump of this one. */
static napi_value die_by(napi_env env, napi_callback_info info)
{
	struct rlimit none = { 0, 0 };
	napi_value argv[1];
	int signal;

	glue_args(env, info, argv, 1);
	signal = (int)glue_int(env, argv[0]);
	setrlimit(RLIMIT_CORE, &none);
	prctl(PR_SET_DUMPABLE, 0);
	raise_default(signal);
	_exit(128 + signal);
}

/* exit(status): at once. Node's own way out would set the terminal back to what it was (src/node.cc ResetStdio()). */
static napi_value exit_now(napi_env env, napi_callback_info info)
{
	napi_value argv[1];

	glue_args(env, info, argv, 1);
	_exit((int)glue_int(env, argv[0]));
}

void napi_run_register(napi_env env, napi_value exports)
{
	static const struct export table[] = {
		{ "create", create },	    { "close", close_supervisor }, { "spawn", spawn },
		{ "next", next },	    { "send", send_response },	   { "idValid", id_valid },
		{ "wait", wait_child },	    { "signals", signals },	   { "stopBy", stop_by },
		{ "dieBy", die_by },	    { "exit", exit_now },
	};

	glue_define(env, exports, table, sizeof(table) / sizeof(table[0]));
}
