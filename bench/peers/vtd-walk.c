// The peer of bench/iommu.mjs for walks: first-stage, second-stage and nested walks of 4-level tables in plain C, with the
// checks that a walk has to make, and no cache of anything.
#include "walk.h"

enum { READ = 1, WRITE = 2, HAW = 46 };
enum fault { NONE, NOT_CANONICAL, NOT_PRESENT, RESERVED, PERMISSION, FETCH };

static uint64_t first_root, second_root;

static const uint64_t ADDRESS = 0x000ffffffffff000u;
static const uint64_t ABOVE = 0x000fffffffffffffu & ~((1ull << HAW) - 1);

static enum fault second_stage(uint64_t gpa, unsigned need, uint64_t *pa)
{
	uint64_t table = second_root, *entry, reserved;
	unsigned rights = READ | WRITE;
	int shift, leaf;

	if (gpa >> 48)
		return NOT_CANONICAL;
	for (shift = 39;; shift -= 9) {
		entry = entry_at(table + (gpa >> shift & 511) * 8);
		if (!entry)
			return FETCH;
		if (!(*entry & 3))
			return NOT_PRESENT;
		leaf = shift == 12 || (shift <= 30 && *entry >> 7 & 1);
		// Above the host address width, IW; SNP and PS in tables, low address bits in large pages.
		reserved = ABOVE | 1ull << 62;
		if (!leaf)
			reserved |= 1u << 11 | (shift > 30) << 7;
		else
			reserved |= (1ull << shift) - 4096;
		if (*entry & reserved)
			return RESERVED;
		rights &= *entry;
		if (leaf)
			break;
		table = *entry & ADDRESS;
	}
	if (!rights)
		return NOT_PRESENT;
	if ((rights & need) != need)
		return PERMISSION;
	*pa = (*entry & ADDRESS) | (gpa & ((1ull << shift) - 1));
	return NONE;
}

static enum fault first_stage(uint64_t va, unsigned need, int nested, uint64_t *out)
{
	uint64_t table = first_root, *entry, place, reserved, flags;
	unsigned rights = 6;
	enum fault fault;
	int shift, leaf;

	if ((int64_t)va >> 47 != 0 && (int64_t)va >> 47 != -1)
		return NOT_CANONICAL;
	for (shift = 39;; shift -= 9) {
		place = table + (va >> shift & 511) * 8;
		if (nested) {
			fault = second_stage(place, READ, &place);
			if (fault)
				return fault;
		}
		entry = entry_at(place);
		if (!entry)
			return FETCH;
		if (!(*entry & 1))
			return NOT_PRESENT;
		leaf = shift == 12 || (shift <= 30 && *entry >> 7 & 1);
		reserved = ABOVE;
		if (!leaf)
			reserved |= (shift > 30) << 7;
		else if (shift > 12)
			reserved |= (1ull << shift) - 8192;
		if (*entry & reserved)
			return RESERVED;
		rights &= *entry;
		// Users: U/S everywhere, R/W as well to write.
		if (leaf && (!(rights & 4) || ((need & WRITE) && !(rights & 2))))
			return PERMISSION;
		flags = leaf && (need & WRITE) ? 0x60 : 0x20;
		if ((*entry & flags) != flags)
			*entry |= flags;
		if (leaf)
			break;
		table = *entry & ADDRESS;
	}
	*out = (*entry & ADDRESS) | (va & ((1ull << shift) - 1));
	return nested ? second_stage(*out, need, out) : NONE;
}

static void configure(uint64_t stage1_root, uint64_t stage2_root)
{
	first_root = stage1_root;
	second_root = stage2_root;
}

static bool walk(enum way way, uint64_t address, uint64_t *out, uint64_t *sum)
{
	(void)sum;
	return !(way == STAGE2 ? second_stage(address, WRITE, out) : first_stage(address, WRITE, way == NESTED, out));
}
