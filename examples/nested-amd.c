/*
 * A guest's AMD IOMMU in front of a physical one, with a command buffer of its own: the IOMMU takes the guest's
 * invalidations out of the guest's memory and puts the host's ids in the place of the guest's. The requests are those of
 * AMD's public tree, which no released Linux has.
 */
#include "include/guest.h"
#include "../packages/core/include/viommu/amd-viommu.h"

/* The guest's tables (AMD 48882, 2.2.6): a GCR3 table of one level, and four levels as x86-64 has them. */
#define GCR3_TABLE 0xf000UL
#define TOP_TABLE 0x10000UL
#define TABLE_OF_GIGABYTES 0x11000UL
#define TABLE_OF_2_MEGABYTES 0x12000UL
#define TABLE_OF_PAGES 0x13000UL
#define COMMAND_BUFFER 0x20000UL
#define SEMAPHORE 0x21000UL

/* Present, writable, user, accessed; a leaf that may be written to is dirty as well. */
enum { TABLE = 0x27, LEAF = 0x67 };

/* Ids of the guest's: the host has others for them. */
enum { GUEST_DEVICE = 0x18, GUEST_DOMAIN = 5 };

/* CmdHeadPtr and CmdTailPtr, MMIO 2000h and 2008h, as words of the page. */
enum { HEAD = 0, TAIL = 2 };

static volatile uint32_t *registers;
static uint32_t tail;

static void map_page(uint64_t page)
{
	put64(TABLE_OF_PAGES, page | LEAF);
}

static void build_guest_tables(void)
{
	put64(GCR3_TABLE, TOP_TABLE | 1);
	put64(TOP_TABLE, TABLE_OF_GIGABYTES | TABLE);
	put64(TABLE_OF_GIGABYTES + (IOVA >> 30) * 8, TABLE_OF_2_MEGABYTES | TABLE);
	put64(TABLE_OF_2_MEGABYTES, TABLE_OF_PAGES | TABLE);
	map_page(OLD_PAGE);
}

static void put_command(uint64_t low, uint64_t high)
{
	put64(COMMAND_BUFFER + tail, low);
	put64(COMMAND_BUFFER + tail + 8, high);
	tail += 16;
}

/* Rings, and waits as a driver does: for COMPLETION_WAIT, the last command, to store its number. */
static void send_commands(uint64_t number)
{
	volatile uint64_t *semaphore = (volatile uint64_t *)(guest + SEMAPHORE);

	put_command((1UL << 60) | SEMAPHORE | 1, number); /* COMPLETION_WAIT (2.4.1) */
	registers[TAIL] = tail;
	while (*semaphore != number)
		;
}

/* The guest's DTE: V, TV, GIOV, GV, its GCR3 table and its domain (2.2.2). */
static uint32_t make_nested(int iommu, uint32_t device_id, uint32_t viommu_id)
{
	uint64_t page = GCR3_TABLE >> 12;
	uint64_t dte[4] = { 3 | (3UL << 54) | ((page & 7) << 58), GUEST_DOMAIN | ((page >> 3) << 16) };
	struct iommu_hwpt_alloc nested = {
		.size = sizeof(nested), .dev_id = device_id, .pt_id = viommu_id,
		.data_type = IOMMU_HWPT_DATA_AMD_GUEST, .data_len = sizeof(dte), .data_uptr = (uintptr_t)dte,
	};

	request(iommu, IOMMU_HWPT_ALLOC, &nested, "IOMMU_HWPT_ALLOC");
	return nested.out_hwpt_id;
}

static void make_command_buffer(int iommu, uint32_t viommu_id)
{
	struct iommu_hw_queue_alloc queue = {
		.size = sizeof(queue), .viommu_id = viommu_id, .type = IOMMU_HW_QUEUE_TYPE_AMD_CMD,
		.flags = IOMMU_HW_QUEUE_FLAG_AMD_CMDBUF_EN, .nesting_parent_iova = COMMAND_BUFFER, .length = 8,
	};

	request(iommu, IOMMU_HW_QUEUE_ALLOC, &queue, "IOMMU_HW_QUEUE_ALLOC");
}

int main(void)
{
	int iommu = open_iommu();
	struct iommu_viommu_amd page = { 0 };
	struct iommu_viommu_alloc viommu = {
		.size = sizeof(viommu), .type = IOMMU_VIOMMU_TYPE_AMD, .data_len = sizeof(page),
		.data_uptr = (uintptr_t)&page,
	};
	struct iommu_vdevice_alloc name = { .size = sizeof(name), .virt_id = GUEST_DEVICE };

	make_guest_memory();
	build_guest_tables();
	viommu.dev_id = name.dev_id = bind_device(iommu);
	viommu.hwpt_id = make_parent(iommu, viommu.dev_id);
	request(iommu, IOMMU_VIOMMU_ALLOC, &viommu, "IOMMU_VIOMMU_ALLOC");
	name.viommu_id = viommu.out_viommu_id;
	request(iommu, IOMMU_VDEVICE_ALLOC, &name, "IOMMU_VDEVICE_ALLOC");
	make_command_buffer(iommu, viommu.out_viommu_id);
	registers = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, iommu, page.out_vfmmio_mmap_offset);
	if (registers == MAP_FAILED)
		stop("mmap");
	attach_device(make_nested(iommu, viommu.dev_id, viommu.out_viommu_id));
	say("the device reads through the guest's page tables: %s", device_reads());

	map_page(NEW_PAGE);
	say("the entry has changed and nobody told the IOMMU: %s", device_reads());

	/* INVALIDATE_IOMMU_PAGES of one page, PASID 0, and INVALIDATE_IOTLB_PAGES of all (2.4.3, 2.4.4). */
	put_command((3UL << 60) | ((uint64_t)GUEST_DOMAIN << 32), IOVA | 4);
	put_command((4UL << 60) | ((uint64_t)GUEST_DEVICE << 32) | GUEST_DEVICE, 0x7ffffffffffff001UL);
	send_commands(1);
	say("after three commands that no request carried: %s", device_reads());
	return strcmp(device_reads(), "the new page") != 0;
}
