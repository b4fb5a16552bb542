/* Bytes: of the program's memory, of files that it shares, of the structures that stat(2) fills. */
#include "viommu.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* read(pid, va, bytes): whether all of it could be read. */
static napi_value read_memory(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	napi_value argv[3];
	uint8_t *bytes;
	size_t length;

	glue_args(env, info, argv, 3);
	bytes = glue_bytes(env, argv[2], &length);
	return glue_number(env, memory_read(s, (pid_t)glue_int(env, argv[0]), glue_u64(env, argv[1]), bytes, length) >= 0);
}

/* write(pid, va, bytes): whether all of it could be written. */
static napi_value write_memory(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	napi_value argv[3];
	uint8_t *bytes;
	size_t length;

	glue_args(env, info, argv, 3);
	bytes = glue_bytes(env, argv[2], &length);
	return glue_number(env, memory_write(s, (pid_t)glue_int(env, argv[0]), glue_u64(env, argv[1]), bytes, length) >= 0);
}

/* gather(pid, places, bytes): whether all of them could be read, and fill the bytes. */
static napi_value gather(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	napi_value argv[3];
	size_t words, length;
	uint8_t *places, *bytes;

	glue_args(env, info, argv, 3);
	places = glue_bytes(env, argv[1], &words);
	bytes = glue_bytes(env, argv[2], &length);
	return glue_number(env, memory_gather(s, (pid_t)glue_int(env, argv[0]), (const struct place *)places, words / 3,
					      bytes, length));
}

/* How many of the mailbox's scratch bytes are meant: never more than there are. */
static size_t scratch_length(napi_env env, napi_value value)
{
	int64_t length = glue_int(env, value);

	return length < 0 ? 0 : length > SCRATCH_BYTES ? SCRATCH_BYTES : (size_t)length;
}

/* readScratch(pid, length): read() into the mailbox's scratch bytes, the address in wide[0]: less to convert. */
static napi_value read_scratch(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	napi_value argv[2];
	size_t length;

	glue_args(env, info, argv, 2);
	length = scratch_length(env, argv[1]);
	return glue_number(env, memory_read(s, (pid_t)glue_int(env, argv[0]), s->box->wide[0], s->box->scratch, length) >= 0);
}

static napi_value write_scratch(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	napi_value argv[2];
	size_t length;

	glue_args(env, info, argv, 2);
	length = scratch_length(env, argv[1]);
	return glue_number(env, memory_write(s, (pid_t)glue_int(env, argv[0]), s->box->wide[0], s->box->scratch, length) >= 0);
}

/* readAt(fd, offset, bytes): how many were read, -errno. */
static napi_value read_at(napi_env env, napi_callback_info info)
{
	napi_value argv[3];
	uint8_t *bytes;
	size_t length;

	glue_args(env, info, argv, 3);
	bytes = glue_bytes(env, argv[2], &length);
	return glue_result(env, pread((int)glue_int(env, argv[0]), bytes, length, (off_t)glue_u64(env, argv[1])));
}

/* readScratchAt(fd, length): readAt() into the mailbox's scratch bytes, the offset in wide[0]. */
static napi_value read_scratch_at(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	napi_value argv[2];
	size_t length;

	glue_args(env, info, argv, 2);
	length = scratch_length(env, argv[1]);
	return glue_result(env, pread((int)glue_int(env, argv[0]), s->box->scratch, length, (off_t)s->box->wide[0]));
}

/* hugetlbfs has no write(2): its pages are written through a mapping. */
static ssize_t write_mapped(int fd, uint64_t offset, const uint8_t *bytes, size_t length, size_t page)
{
	size_t done = 0;

	while (done < length) {
		size_t in_page = (offset + done) % page;
		size_t piece = page - in_page < length - done ? page - in_page : length - done;
		uint8_t *at = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(offset + done - in_page));

		if (at == MAP_FAILED)
			return -1;
		memcpy(at + in_page, bytes + done, piece);
		munmap(at, page);
		done += piece;
	}
	return (ssize_t)done;
}

static ssize_t write_file(int fd, uint64_t offset, const uint8_t *bytes, size_t length, int64_t huge_page)
{
	return huge_page > 0 ? write_mapped(fd, offset, bytes, length, (size_t)huge_page)
			     : pwrite(fd, bytes, length, (off_t)offset);
}

/* writeAt(fd, offset, bytes, pageBytes): how many were written, -errno. pageBytes: of a hugetlbfs file, else 0. */
static napi_value write_at(napi_env env, napi_callback_info info)
{
	napi_value argv[4];
	uint8_t *bytes;
	size_t length;

	glue_args(env, info, argv, 4);
	bytes = glue_bytes(env, argv[2], &length);
	return glue_result(env, write_file((int)glue_int(env, argv[0]), glue_u64(env, argv[1]), bytes, length,
					   glue_int(env, argv[3])));
}

/* writeScratchAt(fd, length, pageBytes): writeAt() from the mailbox's scratch bytes, the offset in wide[0]. */
static napi_value write_scratch_at(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	napi_value argv[3];
	size_t length;

	glue_args(env, info, argv, 3);
	length = scratch_length(env, argv[1]);
	return glue_result(env, write_file((int)glue_int(env, argv[0]), s->box->wide[0], s->box->scratch, length,
					   glue_int(env, argv[2])));
}

/* memoryAlive(fd): whether the address space behind an open /proc/PID/mem still has a user (mmget_not_zero()). */
static napi_value memory_alive(napi_env env, napi_callback_info info)
{
	napi_value argv[1];
	char byte;

	glue_args(env, info, argv, 1);
	/* fs/proc/base.c mem_rw(): 0 without users; EIO where nothing is mapped at the address. */
	return glue_number(env, pread((int)glue_int(env, argv[0]), &byte, 1, 4096) != 0);
}

struct procmap_query_ {
	uint64_t size, query_flags, query_addr, vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
	uint32_t dev_major, dev_minor, vma_name_size, build_id_size;
	uint64_t vma_name_addr, build_id_addr;
};
#define PROCMAP_QUERY_ _IOWR('f', 17, struct procmap_query_) /* uapi/linux/fs.h PROCMAP_QUERY, Linux 6.11 */
#define COVERING_OR_NEXT 0x10

/*
 * mapping(fd, address): the mapping at or after the address, from an open /proc/PID/maps. 1, 0 where there is none,
 * -errno. wide = start, end, flags, page bytes, offset, inode; out = major, minor, length of the name in scratch.
 */
static napi_value mapping(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	struct procmap_query_ query = { .size = sizeof(query), .query_flags = COVERING_OR_NEXT };
	napi_value argv[2];

	glue_args(env, info, argv, 2);
	query.query_addr = glue_u64(env, argv[1]);
	query.vma_name_size = SCRATCH_BYTES;
	query.vma_name_addr = (uint64_t)(uintptr_t)s->box->scratch;
	if (ioctl((int)glue_int(env, argv[0]), PROCMAP_QUERY_, &query))
		return errno == ENOENT ? glue_number(env, 0) : glue_result(env, -1);
	s->box->wide[0] = query.vma_start;
	s->box->wide[1] = query.vma_end;
	s->box->wide[2] = query.vma_flags;
	s->box->wide[3] = query.vma_page_size;
	s->box->wide[4] = query.vma_offset;
	s->box->wide[5] = query.inode;
	s->box->out[0] = query.dev_major;
	s->box->out[1] = query.dev_minor;
	s->box->out[2] = query.vma_name_size ? query.vma_name_size - 1 : 0;
	return glue_number(env, 1);
}

/* What putStat() takes from out[]. Mirrored in src/stat.ts. */
enum stat_field { MODE, INODE, LINKS, UID, GID, SIZE, DEV_MAJOR, DEV_MINOR, RDEV_MAJOR, RDEV_MINOR, SECONDS };

/* putStat(pid): a struct stat to the address in wide[0]. C's is the kernel's on both architectures. */
static napi_value put_stat(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	const double *field = s->box->out;
	napi_value argv[1];
	struct stat st;

	glue_args(env, info, argv, 1);
	memset(&st, 0, sizeof(st));
	st.st_mode = (uint32_t)field[MODE];
	st.st_ino = (uint64_t)field[INODE];
	st.st_nlink = (uint32_t)field[LINKS];
	st.st_uid = (uint32_t)field[UID];
	st.st_gid = (uint32_t)field[GID];
	st.st_size = (int64_t)field[SIZE];
	st.st_blksize = 4096;
	st.st_dev = makedev((uint32_t)field[DEV_MAJOR], (uint32_t)field[DEV_MINOR]);
	st.st_rdev = makedev((uint32_t)field[RDEV_MAJOR], (uint32_t)field[RDEV_MINOR]);
	st.st_atime = st.st_mtime = st.st_ctime = (int64_t)field[SECONDS];
	return glue_number(env, memory_write(s, (pid_t)glue_int(env, argv[0]), s->box->wide[0], &st, sizeof(st)) >= 0);
}

/* putStatx(pid) */
static napi_value put_statx(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	const double *field = s->box->out;
	napi_value argv[1];
	struct statx st;

	glue_args(env, info, argv, 1);
	memset(&st, 0, sizeof(st));
	st.stx_mask = STATX_BASIC_STATS;
	st.stx_blksize = 4096;
	st.stx_mode = (uint16_t)field[MODE];
	st.stx_ino = (uint64_t)field[INODE];
	st.stx_nlink = (uint32_t)field[LINKS];
	st.stx_uid = (uint32_t)field[UID];
	st.stx_gid = (uint32_t)field[GID];
	st.stx_size = (uint64_t)field[SIZE];
	st.stx_dev_major = (uint32_t)field[DEV_MAJOR];
	st.stx_dev_minor = (uint32_t)field[DEV_MINOR];
	st.stx_rdev_major = (uint32_t)field[RDEV_MAJOR];
	st.stx_rdev_minor = (uint32_t)field[RDEV_MINOR];
	st.stx_atime.tv_sec = st.stx_mtime.tv_sec = st.stx_ctime.tv_sec = (int64_t)field[SECONDS];
	return glue_number(env, memory_write(s, (pid_t)glue_int(env, argv[0]), s->box->wide[0], &st, sizeof(st)) >= 0);
}

/* limit(pid, resource): the soft limit, -1 where there is none, -2 where it cannot be known. out[0] = the hard one. */
static napi_value limit(napi_env env, napi_callback_info info)
{
	struct supervisor *s = glue_supervisor(env);
	struct rlimit limit;
	napi_value argv[2];

	glue_args(env, info, argv, 2);
	if (prlimit((pid_t)glue_int(env, argv[0]), (int)glue_int(env, argv[1]), NULL, &limit))
		return glue_number(env, -2);
	s->box->out[0] = limit.rlim_max == RLIM_INFINITY ? -1 : (double)limit.rlim_max;
	return glue_number(env, limit.rlim_cur == RLIM_INFINITY ? -1 : (double)limit.rlim_cur);
}

void napi_memory_register(napi_env env, napi_value exports)
{
	static const struct export table[] = {
		{ "read", read_memory },	     { "write", write_memory },
		{ "gather", gather },
		{ "readScratch", read_scratch },     { "writeScratch", write_scratch },
		{ "readAt", read_at },		     { "writeAt", write_at },
		{ "readScratchAt", read_scratch_at }, { "writeScratchAt", write_scratch_at },
		{ "memoryAlive", memory_alive },     { "mapping", mapping },
		{ "putStat", put_stat },	     { "putStatx", put_statx },
		{ "limit", limit },
	};

	glue_define(env, exports, table, sizeof(table) / sizeof(table[0]));
}
