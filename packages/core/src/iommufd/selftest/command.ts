import { fail, failed, type Result } from '../../base/result.ts';
import { lastByte } from '../../base/range.ts';
import { hi32, lo32, big, U64_MAX } from '../../base/u64.ts';
import { EINVAL, EOPNOTSUPP, EOVERFLOW } from '../../abi/errno.ts';
import * as test from '../../abi/iommufd-test.ts';
import type { MockIommu } from '../../iommu/mock/driver.ts';
import type { Command } from '../command.ts';
import type { IommufdContext, SelftestCommands } from '../context.ts';
import { getIoas } from '../ioas/ioas.ts';
import type { KernelVersion } from '../profile.ts';
import { accessPages, accessReplaceIoas, accessRw, createAccessFile, destroyAccessPages } from './access.ts';
import { checkDeviceCache, checkIotlb, checkMap, checkRefs } from './checks.ts';
import {
  mockDomain,
  mockDomainReplace,
  pasidAttach,
  pasidCheck,
  pasidDetach,
  pasidReplace,
} from './device.ts';
import { dirty, dmabufGet, dmabufRevoke, triggerIopf, triggerVevent } from './events.ts';

// drivers/iommu/iommufd/selftest.c: IOMMU_TEST_CMD, with which a program drives the mock IOMMU and looks behind the
// scenes.

/** The smallest batch that Linux can work with: a frame number and a count. */
const MEMORY_LIMIT_MIN = 12;

type Operation = (command: Command, iommu: MockIommu) => Result<number>;

const OPERATIONS: Readonly<Record<number, Operation>> = {
  [test.IOMMU_TEST_OP_ADD_RESERVED]: addReserved,
  [test.IOMMU_TEST_OP_MOCK_DOMAIN]: mockDomain,
  [test.IOMMU_TEST_OP_MD_CHECK_MAP]: checkMap,
  [test.IOMMU_TEST_OP_MD_CHECK_REFS]: checkRefs,
  [test.IOMMU_TEST_OP_CREATE_ACCESS]: createAccessFile,
  [test.IOMMU_TEST_OP_DESTROY_ACCESS_PAGES]: destroyAccessPages,
  [test.IOMMU_TEST_OP_ACCESS_PAGES]: accessPages,
  [test.IOMMU_TEST_OP_ACCESS_RW]: accessRw,
  [test.IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT]: setMemoryLimit,
  [test.IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE]: mockDomainReplace,
  [test.IOMMU_TEST_OP_ACCESS_REPLACE_IOAS]: accessReplaceIoas,
  [test.IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS]: mockDomain,
  [test.IOMMU_TEST_OP_DIRTY]: dirty,
  [test.IOMMU_TEST_OP_MD_CHECK_IOTLB]: checkIotlb,
  [test.IOMMU_TEST_OP_TRIGGER_IOPF]: triggerIopf,
  [test.IOMMU_TEST_OP_DEV_CHECK_CACHE]: checkDeviceCache,
  [test.IOMMU_TEST_OP_TRIGGER_VEVENT]: triggerVevent,
  [test.IOMMU_TEST_OP_PASID_ATTACH]: pasidAttach,
  [test.IOMMU_TEST_OP_PASID_REPLACE]: pasidReplace,
  [test.IOMMU_TEST_OP_PASID_DETACH]: pasidDetach,
  [test.IOMMU_TEST_OP_PASID_CHECK_HWPT]: pasidCheck,
  [test.IOMMU_TEST_OP_DMABUF_GET]: dmabufGet,
  [test.IOMMU_TEST_OP_DMABUF_REVOKE]: dmabufRevoke,
};

// The Linux that an operation came with; those that are not named are as old as iommufd.
const SINCE: Readonly<Record<number, KernelVersion>> = {
  [test.IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS]: 607,
  [test.IOMMU_TEST_OP_DIRTY]: 607,
  [test.IOMMU_TEST_OP_MD_CHECK_IOTLB]: 608,
  [test.IOMMU_TEST_OP_TRIGGER_IOPF]: 611,
  [test.IOMMU_TEST_OP_DEV_CHECK_CACHE]: 613,
  [test.IOMMU_TEST_OP_TRIGGER_VEVENT]: 615,
  [test.IOMMU_TEST_OP_PASID_ATTACH]: 615,
  [test.IOMMU_TEST_OP_PASID_REPLACE]: 615,
  [test.IOMMU_TEST_OP_PASID_DETACH]: 615,
  [test.IOMMU_TEST_OP_PASID_CHECK_HWPT]: 615,
  [test.IOMMU_TEST_OP_DMABUF_GET]: 619,
  [test.IOMMU_TEST_OP_DMABUF_REVOKE]: 619,
};

/** IOMMU_TEST_CMD on the mock IOMMU of a machine. */
export class Selftest implements SelftestCommands {
  readonly #iommu: MockIommu;

  constructor(iommu: MockIommu) {
    this.#iommu = iommu;
  }

  execute(command: Command): Result<number> {
    const op = test.iommu_test_cmd.readField(command.bytes, 0, 'op');
    const operation = OPERATIONS[op];
    return operation === undefined || command.context.shared.profile.version < (SINCE[op] ?? 0)
      ? fail(EOPNOTSUPP, `there is no test operation ${op}`)
      : operation(command, this.#iommu);
  }

  /** iommufd_test_syz_conv_iova_id(). */
  convertIova(context: IommufdContext, ioasId: number, iova: bigint): bigint {
    const ioas = getIoas(context, ioasId);
    if (failed(ioas)) return iova;
    return nthAreaIova(ioas, iova);
  }
}

/** __iommufd_test_syz_conv_iova(): the lower half counts areas, the upper is an offset. 0 where there are fewer. */
export function nthAreaIova(
  ioas: { readonly iopt: { readonly areas: Iterable<{ readonly start: bigint }> } },
  iova: bigint,
): bigint {
  let nth = lo32(iova);
  for (const area of ioas.iopt.areas) {
    if (nth === 0) return (area.start + big(hi32(iova))) & U64_MAX;
    nth--;
  }
  return 0n;
}

// iommufd_test_add_reserved()
function addReserved(command: Command): Result<number> {
  const cmd = test.iommu_test_cmd_add_reserved.read(command.bytes);
  if (cmd.length === 0n) return fail(EINVAL, 'length is zero');
  const last = lastByte(cmd.start, cmd.length);
  if (last === null) return fail(EOVERFLOW, 'start + length passes 2^64');
  const ioas = getIoas(command.context, cmd.id);
  if (failed(ioas)) return ioas;
  const rc = ioas.iopt.reserve(cmd.start, last, null);
  return failed(rc) ? rc : 0;
}

// Linux's batches of pages get smaller; ours have no such limit, so only the bound is observable.
function setMemoryLimit(command: Command): Result<number> {
  const { limit } = test.iommu_test_cmd_memory_limit.read(command.bytes);
  return limit < MEMORY_LIMIT_MIN ? fail(EINVAL, `a limit below ${MEMORY_LIMIT_MIN}`) : 0;
}
