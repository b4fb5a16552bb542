/*
 * The seccomp filter (classic BPF), and the table that says what a stopped system call asks for.
 *
 * The filter is kept in three groups. Calls that are stopped whatever their arguments are; calls whose arguments
 * decide; everything else. The last group compares nothing but the number, so Linux serves it from a bitmap
 * (kernel/seccomp.c seccomp_cache_prepare()) and it costs next to nothing.
 */
#include "viommu.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <stdlib.h>
#include <sys/syscall.h>

#if defined(__x86_64__)
#define NATIVE_ARCH AUDIT_ARCH_X86_64
#define X32_BIT 0x40000000u
#elif defined(__aarch64__)
#define NATIVE_ARCH AUDIT_ARCH_AARCH64
#else
#error "viommu runs on x86-64 and arm64"
#endif

#ifndef __NR_io_uring_setup
#define __NR_io_uring_setup 425
#endif
#ifndef __NR_openat2
#define __NR_openat2 437
#endif
#ifndef __NR_faccessat2
#define __NR_faccessat2 439
#endif

#define IOCTL_TYPE_MASK 0xff00u
#define IOMMUFD_TYPE 0x3b00u	  /* ';' in _IOC_TYPE's place */
#define KVM_SET_DEVICE_ATTR 0x4018aee1u
#define TAG_MASK 0xff000000u /* bits 63:56 of an offset, in its upper word */
#define TAG 0x7f000000u	     /* bits 62:56 set: the offsets that we hand out for regions of devices */
/*
 * Where Linux has regions 1 to 8, in the same word: DPDK before 23.07 does not ask (drivers/bus/pci/linux/pci_vfio.c
 * VFIO_GET_REGION_ADDR()). Files of a terabyte are stopped there too, and let go on.
 */
#define REGIONS_START 0x100u
#define REGIONS_END 0x900u
#define MAP_KIND_MASK 0x21u  /* MAP_SHARED (also in MAP_SHARED_VALIDATE) | MAP_ANONYMOUS */
#define MAP_KIND_SHARED_FILE 0x01u
#define MAP_KIND_PRIVATE_FILE 0x00u

static const int always_stopped[] = {
#ifdef __NR_open
	__NR_open,
#endif
#ifdef __NR_access
	__NR_access,
#endif
#ifdef __NR_stat
	__NR_stat,
#endif
#ifdef __NR_lstat
	__NR_lstat,
#endif
#ifdef __NR_readlink
	__NR_readlink,
#endif
	__NR_openat,	__NR_openat2, __NR_faccessat, __NR_faccessat2, __NR_newfstatat,
	__NR_fstat,	__NR_statx,   __NR_readlinkat, __NR_execve,    __NR_execveat,
	/* ls(1) asks these of what it has just found. */
	__NR_getxattr,	__NR_lgetxattr, __NR_listxattr, __NR_llistxattr,
	/* Seldom called, and what was read of the task's credentials is out of date afterwards. */
	__NR_setuid,	__NR_setreuid, __NR_setresuid, __NR_capset,   __NR_unshare, __NR_setns,
};
static const int stopped_by_descriptor[] = { __NR_read, __NR_write, __NR_readv, __NR_writev, __NR_lseek };
/* What makes a copy: it must lie in the window, too. Not needed where every read is stopped. */
static const int copies_descriptor[] = { __NR_dup, __NR_fcntl };
static const int stopped_by_offset[] = { __NR_pread64,	__NR_pwrite64, __NR_preadv,
					 __NR_pwritev, __NR_preadv2,  __NR_pwritev2 };

enum label { NEXT, ALLOW, STOP, REFUSE, IOCTL, MMAP, BY_OFFSET, BY_DESCRIPTOR, LABELS };

#define CODE_MAX 96
struct assembler {
	struct sock_filter code[CODE_MAX];
	uint8_t if_true[CODE_MAX], if_false[CODE_MAX];
	int at[LABELS];
	int length;
};

static void emit(struct assembler *a, uint16_t code, uint32_t k, enum label if_true, enum label if_false)
{
	if (a->length == CODE_MAX)
		abort();
	a->code[a->length] = (struct sock_filter){ code, 0, 0, k };
	a->if_true[a->length] = if_true;
	a->if_false[a->length] = if_false;
	a->length++;
}

static void load(struct assembler *a, uint32_t offset)
{
	emit(a, BPF_LD | BPF_W | BPF_ABS, offset, NEXT, NEXT);
}

static void jump(struct assembler *a, uint16_t how, uint32_t k, enum label if_true, enum label if_false)
{
	emit(a, BPF_JMP | how | BPF_K, k, if_true, if_false);
}

static void label(struct assembler *a, enum label name)
{
	a->at[name] = a->length;
}

static uint32_t low_word(int argument)
{
	return offsetof(struct seccomp_data, args) + 8 * argument; /* both architectures are little-endian */
}

static void assemble(struct assembler *a, const struct filter_options *options)
{
	load(a, offsetof(struct seccomp_data, arch));
	jump(a, BPF_JEQ, NATIVE_ARCH, NEXT, ALLOW);
	load(a, offsetof(struct seccomp_data, nr));
#ifdef X32_BIT
	jump(a, BPF_JGE, X32_BIT, ALLOW, NEXT);
#endif
	for (size_t i = 0; i < sizeof(stopped_by_descriptor) / sizeof(int); i++)
		jump(a, BPF_JEQ, stopped_by_descriptor[i], BY_DESCRIPTOR, NEXT);
	for (size_t i = 0; !options->stop_reads && i < sizeof(copies_descriptor) / sizeof(int); i++)
		jump(a, BPF_JEQ, copies_descriptor[i], BY_DESCRIPTOR, NEXT);
	jump(a, BPF_JEQ, __NR_ioctl, IOCTL, NEXT);
	jump(a, BPF_JEQ, __NR_mmap, MMAP, NEXT);
	for (size_t i = 0; i < sizeof(stopped_by_offset) / sizeof(int); i++)
		jump(a, BPF_JEQ, stopped_by_offset[i], BY_OFFSET, NEXT);
	for (size_t i = 0; i < sizeof(always_stopped) / sizeof(int); i++)
		jump(a, BPF_JEQ, always_stopped[i], STOP, NEXT);
	if (options->stop_io_uring)
		jump(a, BPF_JEQ, __NR_io_uring_setup, REFUSE, NEXT);
	jump(a, BPF_JA, 0, ALLOW, ALLOW);

	label(a, IOCTL);
	load(a, low_word(1));
	jump(a, BPF_JEQ, KVM_SET_DEVICE_ATTR, STOP, NEXT);
	emit(a, BPF_ALU | BPF_AND | BPF_K, IOCTL_TYPE_MASK, NEXT, NEXT);
	jump(a, BPF_JEQ, IOMMUFD_TYPE, STOP, ALLOW);

	label(a, MMAP);
	load(a, low_word(3));
	emit(a, BPF_ALU | BPF_AND | BPF_K, MAP_KIND_MASK, NEXT, NEXT);
	jump(a, BPF_JEQ, MAP_KIND_SHARED_FILE, STOP, NEXT);
	jump(a, BPF_JEQ, MAP_KIND_PRIVATE_FILE, NEXT, ALLOW);
	load(a, low_word(5) + 4); /* a region of a device: there is no private mapping of it */
	emit(a, BPF_ALU | BPF_AND | BPF_K, TAG_MASK, NEXT, NEXT);
	jump(a, BPF_JEQ, TAG, STOP, ALLOW);

	label(a, BY_OFFSET);
	load(a, low_word(3) + 4);
	emit(a, BPF_ALU | BPF_AND | BPF_K, TAG_MASK, NEXT, NEXT);
	jump(a, BPF_JEQ, TAG, STOP, NEXT);
	load(a, low_word(3) + 4);
	jump(a, BPF_JGE, REGIONS_END, BY_DESCRIPTOR, NEXT);
	jump(a, BPF_JGE, REGIONS_START, STOP, NEXT);

	label(a, BY_DESCRIPTOR);
	load(a, low_word(0));
	if (options->stop_reads) {
		jump(a, BPF_JGE, 3, STOP, ALLOW);
	} else {
		jump(a, BPF_JGE, options->window_low, NEXT, ALLOW);
		jump(a, BPF_JGE, options->window_high, ALLOW, STOP);
	}

	label(a, ALLOW);
	emit(a, BPF_RET | BPF_K, SECCOMP_RET_ALLOW, NEXT, NEXT);
	/* As with the sysctl kernel.io_uring_disabled. */
	label(a, REFUSE);
	emit(a, BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM, NEXT, NEXT);
	label(a, STOP);
	emit(a, BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF, NEXT, NEXT);
}

/* Builds the program into memory that the caller frees. 0, or -1 without memory. */
int filter_build(const struct filter_options *options, struct sock_fprog *program)
{
	struct assembler a = { .length = 0 };

	assemble(&a, options);
	for (int i = 0; i < a.length; i++) {
		struct sock_filter *instruction = &a.code[i];

		if (BPF_CLASS(instruction->code) != BPF_JMP)
			continue;
		if (BPF_OP(instruction->code) == BPF_JA) {
			instruction->k = a.at[a.if_true[i]] - i - 1;
			continue;
		}
		instruction->jt = a.if_true[i] == NEXT ? 0 : a.at[a.if_true[i]] - i - 1;
		instruction->jf = a.if_false[i] == NEXT ? 0 : a.at[a.if_false[i]] - i - 1;
	}
	program->filter = malloc(a.length * sizeof(struct sock_filter));
	if (!program->filter)
		return -1;
	for (int i = 0; i < a.length; i++)
		program->filter[i] = a.code[i];
	program->len = a.length;
	return 0;
}

static enum op path_op(struct mailbox *box, enum op op, uint64_t a0, uint64_t a1, uint64_t a2)
{
	box->a[0] = a0;
	box->a[1] = a1;
	box->a[2] = a2;
	return op;
}

static enum op fd_op(struct mailbox *box, const struct seccomp_data *data, enum op op)
{
	box->fd = (int)data->args[0];
	box->a[0] = data->args[1];
	box->a[1] = data->args[2];
	box->a[3] = data->args[3];
	return op;
}

static enum op copy_op(struct mailbox *box, const struct seccomp_data *data)
{
	const uint64_t *args = (const uint64_t *)data->args;
	bool by_fcntl = data->nr == __NR_fcntl;

	if (by_fcntl && (uint32_t)args[1] != F_DUPFD && (uint32_t)args[1] != F_DUPFD_CLOEXEC)
		return OP_NONE;
	box->fd = (int)args[0];
	box->a[0] = by_fcntl ? (uint32_t)args[2] : 0;
	box->a[1] = by_fcntl && (uint32_t)args[1] == F_DUPFD_CLOEXEC;
	return OP_DUP;
}

/*
 * What the call asks for, with its arguments in the mailbox. `path_va` is set to the address of its path where it has
 * one, and then `dirfd` to the directory that the path starts from.
 */
enum op filter_op(const struct seccomp_data *data, struct mailbox *box, uint64_t *path_va, int *dirfd)
{
	const uint64_t *args = (const uint64_t *)data->args;

	*path_va = 0;
	*dirfd = AT_FDCWD;
	box->fd = -1;
	switch (data->nr) {
	case __NR_ioctl:
		return fd_op(box, data, OP_IOCTL);
	case __NR_read:
		return fd_op(box, data, OP_READ);
	case __NR_write:
		return fd_op(box, data, OP_WRITE);
	case __NR_readv:
		return fd_op(box, data, OP_READV);
	case __NR_writev:
		return fd_op(box, data, OP_WRITEV);
	case __NR_pread64:
		return fd_op(box, data, OP_PREAD);
	case __NR_pwrite64:
		return fd_op(box, data, OP_PWRITE);
	case __NR_preadv:
	case __NR_preadv2:
		return fd_op(box, data, OP_PREADV);
	case __NR_pwritev:
	case __NR_pwritev2:
		return fd_op(box, data, OP_PWRITEV);
	case __NR_fstat:
		return fd_op(box, data, OP_FSTAT);
	case __NR_mmap:
		box->fd = (int)args[4];
		box->a[0] = args[0];
		box->a[1] = args[1];
		box->a[2] = (uint32_t)args[2] | args[3] << 32;
		box->a[3] = args[5];
		return OP_MMAP;
	case __NR_lseek:
		return fd_op(box, data, OP_LSEEK);
	case __NR_dup:
	case __NR_fcntl:
		return copy_op(box, data);
	case __NR_setuid:
	case __NR_setreuid:
	case __NR_setresuid:
	case __NR_capset:
	case __NR_unshare:
	case __NR_setns:
		return OP_CREDENTIALS;
	case __NR_execve:
	case __NR_execveat:
		return OP_EXEC;
	}
#ifdef __NR_open
	*path_va = args[0];
	switch (data->nr) {
	case __NR_open:
		return path_op(box, OP_OPEN, args[1], args[2], 0);
	case __NR_access:
		return path_op(box, OP_ACCESS, args[1], 0, 0);
	case __NR_stat:
		return path_op(box, OP_STAT, args[1], 0, 0);
	case __NR_lstat:
		return path_op(box, OP_STAT, args[1], AT_SYMLINK_NOFOLLOW, 0);
	case __NR_readlink:
		return path_op(box, OP_READLINK, args[1], args[2], 0);
	}
#endif
	*path_va = args[0];
	switch (data->nr) {
	case __NR_getxattr:
		return path_op(box, OP_XATTR, 0, 0, 0);
	case __NR_lgetxattr:
		return path_op(box, OP_XATTR, 0, AT_SYMLINK_NOFOLLOW, 0);
	case __NR_listxattr:
		return path_op(box, OP_XATTR, 1, 0, 0);
	case __NR_llistxattr:
		return path_op(box, OP_XATTR, 1, AT_SYMLINK_NOFOLLOW, 0);
	}
	*path_va = args[1];
	*dirfd = (int)args[0];
	switch (data->nr) {
	case __NR_openat:
		return path_op(box, OP_OPEN, args[2], args[3], 0);
	case __NR_openat2:
		return path_op(box, OP_OPEN, args[2], 0, args[3]); /* a0 is the address of struct open_how */
	case __NR_faccessat:
		return path_op(box, OP_ACCESS, args[2], 0, 0);
	case __NR_faccessat2:
		return path_op(box, OP_ACCESS, args[2], args[3], 0);
	case __NR_newfstatat:
		return path_op(box, OP_STAT, args[2], args[3], 0);
	case __NR_statx:
		return path_op(box, OP_STATX, args[4], args[2], args[3]);
	case __NR_readlinkat:
		return path_op(box, OP_READLINK, args[2], args[3], 0);
	}
	return OP_NONE;
}
