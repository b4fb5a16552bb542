// The peer of bench/iommu.mjs for walks: those of packages/core/src/pagetable/armv8-stage1.ts and -stage2.ts in plain C,
// with the same configuration (granule, levels, output size, endianness, Access flag, hierarchical permissions), the same
// checks and the same answers (output, size, level, permissions, attributes), and no cache of anything.
#include <string.h>
#include "walk.h"

enum { PR = 1, PW = 2, PX = 4, UR = 8, UW = 16, UX = 32 };
enum fault { NONE, TRANSLATION, ADDRESS_SIZE, ACCESS_FLAG, PERMISSION, ABORT };

// One stage's tables, and what their descriptors mean.
struct stage {
	uint64_t base, output_limit;
	unsigned granule_bits, stride, input_bits, start_shift, start_level;
	int block_level;
	bool high_bits, big_endian, affd, ha, hd, had, ptw, fwb;
	// By AP or S2AP, hierarchical permissions and execute-never bits.
	uint8_t permissions[64];
	uint8_t mair[8];
};

struct leaf {
	uint64_t out;
	unsigned bits, span_bits, permissions, attributes, sh;
	int level;
	bool clean, non_global;
};

static bool load(uint64_t pa, uint64_t *out)
{
	const uint64_t *entry = entry_at(pa);

	if (entry)
		*out = *entry;
	return entry;
}

static bool store(uint64_t pa, uint64_t value)
{
	uint64_t *entry = entry_at(pa);

	if (entry)
		*entry = value;
	return entry;
}

static uint64_t output(const struct stage *stage, uint64_t entry, unsigned bits)
{
	uint64_t address = entry & 0x0000ffffffffffffu & ~((1ull << bits) - 1);

	return stage->high_bits ? address | (entry >> 12 & 15) << 48 : address;
}

static unsigned contiguous(const struct stage *stage, int level, unsigned bits)
{
	if (stage->granule_bits == 12)
		return level >= 1 ? bits + 4 : bits;
	if (stage->granule_bits == 14)
		return level == 3 ? bits + 7 : level == 2 ? bits + 5 : bits;
	return level >= 2 ? bits + 5 : bits;
}

static __attribute__((noinline)) enum fault stage2(const struct stage *stage, uint64_t ipa, unsigned need, bool implicit,
						   struct leaf *leaf)
{
	uint64_t table = stage->base, entry, at;
	unsigned shift = stage->start_shift, attributes, s2ap, permissions;
	int level = stage->start_level;
	bool clean, access, dirty;

	if (ipa >> stage->input_bits)
		return TRANSLATION;
	at = table + (ipa >> shift) * 8;
	for (;;) {
		if (!load(at, &entry))
			return ABORT;
		if (stage->big_endian)
			entry = __builtin_bswap64(entry);
		if ((entry & 3) != 3 || level == 3)
			break;
		table = output(stage, entry, stage->granule_bits);
		if (table >= stage->output_limit)
			return ADDRESS_SIZE;
		level++;
		shift -= stage->stride;
		at = table + (ipa >> shift & ((1u << stage->stride) - 1)) * 8;
	}
	if (!(entry & 1) || (!(entry & 2) && (level == 3 || level < stage->block_level)))
		return TRANSLATION;
	leaf->out = output(stage, entry, shift);
	if (leaf->out >= stage->output_limit)
		return ADDRESS_SIZE;
	access = !(entry >> 10 & 1) && stage->ha;
	if (!(entry >> 10 & 1) && !stage->ha && !stage->affd)
		return ACCESS_FLAG;
	s2ap = entry >> 6 & 3;
	clean = stage->hd && (entry >> 51 & 1) && !(s2ap & 2);
	permissions = stage->permissions[(clean ? s2ap | 2 : s2ap) | (entry >> 53 & 3) << 2];
	attributes = entry >> 2 & 15;
	if ((permissions & need) != need || (implicit && stage->ptw && !(attributes & (stage->fwb ? 4 : 12))))
		return PERMISSION;
	dirty = clean && (need & (PW | UW));
	if ((access || dirty) && !store(at, entry | (access ? 1 << 10 : 0) | (dirty ? 1 << 7 : 0)))
		return ABORT;
	leaf->bits = leaf->span_bits = shift;
	if ((entry >> 52 & 1) && !stage->ha)
		leaf->span_bits = contiguous(stage, level, shift);
	leaf->level = level;
	leaf->permissions = permissions;
	leaf->clean = clean && !dirty;
	leaf->attributes = attributes;
	leaf->sh = entry >> 8 & 3;
	return NONE;
}

static __attribute__((noinline)) enum fault stage1(const struct stage *stage, const struct stage *second, uint64_t va,
						   unsigned need, struct leaf *leaf)
{
	uint64_t table = stage->base, entry, at, virtual;
	unsigned shift = stage->start_shift, inherited = 0, ap, permissions;
	int level = stage->start_level;
	bool clean, access, dirty;
	enum fault fault;
	struct leaf where;

	if (va >> stage->input_bits)
		return TRANSLATION;
	virtual = table + (va >> shift) * 8;
	for (;;) {
		at = virtual;
		if (second) {
			fault = stage2(second, virtual, PR | UR, true, &where);
			if (fault)
				return fault;
			at = where.out | (virtual & ((1ull << where.bits) - 1));
		}
		if (!load(at, &entry))
			return ABORT;
		if (stage->big_endian)
			entry = __builtin_bswap64(entry);
		if ((entry & 3) != 3 || level == 3)
			break;
		table = output(stage, entry, stage->granule_bits);
		if (table >= stage->output_limit)
			return ADDRESS_SIZE;
		if (!stage->had)
			inherited |= entry >> 59 & 15;
		level++;
		shift -= stage->stride;
		virtual = table + (va >> shift & ((1u << stage->stride) - 1)) * 8;
	}
	if (!(entry & 1) || (!(entry & 2) && (level == 3 || level < stage->block_level)))
		return TRANSLATION;
	leaf->out = output(stage, entry, shift);
	if (leaf->out >= stage->output_limit)
		return ADDRESS_SIZE;
	access = !(entry >> 10 & 1) && stage->ha;
	if (!(entry >> 10 & 1) && !stage->ha && !stage->affd)
		return ACCESS_FLAG;
	ap = entry >> 6 & 3;
	clean = stage->hd && (entry >> 51 & 1) && (ap & 2);
	permissions = stage->permissions[(clean ? ap & 1 : ap) | (inherited >> 2 & 3) << 2 |
					 ((entry >> 54 & 1) | (inherited >> 1 & 1)) << 4 |
					 ((entry >> 53 & 1) | (inherited & 1)) << 5];
	if ((permissions & need) != need)
		return PERMISSION;
	dirty = clean && (need & (PW | UW));
	if (access || dirty) {
		if (second) {
			fault = stage2(second, virtual, PR | UR | PW | UW, true, &where);
			if (fault)
				return fault;
		}
		if (!store(at, (entry | (access ? 1 << 10 : 0)) & ~(dirty ? 1ull << 7 : 0)))
			return ABORT;
	}
	leaf->bits = leaf->span_bits = shift;
	if ((entry >> 52 & 1) && !stage->ha)
		leaf->span_bits = contiguous(stage, level, shift);
	leaf->level = level;
	leaf->permissions = permissions;
	leaf->clean = clean && !dirty;
	leaf->attributes = stage->mair[entry >> 2 & 7];
	leaf->sh = entry >> 8 & 3;
	leaf->non_global = entry >> 11 & 1;
	return NONE;
}

// 4K tables of four levels, little-endian, no hardware updates: as the benchmark's STE and CD say.
static void set_up(struct stage *stage, uint64_t ttb, bool first)
{
	unsigned i;

	memset(stage, 0, sizeof(*stage));
	stage->base = ttb;
	stage->granule_bits = 12;
	stage->stride = 9;
	stage->input_bits = 48;
	stage->start_shift = 39;
	stage->block_level = 1;
	stage->output_limit = 1ull << 48;
	for (i = 0; i < 64; i++) {
		bool readonly = (i & 2) || (i & 8), user = (i & 1) && !(i & 4);

		if (first)
			stage->permissions[i] = PR | (readonly ? 0 : PW) | (user ? UR | (readonly ? 0 : UW) : 0) |
						(i & 32 || (user && !readonly) ? 0 : PX) | (i & 16 || !user ? 0 : UX);
		else
			stage->permissions[i] = (i & 1 ? PR | UR : 0) | (i & 2 ? PW | UW : 0) | (i & 8 ? 0 : PX | UX);
	}
	memset(stage->mair, 0xff, sizeof(stage->mair));
}

static struct stage first, second;

static void configure(uint64_t stage1_root, uint64_t stage2_root)
{
	set_up(&first, stage1_root, true);
	set_up(&second, stage2_root, false);
}

static bool walk(enum way way, uint64_t address, uint64_t *out, uint64_t *sum)
{
	struct leaf leaf = { .out = address };

	if (way != STAGE2 && stage1(&first, way == NESTED ? &second : NULL, address, UW, &leaf))
		return false;
	if (way != STAGE1 && stage2(&second, leaf.out, UW, false, &leaf))
		return false;
	*out = leaf.out;
	*sum += leaf.permissions + leaf.attributes;
	return true;
}
