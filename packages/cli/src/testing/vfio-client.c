/*
 * A program that drives devices by VFIO's groups, as those do that know nothing newer: one scene for each thing that
 * goes wrong in such programs. It prints what it got, a line each, and ends with 0.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/vfio.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define IOVA 0x100000ull
#define BYTES (1 << 20)

/* packages/core/src/pci/dma-engine/registers.ts */
enum { COMMAND = 4, STATUS = 8, SOURCE = 0x10, DESTINATION = 0x18, LENGTH = 0x20, FLAGS = 0x24 };
enum { COPY = 1, DONE = 1, FAILED = 2, INTERRUPT = 1 << 4 };

static int container, group, device;
static uint8_t *memory;

static void must(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

/* The device `name` of group `number`, with memory of ours at IOVA. */
static void open_device(int number, const char *name)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map), .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE, .iova = IOVA, .size = BYTES
	};
	char path[32];

	snprintf(path, sizeof(path), "/dev/vfio/%d", number);
	container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	must(container >= 0, "the container");
	group = open(path, O_RDWR | O_CLOEXEC);
	must(group >= 0, "the group");
	must(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) == 0, "VFIO_GROUP_SET_CONTAINER");
	must(ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) == 0, "VFIO_SET_IOMMU");
	device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, name);
	must(device >= 0, "VFIO_GROUP_GET_DEVICE_FD");
	memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	must(memory != MAP_FAILED, "mmap");
	map.vaddr = (uintptr_t)memory;
	must(ioctl(container, VFIO_IOMMU_MAP_DMA, &map) == 0, "VFIO_IOMMU_MAP_DMA");
}

static uint64_t region(int index)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };

	must(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info) == 0, "VFIO_DEVICE_GET_REGION_INFO");
	return info.offset;
}

static void be_master(void)
{
	uint16_t command = 6;

	must(pwrite(device, &command, 2, region(VFIO_PCI_CONFIG_REGION_INDEX) + 4) == 2, "PCI_COMMAND");
}

static void store(int at, uint64_t value, int bytes)
{
	must(pwrite(device, &value, bytes, region(0) + at) == bytes, "a store");
}

static uint32_t load(int at)
{
	uint32_t value;

	must(pread(device, &value, 4, region(0) + at) == 4, "a load");
	return value;
}

static uint32_t copy(uint64_t from, uint64_t to, uint32_t bytes)
{
	store(SOURCE, from, 8);
	store(DESTINATION, to, 8);
	store(LENGTH, bytes, 4);
	store(FLAGS, INTERRUPT, 4);
	store(COMMAND, COPY, 4);
	return load(STATUS);
}

/* Vector 0 of MSI-X gets this eventfd, or -1; 0, or -errno. */
static int set_irq(uint32_t index, uint32_t action, int fd)
{
	char bytes[sizeof(struct vfio_irq_set) + 4] = { 0 };
	struct vfio_irq_set *set = (struct vfio_irq_set *)bytes;

	set->argsz = sizeof(bytes);
	set->flags = VFIO_IRQ_SET_DATA_EVENTFD | action;
	set->index = index;
	set->count = 1;
	memcpy(set->data, &fd, 4);
	return ioctl(device, VFIO_DEVICE_SET_IRQS, set) ? -errno : 0;
}

static int set_vector(int fd)
{
	return set_irq(VFIO_PCI_MSIX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER, fd);
}

static const char *engine = "0000:0a:00.0", *network = "0000:0b:00.0", *disk = "0000:0c:00.0";

static void scene_copy(void)
{
	int fd = eventfd(0, EFD_NONBLOCK);
	struct pollfd ready = { fd, POLLIN, 0 };
	uint64_t count = 0;

	open_device(0, engine);
	be_master();
	must(set_vector(fd) == 0, "VFIO_DEVICE_SET_IRQS");
	memset(memory, 0x5a, 4096);
	printf("status %u\n", copy(IOVA, IOVA + 8192, 4096));
	printf("copied %d\n", memcmp(memory, memory + 8192, 4096) == 0);
	must(poll(&ready, 1, 5000) == 1 && read(fd, &count, 8) == 8, "the interrupt");
	printf("interrupts %llu\n", (unsigned long long)count);
	printf("unmapped %u\n", copy(IOVA + BYTES, IOVA, 16));
}

static long moved(ssize_t result)
{
	return result < 0 ? -errno : result;
}

static void scene_sizes(void)
{
	static uint8_t bytes[1 << 16];
	struct iovec parts[3] = { { bytes, 3 }, { bytes + 16, 0 }, { bytes + 32, 9 } };
	uint64_t bar, config;
	long sum = 0;

	open_device(0, engine);
	bar = region(0);
	config = region(VFIO_PCI_CONFIG_REGION_INDEX);
	for (int size = 0; size < 20; size++)
		for (int at = 0; at < 20; at++)
			sum += moved(pread(device, bytes, size, bar + at)) == size && moved(pwrite(device, bytes, size, bar + 0x100 + at)) == size;
	printf("sizes %ld\n", sum);
	printf("whole %ld\n", moved(pread(device, bytes, sizeof(bytes), bar)));
	printf("end %ld %ld\n", moved(pread(device, bytes, 8, bar + 0x4000 - 4)), moved(pread(device, bytes, 8, bar + 0x4000)));
	printf("vector %ld %ld\n", moved(preadv(device, parts, 3, bar)), moved(pwritev(device, parts, 3, bar + 0x100)));
	printf("nowhere %ld\n", moved(pread(device, bytes, 4, region(8 - 2) + (9ull << 40))));
	printf("config %ld %ld\n", moved(pread(device, bytes, 4096, config)), moved(pread(device, bytes, 2, config + 4095)));
	printf("buffer %ld %ld\n", moved(pread(device, (void *)8, 4, bar)), moved(pwrite(device, (void *)8, 4, config)));
	printf("linux %ld %x\n", moved(pread(device, bytes, 2, 7ull << 40)), bytes[0] | bytes[1] << 8);
	printf("mmap %d\n", mmap(NULL, 4096, PROT_READ, MAP_SHARED, device, bar) == MAP_FAILED ? errno : 0);
}

static void scene_eventfds(void)
{
	uint64_t most = UINT64_MAX - 1;
	int fd = eventfd(0, 0), pipes[2];

	must(fd >= 0 && pipe(pipes) == 0, "descriptors");
	open_device(0, engine);
	be_master();
	printf("pipe %d closed %d\n", set_vector(pipes[0]), set_vector(999));
	must(set_vector(fd) == 0, "VFIO_DEVICE_SET_IRQS");
	must(write(fd, &most, 8) == 8, "filling the eventfd");
	printf("full %u\n", copy(IOVA, IOVA + 4096, 64));
	close(fd);
	printf("closed %u\n", copy(IOVA, IOVA + 4096, 64));
	printf("away %d\n", set_vector(-1));
	printf("none %u\n", copy(IOVA, IOVA + 4096, 64));
}

static int unmask_by(int fd)
{
	return set_irq(VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_UNMASK, fd);
}

/* QEMU, which gives KVM another eventfd whenever the guest's interrupts are routed anew, closes the one before. */
static void scene_unmask(void)
{
	int trigger = eventfd(0, 0), first = eventfd(0, 0), second = eventfd(0, 0), copy = dup(first);

	open_device(2, disk);
	must(set_irq(VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER, trigger) == 0, "VFIO_DEVICE_SET_IRQS");
	printf("first %d\n", unmask_by(first));
	close(first);
	printf("open %d\n", unmask_by(second));
	close(copy);
	printf("closed %d\n", unmask_by(second));
	printf("again %d\n", unmask_by(second));
}

static void scene_reset(void)
{
	open_device(0, engine);
	be_master();
	store(SOURCE, IOVA, 8);
	store(DESTINATION, IOVA + 4096, 8);
	store(LENGTH, 4096, 4);
	printf("reset %d\n", ioctl(device, VFIO_DEVICE_RESET));
	printf("registers %u\n", load(LENGTH));
	printf("copy %u\n", copy(IOVA, IOVA + 8192, 4096));
	for (int i = 0; i < 100; i++)
		must(ioctl(device, VFIO_DEVICE_RESET) == 0, "VFIO_DEVICE_RESET");
	printf("again %u\n", copy(IOVA, IOVA + 8192, 4096));
}

static void *map_network(void)
{
	void *bar;

	open_device(1, network);
	bar = mmap(NULL, 0x20000, PROT_READ | PROT_WRITE, MAP_SHARED, device, region(0));
	must(bar != MAP_FAILED, "mmap of a BAR");
	return bar;
}

static void scene_mapped(void)
{
	volatile uint32_t *bar = map_network();

	/* Any register that keeps what is stored: the ring's base. */
	bar[0x3800 / 4] = 0x12340000;
	printf("load %x\n", load(0x3800));
	printf("private %d\n", mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, device, region(0)) == MAP_FAILED ? errno : 0);
	printf("long %d\n", mmap(NULL, 0x21000, PROT_READ, MAP_SHARED, device, region(0)) == MAP_FAILED ? errno : 0);
	store(0x3800, 0x56780000, 4);
	printf("mapped %x\n", bar[0x3800 / 4]);
	if (fork() == 0) {
		bar[0x3800 / 4] = 0x9abc0000;
		_exit(0);
	}
	wait(NULL);
	printf("child %x\n", load(0x3800));
	close(device);
	close(group);
	close(container);
	printf("kept %x\n", bar[0x3800 / 4]);
}

static sigjmp_buf back;

static void on_bus(int signal)
{
	(void)signal;
	siglongjmp(back, 1);
}

static void scene_memory_off(void)
{
	volatile uint32_t *bar = map_network();
	uint64_t config = region(VFIO_PCI_CONFIG_REGION_INDEX);
	uint16_t command = 0;

	signal(SIGBUS, on_bus);
	bar[0x3800 / 4] = 0x12340000;
	must(pwrite(device, &command, 2, config + 4) == 2, "PCI_COMMAND");
	if (sigsetjmp(back, 1) == 0)
		printf("off %x\n", bar[0x3800 / 4]);
	else
		printf("off SIGBUS\n");
	printf("load %d\n", pread(device, &command, 2, region(0)) < 0 ? errno : 0);
	if (sigsetjmp(back, 1) == 0)
		printf("mapped %x\n", *(volatile uint32_t *)mmap(NULL, 4096, PROT_READ, MAP_SHARED, device, region(0)));
	else
		printf("mapped SIGBUS\n");
	be_master();
	printf("on %x\n", bar[0x3800 / 4]);
	bar[0x3800 / 4] = 0x56780000;
	printf("load %x\n", load(0x3800));
}

/* Dies with everything open and mapped, a ring of the network card running. */
static void die(void)
{
	volatile uint32_t *bar = map_network();

	be_master();
	bar[0x3800 / 4] = IOVA;
	bar[0x3808 / 4] = 4096;
	bar[0x3828 / 4] = 1 << 25;
	bar[0x3818 / 4] = 16;
	raise(SIGKILL);
}

static void scene_killed(void)
{
	int status;

	for (int i = 0; i < 5; i++) {
		if (fork() == 0)
			die();
		wait(&status);
		must(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "a child that kills itself");
	}
	map_network();
	printf("opened\n");
}

static void scene_shared(void)
{
	int status;

	open_device(0, engine);
	be_master();
	if (fork() == 0) {
		device = dup2(device, 700);
		_exit(copy(IOVA, IOVA + 4096, 64) == DONE ? 0 : 1);
	}
	wait(&status);
	printf("child %d\n", WEXITSTATUS(status));
	printf("parent %u\n", copy(IOVA, IOVA + 4096, 64));
}

/* What QEMU tells KVM, on a file that is no device of KVM's: what viommu does not answer is ENOTTY. */
static int tell_kvm(uint64_t attribute, int fd)
{
	struct kvm_device_attr add = { .group = 1, .attr = attribute, .addr = (uintptr_t)&fd };
	static int null = -1;

	if (null < 0)
		null = open("/dev/null", O_RDWR);
	return ioctl(null, KVM_SET_DEVICE_ATTR, &add) ? errno : 0;
}

static void scene_kvm(void)
{
	open_device(0, engine);
	printf("device %d %d\n", tell_kvm(1, device), tell_kvm(2, device));
	printf("group %d %d\n", tell_kvm(1, group), tell_kvm(2, group));
	printf("other %d %d %d\n", tell_kvm(1, container), tell_kvm(1, 0), tell_kvm(3, device));
}

/* A program, or its child, asks for the device as an administrator does; the one who has it is told. */
static void scene_removed(void)
{
	char bytes[sizeof(struct vfio_irq_set) + 4] = { 0 };
	struct vfio_irq_set *set = (struct vfio_irq_set *)bytes;
	int request = eventfd(0, EFD_NONBLOCK);
	struct pollfd asked = { request, POLLIN, 0 };
	int fd;

	open_device(0, engine);
	be_master();
	set->argsz = sizeof(bytes);
	set->flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
	set->index = VFIO_PCI_REQ_IRQ_INDEX;
	set->count = 1;
	memcpy(set->data, &request, 4);
	must(ioctl(device, VFIO_DEVICE_SET_IRQS, set) == 0, "VFIO_DEVICE_SET_IRQS");
	printf("shell %d\n", system("echo 1 > /sys/bus/pci/devices/0000:0a:00.0/remove"));
	printf("asked %d\n", poll(&asked, 1, 5000));
	printf("copy %u\n", copy(IOVA, IOVA + 4096, 64));
	fd = open("/dev/vfio/devices/vfio0", O_RDWR);
	printf("open %d\n", fd < 0 ? errno : 0);
	close(device);
	device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, engine);
	printf("again %d\n", device < 0 ? errno : 0);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*play)(void);
	} scenes[] = { { "copy", scene_copy },	   { "sizes", scene_sizes },   { "eventfds", scene_eventfds },
		       { "reset", scene_reset },   { "mapped", scene_mapped }, { "killed", scene_killed },
		       { "shared", scene_shared }, { "kvm", scene_kvm },
		       { "unmask", scene_unmask },
		       { "removed", scene_removed }, { "memory-off", scene_memory_off }, { "die", die } };

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (size_t i = 0; argc > 1 && i < sizeof(scenes) / sizeof(scenes[0]); i++) {
		if (strcmp(scenes[i].name, argv[1]))
			continue;
		scenes[i].play();
		return 0;
	}
	return 2;
}
