/*
 * A program that uses VFIO_DEVICE_FEATURE: dma-bufs, migration and logs of DMA. One scene for each; it prints what it got,
 * a line each, and ends with 0.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define IOVA 0x100000ull
#define BYTES (8 << 20)

/* Newer than the header may be: include/uapi/linux/vfio.h */
#undef VFIO_DEVICE_FEATURE_DMA_BUF
enum { VFIO_DEVICE_FEATURE_DMA_BUF = 11 };
struct dma_buf_request {
	uint32_t region_index, open_flags, flags, nr_ranges;
	uint64_t offset, length;
};

/* packages/core/src/pci/dma-engine/registers.ts */
enum { COMMAND = 4, STATUS = 8, SOURCE = 0x10, DESTINATION = 0x18, LENGTH = 0x20, FLAGS = 0x24, DONE_BYTES = 0x30 };
enum { COPY = 1, DONE = 1, RUNNING = 4, BACKGROUND = 1 << 8 };

struct engine {
	int group, device;
	uint64_t bar, config;
};

static int container = -1;
static uint8_t *memory;

static void must(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t region(int device, int index)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };

	must(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info) == 0, "VFIO_DEVICE_GET_REGION_INFO");
	return info.offset;
}

static void map_memory(void)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map), .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE, .iova = IOVA, .size = BYTES
	};

	memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	must(memory != MAP_FAILED, "mmap");
	map.vaddr = (uintptr_t)memory;
	must(ioctl(container, VFIO_IOMMU_MAP_DMA, &map) == 0, "VFIO_IOMMU_MAP_DMA");
}

/* The engine of group `number`, on one container with the others. */
static struct engine open_engine(int number, const char *name)
{
	struct engine engine;
	uint16_t command = 6;
	char path[32];

	snprintf(path, sizeof(path), "/dev/vfio/%d", number);
	if (container < 0)
		container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	must(container >= 0, "the container");
	engine.group = open(path, O_RDWR | O_CLOEXEC);
	must(engine.group >= 0, "the group");
	must(ioctl(engine.group, VFIO_GROUP_SET_CONTAINER, &container) == 0, "VFIO_GROUP_SET_CONTAINER");
	if (!memory)
		must(ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) == 0, "VFIO_SET_IOMMU");
	engine.device = ioctl(engine.group, VFIO_GROUP_GET_DEVICE_FD, name);
	must(engine.device >= 0, "VFIO_GROUP_GET_DEVICE_FD");
	engine.bar = region(engine.device, 0);
	engine.config = region(engine.device, VFIO_PCI_CONFIG_REGION_INDEX);
	must(pwrite(engine.device, &command, 2, engine.config + 4) == 2, "PCI_COMMAND");
	if (!memory)
		map_memory();
	return engine;
}

static void store(struct engine *engine, int at, uint64_t value, int bytes)
{
	must(pwrite(engine->device, &value, bytes, engine->bar + at) == bytes, "a store");
}

static uint32_t load(struct engine *engine, int at)
{
	uint32_t value;

	must(pread(engine->device, &value, 4, engine->bar + at) == 4, "a load");
	return value;
}

/* A copy of the lower half of the memory to the upper. */
static void start_copy(struct engine *engine, uint32_t flags)
{
	store(engine, SOURCE, IOVA, 8);
	store(engine, DESTINATION, IOVA + BYTES / 2, 8);
	store(engine, LENGTH, BYTES / 2, 4);
	store(engine, FLAGS, flags, 4);
	store(engine, COMMAND, COPY, 4);
}

static uint32_t finish(struct engine *engine)
{
	for (int i = 0; i < 10000 && load(engine, STATUS) == RUNNING; i++)
		usleep(500);
	return load(engine, STATUS);
}

/* VFIO_DEVICE_FEATURE; what it answers, or -errno. */
static int feature(struct engine *engine, uint32_t flags, void *data, size_t bytes)
{
	struct vfio_device_feature *request = calloc(1, sizeof(*request) + bytes);
	int result;

	request->argsz = sizeof(*request) + bytes;
	request->flags = flags;
	if (bytes > 0)
		memcpy(request->data, data, bytes);
	result = ioctl(engine->device, VFIO_DEVICE_FEATURE, request);
	if (bytes > 0)
		memcpy(data, request->data, bytes);
	free(request);
	return result < 0 ? -errno : result;
}

static int to_state(struct engine *engine, uint32_t state)
{
	struct vfio_device_feature_mig_state request = { .device_state = state, .data_fd = 12345 };
	int result = feature(engine, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_SET, &request, sizeof(request));

	return result < 0 ? result : request.data_fd;
}

static void scene_dma_buf(void)
{
	struct engine engine = open_engine(0, "0000:0a:00.0");
	struct dma_buf_request request = { .open_flags = O_CLOEXEC | O_RDWR, .nr_ranges = 1, .offset = 4096, .length = 8192 };
	struct stat st;
	int fd = feature(&engine, VFIO_DEVICE_FEATURE_DMA_BUF | VFIO_DEVICE_FEATURE_GET, &request, sizeof(request));

	must(fd >= 0, "a dma-buf");
	printf("cloexec %d\n", fcntl(fd, F_GETFD));
	printf("size %ld\n", (long)lseek(fd, 0, SEEK_END));
	printf("stat %ld\n", fstat(fd, &st) ? -1l : (long)st.st_size);
	printf("mmap %d\n", mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? errno : 0);
	request.length = 16384;
	printf("long %d\n", feature(&engine, VFIO_DEVICE_FEATURE_DMA_BUF | VFIO_DEVICE_FEATURE_GET, &request, sizeof(request)));
	close(engine.device);
	printf("kept %ld\n", (long)lseek(fd, 0, SEEK_END));
}

static void scene_migrate(void)
{
	struct engine source = open_engine(0, "0000:0a:00.0"), target = open_engine(1, "0000:0b:00.0");
	static uint8_t stream[4096];
	struct pollfd ready;
	ssize_t bytes, all = 0;
	int from, to;

	memset(memory, 0x5a, BYTES / 2);
	start_copy(&source, BACKGROUND);
	from = to_state(&source, VFIO_DEVICE_STATE_STOP_COPY);
	must(from >= 0, "the descriptor to read");
	printf("status %u moved %d\n", load(&source, STATUS), memory[BYTES - 1]);
	ready = (struct pollfd){ from, POLLIN, 0 };
	printf("poll %d\n", poll(&ready, 1, 0));
	while ((bytes = read(from, stream + all, 10)) > 0)
		all += bytes;
	printf("end %zd %d\n", bytes, all > 80);
	printf("write %d pread %d\n", write(from, stream, 1) < 0 ? errno : 0, pread(from, stream, 1, 8) < 0 ? errno : 0);
	to = to_state(&target, VFIO_DEVICE_STATE_RESUMING);
	must(to >= 0, "the descriptor to write");
	printf("written %d\n", write(to, stream, all) == all);
	printf("running %d\n", to_state(&target, VFIO_DEVICE_STATE_RUNNING));
	printf("target %u\n", finish(&target));
	printf("copied %d\n", memcmp(memory, memory + BYTES / 2, BYTES / 2) == 0);
	printf("stop %d\n", to_state(&source, VFIO_DEVICE_STATE_STOP));
	printf("ended %d\n", read(from, stream, 1) < 0 ? errno : 0);
	close(from);
	close(to);
	printf("running %d\n", to_state(&source, VFIO_DEVICE_STATE_RUNNING));
	printf("source %u\n", finish(&source));
}

/* A long copy is reset before it ends: nothing is written afterwards. */
static void scene_reset(void)
{
	struct engine engine = open_engine(0, "0000:0a:00.0");
	bool torn = false;

	memset(memory, 0x5a, BYTES / 2);
	for (int i = 0; i < 20; i++) {
		uint32_t moved;

		start_copy(&engine, BACKGROUND);
		usleep(100 * i);
		moved = load(&engine, DONE_BYTES);
		must(ioctl(engine.device, VFIO_DEVICE_RESET) == 0, "VFIO_DEVICE_RESET");
		torn = torn || moved < BYTES / 2;
		must(load(&engine, STATUS) == 0 && load(&engine, LENGTH) == 0, "a device as new");
		memset(memory + BYTES / 2, 0, BYTES / 2);
		usleep(2000);
		for (int at = BYTES / 2; at < BYTES; at += 4096)
			must(memory[at] == 0, "memory that nobody writes");
	}
	printf("torn %d\n", torn);
}

static void scene_log(void)
{
	struct engine engine = open_engine(0, "0000:0a:00.0");
	struct vfio_device_feature_dma_logging_range range = { IOVA, BYTES };
	struct vfio_device_feature_dma_logging_control control = { .page_size = 4096, .num_ranges = 1, .ranges = (uintptr_t)&range };
	uint64_t bitmap[BYTES / 4096 / 64] = { 0 };
	struct vfio_device_feature_dma_logging_report report = { IOVA, BYTES, 4096, (uintptr_t)bitmap };
	int pages = 0;

	printf("start %d\n", feature(&engine, VFIO_DEVICE_FEATURE_DMA_LOGGING_START | VFIO_DEVICE_FEATURE_SET, &control, sizeof(control)));
	start_copy(&engine, 0);
	printf("report %d\n", feature(&engine, VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT | VFIO_DEVICE_FEATURE_GET, &report, sizeof(report)));
	for (size_t i = 0; i < sizeof(bitmap) / 8; i++)
		pages += __builtin_popcountll(bitmap[i]);
	printf("pages %d first %d\n", pages, bitmap[0] == 0);
	printf("stop %d\n", feature(&engine, VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP | VFIO_DEVICE_FEATURE_SET, NULL, 0));
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*play)(void);
	} scenes[] = { { "dma-buf", scene_dma_buf }, { "migrate", scene_migrate }, { "reset", scene_reset }, { "log", scene_log } };

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (size_t i = 0; argc > 1 && i < sizeof(scenes) / sizeof(scenes[0]); i++) {
		if (strcmp(scenes[i].name, argv[1]))
			continue;
		scenes[i].play();
		return 0;
	}
	return 2;
}
