// The peer of bench/iommu.mjs for walks: host tables, guest tables and both, of 4 KiB pages and four levels, in plain C,
// with the checks that a walk has to make, and no cache of anything. Host tables are stage 2, with Mode 4.
#include "walk.h"

enum { READ = 1, WRITE = 2, PA_BITS = 52 };
enum fault { NONE, WIDTH, NOT_PRESENT, LEVEL, SKIPPED, RESERVED, SIZE, PERMISSION, ABORT };

static uint64_t cr3, root;

static const uint64_t OUTPUT = 0x000ffffffffff000u;
// Bits of guests' entries above the physical address size.
static const uint64_t ABOVE = 0x000fffffffffffffu & ~((1ull << PA_BITS) - 1);

static enum fault host(uint64_t gpa, unsigned need, uint64_t *spa)
{
	uint64_t table = root, *entry;
	unsigned rights = READ | WRITE, next, level, shift;

	if (gpa >> 48)
		return WIDTH;
	for (level = 4;; level = next) {
		shift = 3 + 9 * level;
		entry = entry_at(table + ((gpa >> shift) & 511) * 8);
		if (!entry)
			return ABORT;
		if (!(*entry & 1))
			return NOT_PRESENT;
		next = *entry >> 9 & 7;
		rights &= *entry >> 61;
		if (next == 0 || next == 7)
			break;
		if (next >= level)
			return LEVEL;
		if (*entry >> 52 & 0x1ff)
			return RESERVED;
		if (next < level - 1 && gpa << (64 - shift) >> (64 - shift) >> (12 + 9 * next))
			return SKIPPED;
		table = *entry & OUTPUT;
	}
	if (level == 6)
		return LEVEL;
	if (*entry >> 52 & 0x7f)
		return RESERVED;
	if (next == 7) {
		unsigned bits = 13 + __builtin_ctzll(~(*entry >> 12));

		if (bits <= shift || bits >= shift + 9 || bits > 52)
			return SIZE;
		shift = bits;
	}
	if ((rights & need) != need)
		return PERMISSION;
	*spa = (*entry & OUTPUT & ~((1ull << shift) - 1)) | (gpa & ((1ull << shift) - 1));
	return NONE;
}

static enum fault guest(uint64_t gva, unsigned need, int nested, uint64_t *out)
{
	uint64_t table = cr3, *entry, at, reserved, flags;
	unsigned rights = 6;
	enum fault fault;
	int shift, leaf;

	if ((int64_t)gva >> 47 != 0 && (int64_t)gva >> 47 != -1)
		return WIDTH;
	for (shift = 39;; shift -= 9) {
		at = table + ((gva >> shift) & 511) * 8;
		if (nested) {
			fault = host(at, READ, &at);
			if (fault)
				return fault;
		}
		entry = entry_at(at);
		if (!entry)
			return ABORT;
		if (!(*entry & 1))
			return NOT_PRESENT;
		leaf = shift == 12 || (shift <= 30 && *entry & 0x80);
		reserved = ABOVE;
		if (!leaf)
			reserved |= (shift > 30) << 7;
		else if (shift > 12)
			reserved |= (1ull << shift) - 8192;
		if (*entry & reserved)
			return RESERVED;
		rights &= *entry;
		if (leaf && (!(rights & 4) || (need & WRITE && !(rights & 2))))
			return PERMISSION;
		flags = leaf && need & WRITE ? 0x60 : 0x20;
		if ((*entry & flags) != flags)
			*entry |= flags;
		if (leaf)
			break;
		table = *entry & OUTPUT;
	}
	*out = (*entry & OUTPUT & ~((1ull << shift) - 1)) | (gva & ((1ull << shift) - 1));
	return nested ? host(*out, need, out) : NONE;
}

static void configure(uint64_t stage1_root, uint64_t stage2_root)
{
	cr3 = stage1_root;
	root = stage2_root;
}

static bool walk(enum way way, uint64_t address, uint64_t *out, uint64_t *sum)
{
	(void)sum;
	return !(way == STAGE2 ? host(address, WRITE, out) : guest(address, WRITE, way == NESTED, out));
}
