#include "client.h"

int ask(int fd, enum nr nr, struct request *request)
{
	return ioctl(fd, 0x3b00 | nr, request);
}

int open_iommu(void)
{
	int fd = open("/dev/iommu", O_RDWR);

	if (fd < 0) {
		printf("open: %s\n", strerror(errno));
		exit(1);
	}
	return fd;
}

int alloc(int fd)
{
	struct {
		uint32_t size, flags, id;
	} alloc = { sizeof(alloc), 0, 0 };

	return ioctl(fd, 0x3b81, &alloc) ? -1 : (int)alloc.id;
}

long count(int fd)
{
	struct request request = { { 0 } };

	return ask(fd, COUNT, &request) ? -1 : (long)request.word[1];
}

void say(const char *what, long value)
{
	printf("%s %ld\n", what, value);
	fflush(stdout);
}

void say_errno(const char *what, long result)
{
	printf("%s %s\n", what, result < 0 ? strerrorname_np(errno) : "ok");
	fflush(stdout);
}

void use(const char *way, int fd)
{
	if (fd < 0)
		printf("%s %s\n", way, strerrorname_np(errno));
	else
		printf("%s %s\n", way, alloc(fd) > 0 ? "works" : strerrorname_np(errno));
	fflush(stdout);
}

static int play(const struct scene *scenes, char **argv)
{
	for (; scenes->name; scenes++)
		if (!strcmp(argv[1], scenes->name))
			return scenes->play(argv + 2);
	return -1;
}

int main(int argc, char **argv)
{
	const struct scene *all[] = { file_scenes, memory_scenes, path_scenes, process_scenes };

	for (size_t i = 0; argc > 1 && i < sizeof(all) / sizeof(all[0]); i++) {
		int status = play(all[i], argv);

		if (status >= 0)
			return status;
	}
	return 64;
}
