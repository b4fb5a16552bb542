/*
 * A guest with a command queue of its own, as NVIDIA's CMDQ-V gives it: the hardware takes the guest's invalidations out
 * of the guest's memory, and no request to the kernel is needed. The queue's registers are in a page that this program
 * maps.
 */
#include "include/smmuv3-guest.h"

#define QUEUE 0x20000UL
#define QUEUE_BYTES 4096UL

/* Registers of the interface's first queue (drivers/iommu/arm/arm-smmu-v3/tegra241-cmdqv.c). */
enum { CONS = 0, PROD = 1, CONFIG = 2 };

static volatile uint32_t *queue_registers;
static uint32_t produced;

/* The StreamID is the guest's, and the hardware replaces it; VMIDs are the interface's. */
static void put_command(uint64_t low, uint64_t high)
{
	put64(QUEUE + 16 * produced, low);
	put64(QUEUE + 16 * produced + 8, high);
	produced++;
}

/* Rings, and waits as a driver does: the hardware says in CONS how far it is. */
static void send_commands(void)
{
	queue_registers[PROD] = produced;
	while (queue_registers[CONS] != produced)
		if (queue_registers[CONS] >> 24)
			stop("the queue has stopped");
}

int main(void)
{
	int iommu = open_iommu();
	struct iommu_viommu_tegra241_cmdqv page = { 0 };
	struct iommu_viommu_alloc viommu = {
		.size = sizeof(viommu), .type = IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV, .data_len = sizeof(page),
		.data_uptr = (uintptr_t)&page,
	};
	struct iommu_hw_queue_alloc queue = {
		.size = sizeof(queue), .type = IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV, .nesting_parent_iova = QUEUE,
		.length = QUEUE_BYTES,
	};

	make_guest();
	attach_guest(iommu, &viommu);
	queue.viommu_id = viommu.out_viommu_id;
	request(iommu, IOMMU_HW_QUEUE_ALLOC, &queue, "IOMMU_HW_QUEUE_ALLOC");
	queue_registers = mmap(NULL, page.out_vintf_mmap_length, PROT_READ | PROT_WRITE, MAP_SHARED, iommu,
			       page.out_vintf_mmap_offset);
	if (queue_registers == MAP_FAILED)
		stop("mmap");
	queue_registers[CONFIG] = 1;
	say("the device reads through the guest's page tables: %s", device_reads());

	map_page(NEW_PAGE);
	say("the entry has changed and nobody told the SMMU: %s", device_reads());

	put_command(0x12 | (1UL << 48), IOVA | 1); /* CMD_TLBI_NH_VA of one page, ASID 1, leaf only (IHI 0070, 4.4.2) */
	put_command(0x46, 0);			   /* CMD_SYNC */
	send_commands();
	say("after two stores to memory and one to a doorbell: %s", device_reads());
	return strcmp(device_reads(), "the new page") != 0;
}
