import { fail, failed, type Result } from '../../base/result.ts';
import { exact, PAGE_MASK_N, PAGE_SIZE_N, U64_MAX } from '../../base/u64.ts';
import { EBADE, EBADFD, EFAULT, EMFILE, ENOENT, ENOMEM, ENOTTY, EOPNOTSUPP } from '../../abi/errno.ts';
import {
  MOCK_ACCESS_RW_SLOW_PATH,
  MOCK_ACCESS_RW_WRITE,
  MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
  MOCK_FLAGS_ACCESS_SYZ,
  MOCK_FLAGS_ACCESS_WRITE,
  iommu_test_cmd_access_pages,
  iommu_test_cmd_access_replace_ioas,
  iommu_test_cmd_access_rw,
  iommu_test_cmd_create_access,
  iommu_test_cmd_destroy_access_pages,
} from '../../abi/iommufd-test.ts';
import type { OpenFile } from '../../memory/file.ts';
import type { Task } from '../../memory/process.ts';
import { createAccess, type Access, type AccessOps } from '../ioas/access.ts';
import type { Command } from '../command.ts';
import { frameAt } from './checks.ts';
import { nthAreaIova } from './command.ts';

// drivers/iommu/iommufd/selftest.c: an in-kernel user of an IOAS, driven through a descriptor of its own.

const LENGTH_MAX = 16n << 20n;

interface PinnedItem {
  readonly id: number;
  readonly iova: bigint;
  readonly length: bigint;
}

/** struct selftest_access and its file. */
export class AccessFile implements OpenFile, AccessOps {
  readonly type = 'access';
  readonly needsPinPages: boolean;
  #access: Access | null = null;
  #destroy: (() => void) | null = null;
  #items: PinnedItem[] = [];
  #nextId = 0;

  constructor(needsPinPages: boolean) {
    this.needsPinPages = needsPinPages;
  }

  get access(): Access {
    return this.#access!;
  }

  serve(access: Access, destroy: () => void): void {
    this.#access = access;
    this.#destroy = destroy;
  }

  /** iommufd_test_access_unmap(): lets go of everything that touches the range. */
  unmap(iova: bigint, length: bigint): void {
    const last = iova + length - 1n;
    const touched = (item: PinnedItem): boolean => iova <= item.iova + item.length - 1n && last >= item.iova;
    const hit = this.#items.filter(touched);
    this.#items = this.#items.filter((item) => !touched(item));
    for (const item of hit) this.access.unpinPages(item.iova, item.length);
  }

  add(iova: bigint, length: bigint): PinnedItem {
    const item = { id: this.#nextId++, iova, length };
    this.#items.push(item);
    return item;
  }

  /** Unpins item `id`; false where there is none. */
  remove(id: number): boolean {
    const item = this.#items.find((each) => each.id === id);
    if (item === undefined) return false;
    this.#unpin(item);
    return true;
  }

  #unpin(item: PinnedItem): void {
    this.#items = this.#items.filter((each) => each !== item);
    this.access.unpinPages(item.iova, item.length);
  }

  ioctl(_task: Task, _cmd: number, _arg: bigint): number {
    return -ENOTTY;
  }

  /** iommufd_test_staccess_release(). */
  release(): void {
    if (this.#access === null) return;
    this.unmap(0n, U64_MAX);
    this.#destroy?.();
  }
}

/** iommufd_access_get(). */
function getAccess(command: Command, fd: number): Result<AccessFile> {
  const file = command.task.process.file(fd | 0);
  return file instanceof AccessFile ? file : fail(EBADFD, `descriptor ${fd | 0} is not an access`);
}

/** iommufd_test_create_access(). */
export function createAccessFile(command: Command): Result<number> {
  const { context } = command;
  const cmd = iommu_test_cmd_create_access.read(command.bytes);
  if ((cmd.flags & ~MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES) !== 0) return fail(EOPNOTSUPP, 'unknown flags');
  if (context.kernel.failpoint()) return fail(ENOMEM, 'no memory for the access');
  const file = new AccessFile((cmd.flags & MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES) !== 0);
  if (context.kernel.failpoint()) return fail(ENOMEM, 'no memory for the file');
  const access = createAccess(context, file);
  if (failed(access)) return access;
  const destroy = (): void => context.objects.destroyUser(access);
  const attached = access.attach(cmd.id);
  const rc = failed(attached)
    ? attached
    : command.respondWithFile(file, (fd) =>
        iommu_test_cmd_create_access.writeField(command.bytes, 0, 'out_access_fd', fd),
      );
  if (failed(rc)) {
    destroy();
    // get_unused_fd_flags() may say what it likes.
    return rc.errno === EMFILE ? fail(ENOMEM, rc.reason) : rc;
  }
  file.serve(access, destroy);
  return 0;
}

/** iommufd_test_access_replace_ioas(). */
export function accessReplaceIoas(command: Command): Result<number> {
  const cmd = iommu_test_cmd_access_replace_ioas.read(command.bytes);
  const file = getAccess(command, cmd.id);
  if (failed(file)) return file;
  const rc = file.access.replace(cmd.ioas_id);
  return failed(rc) ? rc : 0;
}

/** iommufd_test_access_item_destroy(). */
export function destroyAccessPages(command: Command): Result<number> {
  const cmd = iommu_test_cmd_destroy_access_pages.read(command.bytes);
  const file = getAccess(command, cmd.id);
  if (failed(file)) return file;
  return file.remove(cmd.access_pages_id)
    ? 0
    : fail(ENOENT, `there are no pinned pages ${cmd.access_pages_id}`);
}

function convert(file: AccessFile, flags: number, iova: bigint): bigint {
  if ((flags & MOCK_FLAGS_ACCESS_SYZ) === 0) return iova;
  return file.access.ioas === null ? 0n : nthAreaIova(file.access.ioas, iova);
}

/** iommufd_test_access_pages(). */
export function accessPages(command: Command): Result<number> {
  const { kernel } = command.context;
  const cmd = iommu_test_cmd_access_pages.read(command.bytes);
  if (cmd.length > LENGTH_MAX) return fail(ENOMEM, `more than ${LENGTH_MAX} bytes`);
  if ((cmd.flags & ~(MOCK_FLAGS_ACCESS_WRITE | MOCK_FLAGS_ACCESS_SYZ)) !== 0)
    return fail(EOPNOTSUPP, 'unknown flags');
  const file = getAccess(command, cmd.id);
  if (failed(file)) return file;
  if (!file.needsPinPages) return fail(EOPNOTSUPP, 'the access was not made to pin pages');
  const iova = convert(file, cmd.flags, cmd.iova);
  if (kernel.failpoint()) return fail(ENOMEM, 'no memory for the pages');
  const frames = file.access.pinPages(iova, cmd.length, (cmd.flags & MOCK_FLAGS_ACCESS_WRITE) !== 0);
  if (failed(frames)) return frames;
  const giveUp = (failure: Result<number>): Result<number> => {
    file.access.unpinPages(iova, cmd.length);
    return failure;
  };
  if (cmd.uptr !== 0n) {
    const same = checkPages(command, (cmd.uptr - (iova & PAGE_MASK_N)) & U64_MAX, frames);
    if (failed(same)) return giveUp(same);
  }
  if (kernel.failpoint()) return giveUp(fail(ENOMEM, 'no memory for the item'));
  const item = file.add(iova, cmd.length);
  cmd.out_access_pages_id = item.id;
  const rc = command.respond(iommu_test_cmd_access_pages, cmd);
  if (!failed(rc)) return 0;
  file.remove(item.id);
  return rc;
}

// iommufd_test_check_pages()
function checkPages(command: Command, uptr: bigint, frames: readonly number[]): Result<void> {
  for (const [index, expected] of frames.entries()) {
    const frame = frameAt(command, (uptr + BigInt(index) * PAGE_SIZE_N) & U64_MAX);
    if (failed(frame)) return frame;
    if (frame !== expected) return fail(EBADE, 'the pages are not those at uptr');
  }
}

/** iommufd_test_access_rw(). */
export function accessRw(command: Command): Result<number> {
  const cmd = iommu_test_cmd_access_rw.read(command.bytes);
  if (cmd.length > LENGTH_MAX) return fail(ENOMEM, `more than ${LENGTH_MAX} bytes`);
  const known = MOCK_ACCESS_RW_WRITE | MOCK_ACCESS_RW_SLOW_PATH | MOCK_FLAGS_ACCESS_SYZ;
  if ((cmd.flags & ~known) !== 0) return fail(EOPNOTSUPP, 'unknown flags');
  const file = getAccess(command, cmd.id);
  if (failed(file)) return file;
  if (command.context.kernel.failpoint()) return fail(ENOMEM, 'no memory for the data');
  const data = new Uint8Array(exact(cmd.length));
  const write = (cmd.flags & MOCK_ACCESS_RW_WRITE) !== 0;
  if (write && data.length > 0 && !command.memory.read(cmd.uptr, data))
    return fail(EFAULT, 'uptr cannot be read');
  const iova = convert(file, cmd.flags, cmd.iova);
  const rc = file.access.rw(iova, data, write, (cmd.flags & MOCK_ACCESS_RW_SLOW_PATH) !== 0);
  if (failed(rc)) return rc;
  if (!write && !command.memory.write(cmd.uptr, data)) return fail(EFAULT, 'uptr cannot be written');
  return 0;
}
