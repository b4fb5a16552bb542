/* What Linux says of paths and flags that few programs use. */
#include "client.h"

#include <linux/openat2.h>

static int open_how(int dirfd, const char *path, uint64_t flags, uint64_t resolve)
{
	struct open_how how = { .flags = flags, .resolve = resolve };

	return syscall(__NR_openat2, dirfd, path, &how, sizeof(how));
}

/* The first argument is a directory to make links in. */
static int scene_linked_paths(char **argv)
{
	int dev = open("/dev", O_PATH | O_DIRECTORY), directory;
	struct stat st;

	use("root", open("/proc/self/root/dev/iommu", O_RDWR));
	if (chdir("/dev"))
		return 1;
	use("cwd", open("/proc/self/cwd/iommu", O_RDWR));
	if (chdir(argv[0]) || symlink("/dev", "to-dev") || symlink("to-dev/iommu", "through-dev") ||
	    symlink("/dev/vfio", "to-vfio"))
		return 1;
	use("directory-link", open("to-dev/iommu", O_RDWR));
	use("link-through-link", open("through-dev", O_RDWR));
	say_errno("stat", stat("to-dev/iommu", &st));
	say_errno("lstat", lstat("to-dev/iommu", &st));
	say("device", S_ISCHR(st.st_mode));
	say_errno("lstat-link", lstat("through-dev", &st));
	say("link", S_ISLNK(st.st_mode));
	say_errno("own-directory", stat("to-vfio/vfio", &st));
	say_errno("none", stat("to-dev/iommu-none", &st));
	directory = open(argv[0], O_PATH | O_DIRECTORY);
	use("beneath", open_how(dev, "iommu", O_RDWR, RESOLVE_BENEATH));
	say_errno("beneath-absolute", open_how(dev, "/dev/iommu", O_RDWR, RESOLVE_BENEATH));
	say_errno("beneath-climbs", open_how(directory, "../../dev/iommu", O_RDWR, RESOLVE_BENEATH));
	use("in-root", open_how(dev, "/iommu", O_RDWR, RESOLVE_IN_ROOT));
	say_errno("in-other-root", open_how(directory, "/dev/iommu", O_RDWR, RESOLVE_IN_ROOT));
	say_errno("no-symlinks", open_how(AT_FDCWD, "through-dev", O_RDWR, RESOLVE_NO_SYMLINKS));
	use("no-symlinks", open_how(AT_FDCWD, "/dev/iommu", O_RDWR, RESOLVE_NO_SYMLINKS));
	say_errno("unknown-resolve", open_how(AT_FDCWD, "/dev/iommu", O_RDWR, 1 << 20));
	say_errno("unknown-flag", open_how(AT_FDCWD, "/dev/iommu", O_RDWR | 1ull << 40, 0));
	return 0;
}

static int scene_odd_flags(char **argv)
{
	struct open_how how = { .flags = O_RDWR, .mode = 0600 };
	struct open_how longer[2] = { { .flags = O_RDWR } };
	int fd = open("/dev/iommu", O_RDWR);
	struct statx stx;
	struct stat st;

	(void)argv;
	say("flags", fcntl(fd, F_GETFL) & (O_ACCMODE | O_DIRECTORY | O_TMPFILE | O_NONBLOCK));
	say_errno("slash", open("/dev/iommu/", O_RDWR));
	say_errno("stat-slash", stat("/dev/iommu/", &st));
	say_errno("below", open("/dev/iommu/below", O_RDWR));
	say_errno("access-below", access("/dev/vfio/vfio/below/it", F_OK));
	say_errno("create-directory", open("/dev/iommu", O_RDWR | O_CREAT | O_DIRECTORY, 0600));
	say_errno("mode", syscall(__NR_openat2, AT_FDCWD, "/dev/iommu", &how, sizeof(how)));
	say_errno("short", syscall(__NR_openat2, AT_FDCWD, "/dev/iommu", &how, 16));
	use("longer", syscall(__NR_openat2, AT_FDCWD, "/dev/iommu", longer, sizeof(longer)));
	longer[1].resolve = 1;
	say_errno("longer-used", syscall(__NR_openat2, AT_FDCWD, "/dev/iommu", longer, sizeof(longer)));
	say_errno("access", access("/dev/iommu", 64));
	say_errno("faccessat2", syscall(__NR_faccessat2, AT_FDCWD, "/dev/iommu", F_OK, 0x8000));
	say_errno("fstatat", syscall(__NR_newfstatat, AT_FDCWD, "/dev/iommu", &st, 0x8000));
	say_errno("statx", syscall(__NR_statx, AT_FDCWD, "/dev/iommu", 0x6000, 0x7ff, &stx));
	say_errno("statx-mask", syscall(__NR_statx, AT_FDCWD, "/dev/iommu", 0, 1u << 31, &stx));
	return 0;
}

const struct scene path_scenes[] = {
	{ "linked-paths", scene_linked_paths },
	{ "odd-flags", scene_odd_flags },
	{ NULL, NULL },
};
