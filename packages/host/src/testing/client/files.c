/* Scenes of files: opening, closing, passing on, reading, mapping. */
#include "client.h"

static int scene_open(char **argv)
{
	struct {
		uint64_t flags, mode, resolve;
	} how = { O_RDWR, 0, 0 };
	int dev = open("/dev", O_RDONLY | O_DIRECTORY), fd = open_iommu();
	char link[64];

	use("open", fd);
#ifdef __NR_open
	use("open(2)", syscall(__NR_open, "/dev/iommu", O_RDWR));
#endif
	use("openat", openat(AT_FDCWD, "/dev/iommu", O_RDWR | O_CLOEXEC));
	use("openat-dirfd", openat(dev, "iommu", O_RDWR));
	use("openat2", syscall(__NR_openat2, AT_FDCWD, "/dev/iommu", &how, sizeof(how)));
	use("folded", open("/usr/../dev//./iommu", O_RDWR));
	use("symlink", open(argv[0], O_RDWR));
	use("symlink-nofollow", open(argv[0], O_RDWR | O_NOFOLLOW));
	use("relative-symlink", open(argv[1], O_RDWR));
	use("read-only", open("/dev/iommu", O_RDONLY));
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	use("proc-self-fd", open(link, O_RDWR));
	snprintf(link, sizeof(link), "/dev/fd/%d", fd);
	use("dev-fd", open(link, O_RDWR));
	say("files", count(fd));
	if (chdir("/dev/shm"))
		say_errno("chdir", -1);
	use("relative", open("../iommu", O_RDWR));
	use("directory", open("/dev/iommu", O_RDWR | O_DIRECTORY));
	use("exclusive", open("/dev/iommu", O_RDWR | O_CREAT | O_EXCL, 0600));
	use("not-ours", open("/dev/iommuu", O_RDWR));
	return 0;
}

static void say_stat(const char *way, int result, mode_t mode, unsigned major, unsigned minor, uint64_t inode)
{
	if (result)
		printf("%s %s\n", way, strerrorname_np(errno));
	else
		printf("%s %o %u:%u %s\n", way, mode, major, minor, inode ? "inode" : "no inode");
}

static int scene_stat(char **argv)
{
	int fd = open_iommu(), high = fcntl(fd, F_DUPFD, 500), pair[2];
	struct request request = { { 0 } };
	struct statx stx;
	struct stat st;
	int result;
	char name[80], target[80];
	ssize_t length;

	(void)argv;
#define SAY_STAT(way, call) (result = (call), say_stat(way, result, st.st_mode, major(st.st_rdev), minor(st.st_rdev), st.st_ino))
#define SAY_STATX(way, call) \
	(result = (call), say_stat(way, result, stx.stx_mode, stx.stx_rdev_major, stx.stx_rdev_minor, stx.stx_ino))
	SAY_STAT("stat", stat("/dev/iommu", &st));
	SAY_STAT("lstat", lstat("/dev/iommu", &st));
	SAY_STAT("fstat", fstat(fd, &st));
	SAY_STAT("fstat(2)", syscall(__NR_fstat, fd, &st));
	SAY_STAT("fstat-high", fstat(high, &st));
	SAY_STAT("fstatat", fstatat(AT_FDCWD, "/dev/iommu", &st, 0));
	SAY_STATX("statx", statx(AT_FDCWD, "/dev/iommu", 0, STATX_BASIC_STATS, &stx));
	SAY_STATX("statx-fd", statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &stx));
	SAY_STAT("vfio", stat("/dev/vfio/vfio", &st));
	SAY_STAT("vfio-directory", stat("/dev/vfio/devices", &st));
	SAY_STAT("bad-address", stat("/dev/iommu", (struct stat *)8));
	ask(fd, ACCESS, &request);
	SAY_STAT("anonymous", fstat(request.word[1], &st));
	if (pipe(pair) == 0)
		SAY_STAT("pipe", fstat(pair[0], &st));
	SAY_STAT("closed", fstat(77, &st));
	say_errno("access", access("/dev/iommu", R_OK | W_OK));
	say_errno("access-x", access("/dev/iommu", X_OK));
	say_errno("faccessat", faccessat(AT_FDCWD, "/dev/iommu", F_OK, 0));
	say_errno("faccessat2", syscall(__NR_faccessat2, AT_FDCWD, "/dev/iommu", R_OK, 0));
	say_errno("readlink", readlink("/dev/iommu", name, sizeof(name)));
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	length = readlink(name, target, sizeof(target));
	printf("link %.*s\n", (int)length, target);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", (int)request.word[1]);
	length = readlink(name, target, sizeof(target));
	printf("link %.*s\n", (int)length, target);
	return 0;
}

static int send_fd(int socket, int fd)
{
	char byte = 0, control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	return sendmsg(socket, &msg, 0);
}

static int receive_fd(int socket)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	int fd;

	if (recvmsg(socket, &msg, 0) != 1 || !CMSG_FIRSTHDR(&msg))
		return -1;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

/* Each line: what was done, then how many files are open (1 is the file that is asked by). */
static int scene_lifetime(char **argv)
{
	int asker = open_iommu(), fd, other, pair[2], status;
	pid_t pid;

	(void)argv;
	fd = open_iommu();
	say("opened", count(asker));
	close(fd);
	say("closed", count(asker));

	fd = open_iommu();
	other = dup(fd);
	close(fd);
	say("dup", count(asker));
	use("dup-use", other);
	dup2(asker, other);
	say("dup2-over", count(asker));
	close(other);

	fd = open_iommu();
	other = fcntl(fd, F_DUPFD_CLOEXEC, 100);
	dup3(fd, 200, O_CLOEXEC);
	close(fd);
	close(other);
	use("dup3-use", 200);
	say("dup3", count(asker));
	syscall(__NR_close_range, 100, 300, 0);
	say("close_range", count(asker));

	socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
	fd = open_iommu();
	send_fd(pair[0], fd);
	close(fd);
	say("in-flight", count(asker));
	other = receive_fd(pair[1]);
	use("received-use", other);
	close(other);
	say("received-closed", count(asker));
	fd = open_iommu();
	send_fd(pair[0], fd);
	close(fd);
	close(pair[0]);
	close(pair[1]);
	say("lost-in-flight", count(asker));

	fd = open_iommu();
	pid = fork();
	if (pid == 0) {
		use("child-use", fd);
		pause();
	}
	close(fd);
	usleep(20000);
	say("forked", count(asker));
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	say("killed", count(asker));

	fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	pid = vfork();
	if (pid == 0) {
		execl("/bin/true", "true", NULL);
		_exit(1);
	}
	waitpid(pid, &status, 0);
	close(fd);
	say("vforked", count(asker));

	fd = open_iommu();
	void *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	say("mapped-byte", *(char *)map);
	close(fd);
	say("mapped", count(asker));
	munmap(map, 4096);
	say("unmapped", count(asker));
	return 0;
}

static void *thread_use(void *argument)
{
	int fd = *(int *)argument;

	use("thread", fd);
	use("thread-open", open_iommu());
	return NULL;
}

static int scene_threads(char **argv)
{
	int fd = open_iommu();
	pthread_t thread;

	(void)argv;
	for (int i = 0; i < 3; i++) {
		pthread_create(&thread, NULL, thread_use, &fd);
		pthread_join(thread, NULL);
	}
	say("files", count(fd));
	return 0;
}

static int scene_many_opens(char **argv)
{
	int times = atoi(argv[0]), asker = open_iommu();

	for (int i = 0; i < times; i++) {
		int fd = open_iommu();

		if (alloc(fd) <= 0 || close(fd)) {
			say("failed-at", i);
			return 1;
		}
	}
	say("files", count(asker));
	return 0;
}

static int scene_many_children(char **argv)
{
	int children = atoi(argv[0]), fd = open_iommu(), pair[2], good = 0;

	for (int i = 0; i < children; i++) {
		pid_t pid;
		int status, received;

		socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
		pid = fork();
		if (pid == 0) {
			int own = open_iommu();

			_exit(!(alloc(fd) > 0 && alloc(own) > 0 && send_fd(pair[1], own) == 1));
		}
		received = receive_fd(pair[0]);
		waitpid(pid, &status, 0);
		good += status == 0 && alloc(received) > 0;
		close(received);
		close(pair[0]);
		close(pair[1]);
	}
	say("good", good);
	say("files", count(fd));
	return 0;
}

static volatile int shared_fd, stop_now;

static void *hammer(void *argument)
{
	long calls = 0;

	(void)argument;
	while (!stop_now) {
		int id = alloc(shared_fd);

		if (id <= 0 && errno != EBADF && errno != ENOTTY)
			printf("unexpected %s\n", strerrorname_np(errno));
		calls++;
	}
	return (void *)calls;
}

/* One thread calls on a descriptor that another one closes and opens again. */
static int scene_close_race(char **argv)
{
	int asker = open_iommu();
	pthread_t thread;
	void *calls;

	(void)argv;
	shared_fd = open_iommu();
	pthread_create(&thread, NULL, hammer, NULL);
	for (int i = 0; i < 2000; i++) {
		int now = shared_fd, again;

		close(now);
		again = open_iommu();
		if (again != now && dup2(again, now) >= 0)
			close(again);
	}
	stop_now = 1;
	pthread_join(thread, &calls);
	close(shared_fd);
	say("calls", (long)calls > 0);
	say("files", count(asker));
	return 0;
}

static int scene_foreign(char **argv)
{
	int fd = open_iommu(), null = open("/dev/null", O_RDWR), pair[2];

	(void)argv;
	say_errno("null", alloc(null));
	say_errno("closed", alloc(99));
	if (pipe(pair) == 0)
		say_errno("pipe", alloc(pair[0]));
	dup2(null, fd);
	say_errno("replaced", alloc(fd));
	return 0;
}

static int scene_events(char **argv)
{
	struct request request = { { 0 } };
	struct pollfd ready = { 0 };
	int fd = open_iommu(), queue, copy;
	struct iovec iov[2];
	char buffer[64], *volatile nowhere = (char *)8;

	(void)argv;
	ask(fd, EVENT_QUEUE, &request);
	queue = request.word[1];
	say("number", queue);
	ready.fd = queue;
	ready.events = POLLIN | POLLOUT;
	say("poll-empty", (poll(&ready, 1, 0), ready.revents));
	say("read-empty", read(queue, buffer, 8));
	say_errno("read-odd", read(queue, buffer, 7));
	request.word[1] = 3;
	ask(fd, EVENTS, &request);
	say("poll", (poll(&ready, 1, 0), ready.revents));
	say("read", read(queue, buffer, 4));
	say("byte", (unsigned char)buffer[0]);
	say("poll", (poll(&ready, 1, 0), ready.revents));
	copy = dup2(queue, queue + 1);
	say("read-copy", read(copy, buffer, 64));
	say("poll", (poll(&ready, 1, 0), ready.revents));
	say("write", write(queue, buffer, 8));
	say_errno("write-odd", write(queue, buffer, 3));
	request.word[1] = 2;
	ask(fd, EVENTS, &request);
	iov[0] = (struct iovec){ buffer, 4 };
	iov[1] = (struct iovec){ buffer + 8, 40 };
	say("readv", readv(queue, iov, 2));
	request.word[1] = 1;
	ask(fd, EVENTS, &request);
	request.word[1] = 0;
	request.word[2] = 1;
	ask(fd, EVENTS, &request);
	request.word[2] = 0;
	say("poll-taken-back", (poll(&ready, 1, 0), ready.revents));
	say_errno("read-bad-address", (request.word[1] = 1, ask(fd, EVENTS, &request), read(queue, nowhere, 4)));
	say_errno("pread", pread(queue, buffer, 4, 8));
	say_errno("pread-start", pread(queue, buffer, 4, 0));
	say_errno("lseek", lseek(queue, 0, SEEK_SET));
	say("close-on-exec", fcntl(queue, F_GETFD));
	close(queue);
	say("files", count(fd));
	close(copy);
	say("files", count(fd));
	return 0;
}

static int scene_event_copies(char **argv)
{
	struct request request = { { 0 } };
	int fd = open_iommu(), queue, copy;
	char buffer[8];

	(void)argv;
	ask(fd, EVENT_QUEUE, &request);
	queue = request.word[1];
	request.word[1] = 3;
	ask(fd, EVENTS, &request);
	say("dup", copy = dup(queue));
	say("close-on-exec", fcntl(copy, F_GETFD));
	say("read", read(copy, buffer, 4));
	say("F_DUPFD", copy = fcntl(queue, F_DUPFD, 10));
	say("read", read(copy, buffer, 4));
	say("F_DUPFD_CLOEXEC", copy = fcntl(copy, F_DUPFD_CLOEXEC, 800));
	say("close-on-exec", fcntl(copy, F_GETFD));
	say("read", read(copy, buffer, 4));
	say("read-empty", read(copy, buffer, 4));
	say_errno("beyond", fcntl(queue, F_DUPFD, 5000));
	say("others", dup(fd));
	say("others-high", fcntl(fd, F_DUPFD, 900));
	say("files", count(fd));
	close_range(768, 1023, 0);
	say("files", count(fd));
	return 0;
}

static int scene_no_room(char **argv)
{
	struct request request = { { 0 } };
	struct rlimit limit = { 64, 64 };
	int fd = open_iommu();

	(void)argv;
	setrlimit(RLIMIT_NOFILE, &limit);
	say_errno("window", ask(fd, EVENT_QUEUE, &request));
	while (dup(fd) >= 0)
		;
	say_errno("open", open("/dev/iommu", O_RDWR));
	say_errno("access", ask(fd, ACCESS, &request));
	close(fd + 1);
	say_errno("access", ask(fd, ACCESS, &request));
	say("number", request.word[1]);
	say("files", count(fd));
	return 0;
}

static int scene_events_only_come(char **argv)
{
	struct request request = { { 0, 1 } };
	struct pollfd ready = { 0 };
	int fd = open_iommu();
	char buffer[4];

	(void)argv;
	ask(fd, EVENT_QUEUE, &request);
	ready.fd = request.word[1];
	ready.events = POLLIN | POLLOUT;
	say("poll-empty", (poll(&ready, 1, 0), ready.revents));
	request.word[1] = 1;
	ask(fd, EVENTS, &request);
	say("poll", (poll(&ready, 1, 0), ready.revents));
	say("read", read(ready.fd, buffer, 4));
	close(ready.fd);
	say("files", count(fd));
	return 0;
}

/* poll(2) is woken by an event that another thread brings about. */
static void *bring_event(void *argument)
{
	struct request request = { { 0, 1 } };

	usleep(50000);
	ask(*(int *)argument, EVENTS, &request);
	return NULL;
}

static int scene_poll_wakes(char **argv)
{
	struct request request = { { 0 } };
	int fd = open_iommu();
	pthread_t thread;

	(void)argv;
	ask(fd, EVENT_QUEUE, &request);
	struct pollfd ready = { request.word[1], POLLIN, 0 };

	pthread_create(&thread, NULL, bring_event, &fd);
	say("woken", poll(&ready, 1, 10000));
	pthread_join(thread, NULL);
	return 0;
}

static int scene_backing(char **argv)
{
	struct request request = { { 0, 4096 } };
	int fd = open_iommu();
	char *va;
	pid_t pid;

	(void)argv;
	say_errno("private", (long)mmap(NULL, 4096, PROT_READ, MAP_SHARED, open("/dev/iommu", O_RDWR), 100));
	ask(fd, BACKING, &request);
	say("before", request.word[1]);
	va = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096);
	say("byte", va[0]);
	va[0] = 'w';
	request.word[1] = 4096;
	ask(fd, BACKING, &request);
	say("mapped", request.word[1]);
	say("written", request.word[2]);
	pid = fork();
	if (pid == 0)
		pause();
	munmap(va, 4096);
	request.word[1] = 4096;
	ask(fd, BACKING, &request);
	say("mapped-by-child", request.word[1]);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	request.word[1] = 4096;
	ask(fd, BACKING, &request);
	say("unmapped", request.word[1]);
	return 0;
}

static int scene_fail_nth(char **argv)
{
	int fd = open_iommu(), nth, proc;
	struct request request = { { 0 } };
	char buffer[20] = { 0 }, path[60];

	(void)argv;
	snprintf(path, sizeof(path), "/proc/self/task/%d/fail-nth", getpid());
	nth = open(path, O_RDWR);
	say_errno("open", nth);
	say("pread", pread(nth, buffer, sizeof(buffer), 0));
	fputs(buffer, stdout);
	say("pwrite", pwrite(nth, "2", 1, 0));
	say_errno("first", ask(fd, FAILPOINT, &request));
	pread(nth, buffer, sizeof(buffer), 0);
	fputs(buffer, stdout);
	say_errno("second", ask(fd, FAILPOINT, &request));
	pread(nth, buffer, sizeof(buffer), 0);
	fputs(buffer, stdout);
	say_errno("third", ask(fd, FAILPOINT, &request));
	say_errno("bad", pwrite(nth, "x", 1, 0));
	say_errno("large", pwrite(nth, "4294967296", 10, 0));
	say("write", write(nth, "0x10\n", 5));
	say("seek", lseek(nth, 0, SEEK_SET));
	say("read", read(nth, buffer, sizeof(buffer)));
	say("read-end", read(nth, buffer, sizeof(buffer)));
	fputs(buffer, stdout);
	pwrite(nth, "0", 1, 0);
	proc = open("/proc/self", O_RDONLY | O_DIRECTORY);
	snprintf(path, sizeof(path), "task/%d/fail-nth", getpid());
	say_errno("openat", openat(proc, path, O_RDWR));
	say_errno("thread-self", open("/proc/thread-self/fail-nth", O_RDWR));
	say_errno("access", access("/proc/self/fail-nth", R_OK | W_OK));
	return 0;
}

static int scene_debugfs(char **argv)
{
	int directory = open("/sys/kernel/debug/", O_RDONLY | O_DIRECTORY), fd;
	char buffer[20] = { 0 };

	(void)argv;
	say_errno("directory", directory);
	fd = openat(directory, "failslab/ignore-gfp-wait", O_WRONLY);
	say_errno("openat", fd);
	say("write", write(fd, "N", 1));
	close(fd);
	fd = open("/sys/kernel/debug/failslab/ignore-gfp-wait", O_RDONLY);
	say("read", read(fd, buffer, sizeof(buffer)));
	puts(buffer);
	say_errno("none", openat(directory, "failslab/nonsense", O_WRONLY));
	say_errno("iommufd", access("/sys/kernel/debug/fail_iommufd/verbose", W_OK));
	return 0;
}

const struct scene file_scenes[] = {
	{ "open", scene_open },
	{ "stat", scene_stat },
	{ "lifetime", scene_lifetime },
	{ "threads", scene_threads },
	{ "many-opens", scene_many_opens },
	{ "many-children", scene_many_children },
	{ "close-race", scene_close_race },
	{ "foreign", scene_foreign },
	{ "events", scene_events },
	{ "event-copies", scene_event_copies },
	{ "no-room", scene_no_room },
	{ "events-only-come", scene_events_only_come },
	{ "poll-wakes", scene_poll_wakes },
	{ "backing", scene_backing },
	{ "fail-nth", scene_fail_nth },
	{ "debugfs", scene_debugfs },
	{ NULL, NULL },
};
