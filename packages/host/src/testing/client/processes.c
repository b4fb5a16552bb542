/* Scenes of processes: who they are, how they end, what they inherit. */
#include "client.h"

static int scene_who(char **argv)
{
	struct request request = { { 0 } };
	struct rlimit limit = { 1 << 20, 1 << 20 };
	int fd = open_iommu();

	(void)argv;
	setrlimit(RLIMIT_MEMLOCK, &limit);
	ask(fd, WHO, &request);
	say("uid", request.word[1] == getuid());
	say("ipc-lock", request.word[2]);
	say("memlock", request.word[3]);
	say("pid", request.word[5] == (uint64_t)getpid());
	if (getuid() == 0 && setuid(65534) == 0) {
		ask(fd, WHO, &request);
		say("uid-after", request.word[1]);
		say("ipc-lock-after", request.word[2]);
	}
	return 0;
}

static void say_status(const char *path)
{
	char line[200];
	FILE *file = fopen(path, "r");

	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, "VmLck", 5) || !strncmp(line, "VmPin", 5))
			fputs(line, stdout);
	if (file)
		fclose(file);
}

static int scene_status(char **argv)
{
	struct request request = { { 0, 3, 5 } };
	int fd = open_iommu();
	char path[40];

	(void)argv;
	say_status("/proc/self/status");
	ask(fd, CHARGE, &request);
	say_status("/proc/self/status");
	snprintf(path, sizeof(path), "/proc/%d/status", getpid());
	say_status(path);
	say_status("/proc/thread-self/status");
	return 0;
}

static int scene_sleep(char **argv)
{
	int fd = open_iommu();

	(void)argv;
	say("pid", getpid());
	while (alloc(fd) > 0)
		usleep(1000);
	return 3;
}

static volatile sig_atomic_t got;

static void on_signal(int signal)
{
	got++;
	say("signal", signal);
}

static int scene_signals(char **argv)
{
	static const int all[] = { SIGHUP, SIGTERM, SIGUSR1, SIGUSR2, SIGINT, SIGWINCH };
	int fd = open_iommu();

	(void)argv;
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		signal(all[i], on_signal);
	say("ready", getpid());
	while (got < 6) {
		usleep(1000);
		alloc(fd);
	}
	return 42;
}

static int scene_inherited(char **argv)
{
	sigset_t mask;
	struct sigaction action;
	struct rlimit limit;
	char buffer[100];
	int ignored = 0, blocked = 0;
	ssize_t got;

	(void)argv;
	sigprocmask(SIG_BLOCK, NULL, &mask);
	for (int signal = 1; signal < 32; signal++) {
		sigaction(signal, NULL, &action);
		ignored += action.sa_handler == SIG_IGN;
		blocked += sigismember(&mask, signal) == 1;
	}
	say("ignored", ignored);
	say("blocked", blocked);
	getrlimit(RLIMIT_NOFILE, &limit);
	say("descriptors", limit.rlim_cur);
	for (int fd = 3; fd < 1000; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			say("open", fd);
	while ((got = read(0, buffer, sizeof(buffer))) > 0)
		if (write(1, buffer, got) < 0)
			return 1;
	return 0;
}

/* Nothing of this is ours; the supervisor tells how many calls reached it. */
static int scene_ordinary(char **argv)
{
	struct stat st;
	int fd;

	for (int i = 0; i < atoi(argv[0]); i++) {
		fd = open("/etc/passwd", O_RDONLY);
		fstat(fd, &st);
		close(fd);
		stat("/usr/bin", &st);
		access("/etc/hosts", R_OK);
	}
	return 0;
}

static int scene_crash(char **argv)
{
	int signal = atoi(argv[0]);

	open_iommu();
	kill(getpid(), signal);
	pause();
	return 0;
}

static int scene_background(char **argv)
{
	int fd = open_iommu();

	(void)argv;
	if (fork() == 0) {
		usleep(200000);
		use("background", fd);
		_exit(9);
	}
	say("program", getpid());
	return 5;
}

/* A child that goes on when the supervisor is gone. */
static int scene_orphan(char **argv)
{
	int fd = open_iommu();

	(void)argv;
	if (fork() == 0) {
		while (alloc(fd) > 0)
			usleep(1000);
		say_errno("orphan", -1);
		_exit(0);
	}
	say("pid", getpid());
	pause();
	return 0;
}

/* client deny PROGRAM ARGS...: runs the program as a container's filter would that keeps some calls for CAP_SYS_PTRACE. */
static int scene_deny(char **argv)
{
	static const int denied[] = { __NR_process_vm_readv, __NR_process_vm_writev, __NR_kcmp, __NR_pidfd_getfd };
	struct sock_filter code[2 + 2 * 4] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	};
	struct sock_fprog program = { 10, code };

	for (int i = 0; i < 4; i++) {
		code[1 + 2 * i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, denied[i], 0, 1);
		code[2 + 2 * i] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
	}
	code[9] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		return 1;
	execvp(argv[0], argv);
	return 1;
}

static long add_filter(uint32_t ioctls, unsigned int flags)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_ioctl, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, ioctls),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { 4, code };

	return syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

/* A program that puts itself behind filters: what it lets pass still reaches us, what it refuses does not. */
static int scene_sandbox(char **argv)
{
	int fd = open_iommu();

	(void)argv;
	say_errno("filter", add_filter(SECCOMP_RET_ALLOW, SECCOMP_FILTER_FLAG_TSYNC));
	use("allowed", fd);
	say_errno("listener", add_filter(SECCOMP_RET_ALLOW, SECCOMP_FILTER_FLAG_NEW_LISTENER));
	say_errno("refusal", add_filter(SECCOMP_RET_ERRNO | EPERM, 0));
	use("refused", fd);
	return 0;
}

/* A daemon closes what it inherited, and opens what it needs. */
static int scene_closing(char **argv)
{
	(void)argv;
	open_iommu();
	say_errno("close_range", syscall(__NR_close_range, 3, ~0u, 0));
	use("again", open_iommu());
	for (int fd = 0; fd < 1024; fd++)
		if (fd != 1)
			close(fd);
	use("as-0", open_iommu());
	return 0;
}

static int scene_uring(char **argv)
{
	/* struct io_uring_params */
	uint32_t params[30] = { 0 };

	(void)argv;
	say_errno("io_uring", syscall(__NR_io_uring_setup, 1, params));
	return 0;
}

const struct scene process_scenes[] = {
	{ "who", scene_who },
	{ "status", scene_status },
	{ "sleep", scene_sleep },
	{ "signals", scene_signals },
	{ "inherited", scene_inherited },
	{ "ordinary", scene_ordinary },
	{ "crash", scene_crash },
	{ "background", scene_background },
	{ "orphan", scene_orphan },
	{ "deny", scene_deny },
	{ "sandbox", scene_sandbox },
	{ "closing", scene_closing },
	{ "uring", scene_uring },
	{ NULL, NULL },
};
