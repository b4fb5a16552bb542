import { fail, failed, type Result } from '../../base/result.ts';
import { EINVAL, ENOMEM } from '../../abi/errno.ts';
import type { Process } from '../../memory/process.ts';

// drivers/iommu/iommufd/pages.c: who pays for pinned pages. By user, as io_uring counts; by address space, as VFIO did;
// or nobody, where the program has CAP_IPC_LOCK. VmPin counts in every case.

export const ACCOUNT_NONE = 0;
export const ACCOUNT_USER = 1;
export const ACCOUNT_MM = 2;
export type AccountMode = typeof ACCOUNT_NONE | typeof ACCOUNT_USER | typeof ACCOUNT_MM;

/** Locked pages by user: struct user_struct locked_vm. */
export class LockedMemory {
  readonly #byUid = new Map<number, number>();

  /** Pages charged to user `uid`. */
  of(uid: number): number {
    return this.#byUid.get(uid) ?? 0;
  }

  /**
   * Charges `pages` (negative: gives them back): iopt_pages_update_pinned(). ENOMEM beyond RLIMIT_MEMLOCK, EINVAL where
   * they are to be given back to an address space that is gone.
   */
  update(process: Process, mode: AccountMode, pages: number): Result<void> {
    const charged = this.#charge(process, mode, pages);
    if (failed(charged)) return charged;
    process.memory.pinnedPages += pages;
  }

  #charge(process: Process, mode: AccountMode, pages: number): Result<void> {
    if (mode === ACCOUNT_NONE) return;
    if (mode === ACCOUNT_USER) {
      const total = this.of(process.uid) + pages;
      if (pages > 0 && total > process.memlockPages())
        return fail(ENOMEM, `${total} pinned pages are more than RLIMIT_MEMLOCK allows user ${process.uid}`);
      if (total === 0) this.#byUid.delete(process.uid);
      else this.#byUid.set(process.uid, total);
      return;
    }
    const memory = process.memory;
    // update_mm_locked_vm(): mmget_not_zero() fails. Pinning a file's pages needs no address space.
    if (!memory.alive && pages < 0) return fail(EINVAL, 'the process that mapped the pages has exited');
    if (pages > 0 && memory.lockedPages + pages > process.memlockPages())
      return fail(ENOMEM, `${memory.lockedPages + pages} locked pages are more than RLIMIT_MEMLOCK allows`);
    memory.lockedPages += pages;
  }
}
