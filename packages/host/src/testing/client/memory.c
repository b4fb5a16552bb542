/* Scenes of memory: whose it is, what it is made of, how long it lasts. */
#include "client.h"

/* client exec FD: what a program finds that was executed with a descriptor open. Without FD it executes itself. */
static int scene_exec(char **argv)
{
	struct request before = { { 0 } }, after = { { 0 } };
	char number[16], id[24], byte[24];
	static char kept = 'k';
	int fd;

	if (argv[0]) {
		fd = atoi(argv[0]);
		use("executed-use", fd);
		ask(fd, WHO, &after);
		say("same-memory", after.word[4] == strtoull(argv[1], NULL, 10));
		say_errno("recall", ask(fd, RECALL, &after));
		say("files", count(fd));
		return 0;
	}
	fd = open_iommu();
	open("/dev/iommu", O_RDWR | O_CLOEXEC);
	say("files", count(fd));
	ask(fd, WHO, &before);
	before.word[1] = (uintptr_t)&kept;
	ask(fd, KEEP, &before);
	execl("/nonexistent", "nonexistent", NULL);
	after.word[1] = 0;
	ask(fd, WHO, &after);
	say("failed-exec-same-memory", after.word[4] == before.word[4]);
	say_errno("recall", ask(fd, RECALL, &after));
	snprintf(byte, sizeof(byte), "byte %c", (char)after.word[1]);
	puts(byte);
	fflush(stdout);
	snprintf(number, sizeof(number), "%d", fd);
	snprintf(id, sizeof(id), "%llu", (unsigned long long)before.word[4]);
	execl("/proc/self/exe", "client", "exec", number, id, NULL);
	return 1;
}

/* vfork() shares the memory until the child executes another program. */
static int scene_vfork(char **argv)
{
	struct request mine = { { 0 } }, child = { { 0 } };
	char number[16], id[24];
	int fd = open_iommu(), status;
	pid_t pid;

	(void)argv;
	ask(fd, WHO, &mine);
	snprintf(number, sizeof(number), "%d", fd);
	snprintf(id, sizeof(id), "%llu", (unsigned long long)mine.word[4]);
	pid = vfork();
	if (pid == 0) {
		ask(fd, WHO, &child);
		execl("/proc/self/exe", "client", "exec", number, id, NULL);
		_exit(1);
	}
	waitpid(pid, &status, 0);
	say("vfork-same-memory", mine.word[4] == child.word[4]);
	pid = fork();
	if (pid == 0) {
		ask(fd, WHO, &child);
		_exit(mine.word[4] == child.word[4]);
	}
	waitpid(pid, &status, 0);
	say("fork-same-memory", WEXITSTATUS(status));
	return 0;
}

static void say_mapping(int fd, const char *what, void *va)
{
	struct request request = { { 0, (uintptr_t)va } };

	if (ask(fd, MAPPING, &request))
		printf("%s %s\n", what, strerrorname_np(errno));
	else
		printf("%s%s%s%s%s %llu\n", what, request.word[2] ? " shared" : "", request.word[3] ? " pinnable" : "",
		       request.word[5] ? " memfd" : "", request.word[6] ? " writable" : "",
		       (unsigned long long)request.word[4]);
	fflush(stdout);
}

static int scene_mappings(char **argv)
{
	int fd = open_iommu(), memfd = memfd_create("buffer", 0), exe = open("/proc/self/exe", O_RDONLY);
	int shm = open("/dev/shm", O_TMPFILE | O_RDWR, 0600);
	void *va;

	(void)argv;
	if (ftruncate(memfd, 8192) || ftruncate(shm, 8192))
		return 1;
#define MAP(prot, flags, fd) mmap(NULL, 8192, prot, flags, fd, 0)
	say_mapping(fd, "stack", &va);
	say_mapping(fd, "private", MAP(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1));
	say_mapping(fd, "anonymous", MAP(PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1));
	say_mapping(fd, "memfd", MAP(PROT_READ | PROT_WRITE, MAP_SHARED, memfd));
	say_mapping(fd, "tmpfs", MAP(PROT_READ | PROT_WRITE, MAP_SHARED, shm));
	say_mapping(fd, "file", MAP(PROT_READ, MAP_PRIVATE, exe));
	say_mapping(fd, "read-only", MAP(PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1));
	say_mapping(fd, "placeholder", mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 4096));
	say_mapping(fd, "hole", (void *)4096);
	va = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (va == MAP_FAILED)
		puts("hugetlb none");
	else
		say_mapping(fd, "hugetlb", va);
	return 0;
}

/* client shared KIND: memory that is kept, unmapped, and looked at again; then the same of a child that has gone. */
static int scene_shared(char **argv)
{
	int fd = open_iommu(), memfd = -1, flags = MAP_SHARED | MAP_ANONYMOUS, status;
	struct request request = { { 0 } };
	char *va;
	pid_t pid;

	if (!strcmp(argv[0], "memfd")) {
		memfd = memfd_create("buffer", 0);
		flags = MAP_SHARED;
		if (ftruncate(memfd, 8192))
			return 1;
	} else if (!strcmp(argv[0], "private")) {
		flags = MAP_PRIVATE | MAP_ANONYMOUS;
	}
	va = mmap(NULL, 8192, PROT_READ | PROT_WRITE, flags, memfd, 0);
	va[4100] = 'm';
	request.word[1] = (uintptr_t)va + 4100;
	say_errno("keep", ask(fd, KEEP, &request));
	request.word[2] = 's';
	say_errno("store", ask(fd, STORE, &request));
	say("stored", va[4100]);
	va[4100] = 'n';
	close(memfd);
	munmap(va, 8192);
	say_errno("recall-unmapped", ask(fd, RECALL, &request));
	say("recalled", request.word[1]);
	pid = fork();
	if (pid == 0) {
		memfd = flags == MAP_SHARED ? memfd_create("buffer", 0) : -1;
		if (memfd >= 0 && ftruncate(memfd, 8192))
			_exit(1);
		va = mmap(NULL, 8192, PROT_READ | PROT_WRITE, flags, memfd, 0);
		va[5] = 'c';
		request.word[1] = (uintptr_t)va + 5;
		ask(fd, KEEP, &request);
		ask(fd, RECALL, &request);
		_exit(request.word[1]);
	}
	waitpid(pid, &status, 0);
	say("child-recalled", WEXITSTATUS(status));
	request.word[1] = 0;
	say_errno("recall-gone", ask(fd, RECALL, &request));
	say("recalled", request.word[1]);
	return 0;
}

static long kind(int fd, int of)
{
	struct request request = { { 0, of } };

	return ask(fd, FILE_OF, &request) ? -1 : (long)request.word[2];
}

static int scene_files(char **argv)
{
	int fd = open_iommu(), pair[2];

	(void)argv;
	say("closed", kind(fd, 99));
	say("ours", kind(fd, dup(fd)));
	say("tmpfs", kind(fd, open("/dev/shm", O_TMPFILE | O_RDWR, 0600)));
	say("memfd", kind(fd, memfd_create("buffer", 0)));
	say("null", kind(fd, open("/dev/null", O_RDWR)));
	if (pipe(pair) == 0)
		say("pipe", kind(fd, pair[1]));
	return 0;
}

static int scene_memory(char **argv)
{
	static char from[100000], to[100000];
	int fd = open_iommu();
	char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct request *edge, request = { { 0 } };

	(void)argv;
	for (size_t i = 0; i < sizeof(from); i++)
		from[i] = i * 7;
	request = (struct request){ { 0, (uintptr_t)from, sizeof(from), (uintptr_t)to } };
	say_errno("copy", ask(fd, COPY, &request));
	say("equal", !memcmp(from, to, sizeof(to)));
	request.word[1] = 8;
	say_errno("bad-source", ask(fd, COPY, &request));
	request.word[1] = (uintptr_t)from;
	request.word[3] = (uintptr_t)page;
	request.word[2] = 4096;
	mprotect(page, 4096, PROT_READ);
	say_errno("read-only-target", ask(fd, COPY, &request));
	munmap(page + 4096, 4096);
	mprotect(page, 4096, PROT_READ | PROT_WRITE);
	edge = (struct request *)(page + 4096 - sizeof(*edge));
	say_errno("struct-before-hole", ask(fd, COUNT, edge));
	say_errno("struct-over-hole", ask(fd, COUNT, (struct request *)(page + 4096 - 8)));
	mprotect(page, 4096, PROT_READ);
	say_errno("struct-read-only", ask(fd, COUNT, edge));
	mprotect(page, 4096, PROT_NONE);
	say_errno("struct-no-access", ask(fd, COUNT, edge));
	return 0;
}

const struct scene memory_scenes[] = {
	{ "exec", scene_exec },
	{ "vfork", scene_vfork },
	{ "mappings", scene_mappings },
	{ "shared", scene_shared },
	{ "files", scene_files },
	{ "memory", scene_memory },
	{ NULL, NULL },
};
