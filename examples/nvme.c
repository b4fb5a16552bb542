/*
 * A driver in user space, as SPDK and libvfn are: it brings an NVMe controller up through VFIO, writes a block and reads
 * it back. With an argument it then reads that many blocks of 4 KiB at random, one at a time and 32 at a time.
 */
#include <time.h>

#include "include/example.h"
#include "include/vfio.h"

#define QUEUE_ENTRIES 64
#define BLOCK 4096UL
#define DEPTH_MAX 32

/* What the device reaches, from IOVA 0 on. */
enum { ADMIN_SQ = 0x10000, ADMIN_CQ = 0x11000, IO_SQ = 0x12000, IO_CQ = 0x13000, DATA = 0x20000, DMA_BYTES = 0x100000 };

/* NVM Express 1.4, 3.1 */
enum { CC = 0x14, CSTS = 0x1c, AQA = 0x24, ASQ = 0x28, ACQ = 0x30, DOORBELLS = 0x1000 };
enum { CREATE_SQ = 1, CREATE_CQ = 5, IDENTIFY = 6, WRITE = 1, READ = 2 };

struct command {
	uint8_t opcode, flags;
	uint16_t id;
	uint32_t nsid;
	uint64_t reserved, metadata, prp1, prp2;
	uint32_t cdw10, cdw11, cdw12, cdw13, cdw14, cdw15;
};

struct completion {
	uint32_t result, reserved;
	uint16_t sq_head, sq_id, id, status; /* bit 0 of the status is the phase */
};

struct queue {
	int id;
	struct command *commands;
	volatile struct completion *completions;
	unsigned tail, head, phase;
};

static int device;
static uint64_t bar, config;
static uint8_t *memory;

static void store(uint64_t at, uint64_t value, size_t bytes)
{
	if (pwrite(device, &value, bytes, (off_t)at) != (ssize_t)bytes)
		stop("pwrite");
}

static uint32_t load(uint64_t at)
{
	uint32_t value = 0;

	if (pread(device, &value, sizeof(value), (off_t)at) != sizeof(value))
		stop("pread");
	return value;
}

static uint64_t region(uint32_t index)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };

	request(device, VFIO_DEVICE_GET_REGION_INFO, &info, "VFIO_DEVICE_GET_REGION_INFO");
	return info.offset;
}

static void submit(struct queue *queue, struct command command)
{
	command.id = queue->tail;
	command.nsid = command.nsid ? command.nsid : 1;
	queue->commands[queue->tail] = command;
	queue->tail = (queue->tail + 1) % QUEUE_ENTRIES;
}

/* Rings, and waits for that many completions. */
static void finish(struct queue *queue, unsigned count)
{
	store(bar + DOORBELLS + 8 * queue->id, queue->tail, 4);
	while (count--) {
		volatile struct completion *done = &queue->completions[queue->head];

		while ((done->status & 1) != queue->phase)
			;
		if (done->status >> 1) {
			fprintf(stderr, "status 0x%x\n", done->status >> 1);
			exit(1);
		}
		queue->head = (queue->head + 1) % QUEUE_ENTRIES;
		queue->phase ^= queue->head == 0;
	}
	store(bar + DOORBELLS + 8 * queue->id + 4, queue->head, 4);
}

static void one(struct queue *queue, struct command command)
{
	submit(queue, command);
	finish(queue, 1);
}

static void random_reads(struct queue *queue, unsigned count, unsigned depth, unsigned blocks)
{
	struct timespec from, to;
	double seconds;

	clock_gettime(CLOCK_MONOTONIC, &from);
	for (unsigned done = 0; done < count; done += depth) {
		for (unsigned i = 0; i < depth; i++)
			submit(queue, (struct command){ .opcode = READ, .prp1 = DATA + i * BLOCK,
							.cdw10 = (uint32_t)rand() % blocks * 8, .cdw12 = 7 });
		finish(queue, depth);
	}
	clock_gettime(CLOCK_MONOTONIC, &to);
	seconds = to.tv_sec - from.tv_sec + (to.tv_nsec - from.tv_nsec) / 1e9;
	say("%u at a time: %.0f reads of 4 KiB a second", depth, count / seconds);
}

int main(int argc, char **argv)
{
	int iommu = open_iommu();
	uint32_t ioas = ioas_alloc(iommu);
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind), .iommufd = iommu };
	struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach), .pt_id = ioas };
	struct queue admin = { .phase = 1 }, io = { .id = 1, .phase = 1 };
	uint64_t blocks;

	device = open("/dev/vfio/devices/vfio1", O_RDWR | O_CLOEXEC);
	if (device < 0)
		stop("/dev/vfio/devices/vfio1");
	memory = allocate(DMA_BYTES);
	request(device, VFIO_DEVICE_BIND_IOMMUFD, &bind, "VFIO_DEVICE_BIND_IOMMUFD");
	request(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach, "VFIO_DEVICE_ATTACH_IOMMUFD_PT");
	ioas_map(iommu, ioas, memory, DMA_BYTES, 0);
	bar = region(VFIO_PCI_BAR0_REGION_INDEX);
	config = region(VFIO_PCI_CONFIG_REGION_INDEX);
	store(config + 4, 2 | 4, 2); /* memory and bus master */

	admin.commands = (void *)(memory + ADMIN_SQ), admin.completions = (void *)(memory + ADMIN_CQ);
	io.commands = (void *)(memory + IO_SQ), io.completions = (void *)(memory + IO_CQ);
	store(bar + AQA, (QUEUE_ENTRIES - 1) << 16 | (QUEUE_ENTRIES - 1), 4);
	store(bar + ASQ, ADMIN_SQ, 8);
	store(bar + ACQ, ADMIN_CQ, 8);
	store(bar + CC, 4 << 20 | 6 << 16 | 1, 4); /* entries of 16 and 64 bytes, enable */
	while (!(load(bar + CSTS) & 1))
		;
	one(&admin, (struct command){ .opcode = IDENTIFY, .prp1 = DATA, .cdw10 = 1 });
	say("the controller is a %.40s", (char *)memory + DATA + 24);
	one(&admin, (struct command){ .opcode = IDENTIFY, .prp1 = DATA, .cdw10 = 0 });
	memcpy(&blocks, memory + DATA, sizeof(blocks)); /* NSZE, in blocks of 512 bytes */
	one(&admin, (struct command){ .opcode = CREATE_CQ, .prp1 = IO_CQ, .cdw10 = (QUEUE_ENTRIES - 1) << 16 | 1,
				      .cdw11 = 1 });
	one(&admin, (struct command){ .opcode = CREATE_SQ, .prp1 = IO_SQ, .cdw10 = (QUEUE_ENTRIES - 1) << 16 | 1,
				      .cdw11 = 1 << 16 | 1 });

	strcpy((char *)memory + DATA, "written to block 80");
	one(&io, (struct command){ .opcode = WRITE, .prp1 = DATA, .cdw10 = 80, .cdw12 = 7 });
	memset(memory + DATA, 0, BLOCK);
	one(&io, (struct command){ .opcode = READ, .prp1 = DATA, .cdw10 = 80, .cdw12 = 7 });
	say("its disk has %lu MiB, and reads: %s", (unsigned long)(blocks >> 11), (char *)memory + DATA);
	if (argc > 1) {
		random_reads(&io, atoi(argv[1]), 1, blocks / 8);
		random_reads(&io, atoi(argv[1]), DEPTH_MAX, blocks / 8);
	}
	return strcmp((char *)memory + DATA, "written to block 80") != 0 && argc == 1;
}
