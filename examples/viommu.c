/* A guest's device under the number that the guest knows: its invalidations go in, its events come out. */
#include "include/example.h"

#define GUEST_DEVICE 0x99

static uint32_t hwpt_alloc(int iommu, struct iommu_hwpt_alloc cmd)
{
	cmd.size = sizeof(cmd);
	request(iommu, IOMMU_HWPT_ALLOC, &cmd, "IOMMU_HWPT_ALLOC");
	return cmd.out_hwpt_id;
}

/* True where entry `entry` of the device's cache holds `value`. */
static bool cache_holds(int iommu, uint32_t device, uint32_t entry, uint32_t value)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_DEV_CHECK_CACHE,
		.id = device,
		.check_dev_cache = { .id = entry, .cache = value },
	};

	return ioctl(iommu, IOMMU_TEST_CMD, &cmd) == 0;
}

static void show_cache(int iommu, uint32_t device, const char *when)
{
	char full[4];

	for (uint32_t entry = 0; entry < 4; entry++)
		full[entry] = cache_holds(iommu, device, entry, IOMMU_TEST_DEV_CACHE_DEFAULT) ? 'x' : '.';
	say("the device's cache %s: %.4s", when, full);
}

static void invalidate(int iommu, uint32_t viommu)
{
	struct iommu_viommu_invalidate_selftest commands[] = {
		{ .vdev_id = GUEST_DEVICE, .cache_id = 0 },
		{ .vdev_id = GUEST_DEVICE, .cache_id = 2 },
		{ .vdev_id = GUEST_DEVICE + 1, .cache_id = 3 },
	};
	struct iommu_hwpt_invalidate cmd = {
		.size = sizeof(cmd),
		.hwpt_id = viommu,
		.data_uptr = (uintptr_t)commands,
		.data_type = IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST,
		.entry_len = sizeof(commands[0]),
		.entry_num = 3,
	};

	refused(iommu, IOMMU_HWPT_INVALIDATE, &cmd, EINVAL, "3 invalidations, the last for no device of the guest");
	say("carried out: %u", cmd.entry_num);
}

static void read_event(int iommu, uint32_t viommu, uint32_t device)
{
	struct iommu_veventq_alloc queue = {
		.size = sizeof(queue),
		.viommu_id = viommu,
		.type = IOMMU_VEVENTQ_TYPE_SELFTEST,
		.veventq_depth = 8,
	};
	struct iommu_test_cmd trigger = {
		.size = sizeof(trigger),
		.op = IOMMU_TEST_OP_TRIGGER_VEVENT,
		.trigger_vevent = { .dev_id = device },
	};
	struct {
		struct iommufd_vevent_header header;
		struct iommu_viommu_event_selftest event;
	} got;

	request(iommu, IOMMU_VEVENTQ_ALLOC, &queue, "IOMMU_VEVENTQ_ALLOC");
	request(iommu, IOMMU_TEST_CMD, &trigger, "IOMMU_TEST_OP_TRIGGER_VEVENT");
	if (read(queue.out_veventq_fd, &got, sizeof(got)) != sizeof(got))
		stop("the event queue");
	say("event %u is from the guest's device %#x", got.header.sequence, got.event.virt_id);
}

int main(void)
{
	int iommu = open_iommu();
	uint32_t ioas = ioas_alloc(iommu);
	struct iommu_test_cmd mock = mock_device(iommu, ioas);
	uint32_t device = mock.mock_domain.out_idev_id;
	uint32_t parent =
		hwpt_alloc(iommu, (struct iommu_hwpt_alloc){
					  .dev_id = device, .pt_id = ioas, .flags = IOMMU_HWPT_ALLOC_NEST_PARENT });
	struct iommu_viommu_alloc viommu = {
		.size = sizeof(viommu), .type = IOMMU_VIOMMU_TYPE_SELFTEST, .dev_id = device, .hwpt_id = parent
	};
	struct iommu_hwpt_selftest guest_table = { 0 };
	struct iommu_vdevice_alloc vdevice = { .size = sizeof(vdevice), .dev_id = device, .virt_id = GUEST_DEVICE };
	struct iommu_test_cmd attach = {
		.size = sizeof(attach), .op = IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, .id = mock.mock_domain.out_stdev_id
	};

	request(iommu, IOMMU_VIOMMU_ALLOC, &viommu, "IOMMU_VIOMMU_ALLOC");
	vdevice.viommu_id = viommu.out_viommu_id;
	request(iommu, IOMMU_VDEVICE_ALLOC, &vdevice, "IOMMU_VDEVICE_ALLOC");
	say("viommu %u shares page table %u; device %u is the guest's device %#x", viommu.out_viommu_id, parent, device,
	    GUEST_DEVICE);
	refused(iommu, IOMMU_VDEVICE_ALLOC, &vdevice, EEXIST, "once more under that number");

	attach.mock_domain_replace.pt_id =
		hwpt_alloc(iommu, (struct iommu_hwpt_alloc){ .dev_id = device,
							     .pt_id = viommu.out_viommu_id,
							     .data_type = IOMMU_HWPT_DATA_SELFTEST,
							     .data_len = sizeof(guest_table),
							     .data_uptr = (uintptr_t)&guest_table });
	request(iommu, IOMMU_TEST_CMD, &attach, "IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE");

	show_cache(iommu, device, "before");
	invalidate(iommu, viommu.out_viommu_id);
	show_cache(iommu, device, "after ");
	read_event(iommu, viommu.out_viommu_id, device);
	return 0;
}
