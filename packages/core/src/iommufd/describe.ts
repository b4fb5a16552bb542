import { failed, type Result } from '../base/result.ts';
import type { AnyStruct } from '../base/struct.ts';
import { IOC_NR } from '../abi/ioctl.ts';
import * as test from '../abi/iommufd-test.ts';
import * as type1 from '../abi/vfio-type1.ts';
import type { Task } from '../memory/process.ts';
import type { Trace } from '../trace/trace.ts';

// Requests in the words of the header, for the trace.

type FieldValue = number | bigint | readonly bigint[] | Uint8Array;

const VFIO_NAMES: Readonly<Record<number, string>> = {
  [type1.VFIO_GET_API_VERSION]: 'VFIO_GET_API_VERSION',
  [type1.VFIO_CHECK_EXTENSION]: 'VFIO_CHECK_EXTENSION',
  [type1.VFIO_SET_IOMMU]: 'VFIO_SET_IOMMU',
  [type1.VFIO_IOMMU_GET_INFO]: 'VFIO_IOMMU_GET_INFO',
  [type1.VFIO_IOMMU_MAP_DMA]: 'VFIO_IOMMU_MAP_DMA',
  [type1.VFIO_IOMMU_UNMAP_DMA]: 'VFIO_IOMMU_UNMAP_DMA',
};

const TEST_LAYOUTS: Readonly<Record<number, AnyStruct>> = {
  [test.IOMMU_TEST_OP_ADD_RESERVED]: test.iommu_test_cmd_add_reserved,
  [test.IOMMU_TEST_OP_MOCK_DOMAIN]: test.iommu_test_cmd_mock_domain,
  [test.IOMMU_TEST_OP_MD_CHECK_MAP]: test.iommu_test_cmd_check_map,
  [test.IOMMU_TEST_OP_MD_CHECK_REFS]: test.iommu_test_cmd_check_refs,
  [test.IOMMU_TEST_OP_CREATE_ACCESS]: test.iommu_test_cmd_create_access,
  [test.IOMMU_TEST_OP_DESTROY_ACCESS_PAGES]: test.iommu_test_cmd_destroy_access_pages,
  [test.IOMMU_TEST_OP_ACCESS_PAGES]: test.iommu_test_cmd_access_pages,
  [test.IOMMU_TEST_OP_ACCESS_RW]: test.iommu_test_cmd_access_rw,
  [test.IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT]: test.iommu_test_cmd_memory_limit,
  [test.IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE]: test.iommu_test_cmd_mock_domain_replace,
  [test.IOMMU_TEST_OP_ACCESS_REPLACE_IOAS]: test.iommu_test_cmd_access_replace_ioas,
  [test.IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS]: test.iommu_test_cmd_mock_domain_flags,
  [test.IOMMU_TEST_OP_DIRTY]: test.iommu_test_cmd_dirty,
  [test.IOMMU_TEST_OP_MD_CHECK_IOTLB]: test.iommu_test_cmd_check_iotlb,
  [test.IOMMU_TEST_OP_TRIGGER_IOPF]: test.iommu_test_cmd_trigger_iopf,
  [test.IOMMU_TEST_OP_DEV_CHECK_CACHE]: test.iommu_test_cmd_check_dev_cache,
  [test.IOMMU_TEST_OP_TRIGGER_VEVENT]: test.iommu_test_cmd_trigger_vevent,
  [test.IOMMU_TEST_OP_PASID_ATTACH]: test.iommu_test_cmd_pasid_attach,
  [test.IOMMU_TEST_OP_PASID_REPLACE]: test.iommu_test_cmd_pasid_replace,
  [test.IOMMU_TEST_OP_PASID_DETACH]: test.iommu_test_cmd_pasid_detach,
  [test.IOMMU_TEST_OP_PASID_CHECK_HWPT]: test.iommu_test_cmd_pasid_check,
  [test.IOMMU_TEST_OP_DMABUF_GET]: test.iommu_test_cmd_dmabuf_get,
  [test.IOMMU_TEST_OP_DMABUF_REVOKE]: test.iommu_test_cmd_dmabuf_revoke,
};

const TEST_NAMES = new Map(Object.entries(test.iommu_test_op).map(([name, op]) => [op as number, name]));

/** The name of a request that the dispatch table does not have. */
function foreignName(cmd: number): string {
  return VFIO_NAMES[cmd] ?? `ioctl ;0x${IOC_NR(cmd).toString(16).padStart(2, '0')}`;
}

function describe(name: string, layout: AnyStruct, bytes: Uint8Array): { name: string; layout: AnyStruct } {
  if (layout !== test.iommu_test_cmd) return { name, layout };
  const { op } = test.iommu_test_cmd.read(bytes);
  return { name: TEST_NAMES.get(op) ?? name, layout: TEST_LAYOUTS[op] ?? layout };
}

/** Emits one request: what it asked, what changed in its struct, and for an errno the reason. */
export function traceIoctl(
  trace: Trace,
  task: Task,
  op: { readonly name: string; readonly layout: AnyStruct },
  before: Uint8Array,
  after: Uint8Array,
  answer: Result<number>,
): void {
  const { name, layout } = describe(op.name, op.layout, before);
  const asked = layout.read(before) as Record<string, FieldValue>;
  const answered = layout.read(after) as Record<string, FieldValue>;
  const fields: Record<string, FieldValue> = {};
  const changed: Record<string, FieldValue> = {};
  for (const [field, value] of Object.entries(asked)) {
    if (!field.startsWith('__') && field !== 'size') fields[field] = value;
    if (!failed(answer) && String(answered[field]) !== String(value)) changed[field] = answered[field]!;
  }
  emit(trace, task, name, fields, changed, answer);
}

/** Emits a request whose struct is not known, or could not be read. */
export function traceForeignIoctl(
  trace: Trace,
  task: Task,
  cmd: number,
  arg: bigint,
  answer: Result<number>,
): void {
  emit(trace, task, foreignName(cmd), { arg }, {}, answer);
}

function emit(
  trace: Trace,
  task: Task,
  name: string,
  fields: Record<string, FieldValue>,
  changed: Record<string, FieldValue>,
  answer: Result<number>,
): void {
  const result = failed(answer)
    ? { errno: answer.errno, reason: answer.reason }
    : { result: answer, changed };
  trace.emit({ kind: 'ioctl', pid: task.process.pid, tid: task.tid, name, fields, ...result });
}
