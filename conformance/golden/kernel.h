// As much of a kernel as page tables need to run in a process: what is common to all of Linux's formats. Physical
// addresses are the process's own: page tables lie below 2^47.

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t s64;
typedef u64 phys_addr_t;
typedef u64 dma_addr_t;
typedef unsigned int gfp_t;

struct device {
	int unused;
};

#define GFP_KERNEL 0u
#define PAGE_SIZE 4096ul
#define PAGE_MASK (~(PAGE_SIZE - 1))
#define SZ_4K 0x1000ul
#define SZ_16K 0x4000ul
#define SZ_64K 0x10000ul
#define SZ_2M 0x200000ul
#define SZ_32M 0x2000000ul
#define SZ_512M 0x20000000ul
#define SZ_1G 0x40000000ul

#define BIT(n) (1ul << (n))
#define GENMASK_ULL(high, low) ((~0ull >> (63 - (high))) & (~0ull << (low)))
#define ilog2(n) (63 - __builtin_clzl(n))
#define __ffs(n) ((unsigned long)__builtin_ctzl(n))
#define __fls(n) (63ul - __builtin_clzl(n))
#define DIV_ROUND_UP(n, d) (((n) + (d) - 1) / (d))
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
#define min_t(type, a, b) min((type)(a), (type)(b))
#define container_of(pointer, type, member) ((type *)((char *)(pointer) - offsetof(type, member)))

#define READ_ONCE(x) (*(volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile __typeof__(x) *)&(x) = (value))
#define wmb() __sync_synchronize()
#define dma_wmb() __sync_synchronize()
#define cmpxchg64_relaxed(pointer, old, new) __sync_val_compare_and_swap(pointer, old, new)
#define set_bit(bit, pointer) ((void)(*(pointer) |= 1ul << (bit)))

#define WARN_ON(condition) ((bool)(condition))
#define WARN_ONCE(condition, ...) ((bool)(condition))
#define dev_err(...) ((void)0)

#define kmalloc_obj(object) malloc(sizeof(object))
#define kfree(pointer) free(pointer)
#define virt_to_phys(pointer) ((phys_addr_t)(uintptr_t)(pointer))
#define phys_to_virt(address) ((void *)(uintptr_t)(address))
#define dev_to_node(device) 0

#define DMA_TO_DEVICE 1
#define dma_map_single(device, pages, size, direction) virt_to_phys(pages)
#define dma_mapping_error(device, address) 0
#define dma_unmap_single(device, address, size, direction) ((void)0)
#define dma_sync_single_for_device(device, address, size, direction) ((void)0)

// include/linux/iommu.h
#define IOMMU_READ (1 << 0)
#define IOMMU_WRITE (1 << 1)
#define IOMMU_CACHE (1 << 2)
#define IOMMU_NOEXEC (1 << 3)
#define IOMMU_MMIO (1 << 4)
#define IOMMU_PRIV (1 << 5)
#define IOMMU_DIRTY_NO_CLEAR (1 << 0)
