import { fail, failed, type Result } from '../../base/result.ts';
import { EINVAL } from '../../abi/errno.ts';
import {
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_MIGRATION_P2P,
  VFIO_MIGRATION_PRE_COPY,
  VFIO_MIGRATION_STOP_COPY,
} from '../../abi/vfio.ts';
import { big } from '../../base/u64.ts';
import type { OpenFile } from '../../memory/file.ts';
import type { PciFunction } from '../../pci/function.ts';
import type { Migratable } from '../../pci/migration.ts';
import { ResumeFile, SaveFile, type SavedDevice } from './data-files.ts';
import { activityOf, isSaving, nextState } from './states.ts';
import { lastSnapshot, RECORD_HEADER_BYTES } from './stream.ts';

/** What a machine file says of a device that can be migrated. */
export interface MigrationSettings {
  /** It can stop its DMA alone: RUNNING_P2P. */
  readonly p2p: boolean;
  /** It can be read while it runs: PRE_COPY. */
  readonly preCopy: boolean;
  /** It keeps a log of its DMA. */
  readonly dmaLogging: boolean;
}

/**
 * A device that can be migrated, while a program has it: include/linux/vfio.h struct vfio_migration_ops as a driver of its
 * own would have them.
 */
export class VfioMigration implements SavedDevice {
  /** VFIO_MIGRATION_* */
  readonly flags: number;
  readonly identity: number;
  readonly #pci: PciFunction;
  readonly #model: Migratable;
  #state: number = VFIO_DEVICE_STATE_RUNNING;
  #saving: SaveFile | null = null;
  #resuming: ResumeFile | null = null;
  infoV2 = false;

  constructor(pci: PciFunction, model: Migratable, { p2p, preCopy }: MigrationSettings) {
    this.#pci = pci;
    this.#model = model;
    const { vendor, device } = pci.description.identity;
    this.identity = ((vendor << 16) | device) >>> 0;
    this.flags =
      VFIO_MIGRATION_STOP_COPY | (p2p ? VFIO_MIGRATION_P2P : 0) | (preCopy ? VFIO_MIGRATION_PRE_COPY : 0);
  }

  /** VFIO_DEVICE_STATE_* */
  get state(): number {
    return this.#state;
  }

  get preCopying(): boolean {
    return this.#state === VFIO_DEVICE_STATE_PRE_COPY || this.#state === VFIO_DEVICE_STATE_PRE_COPY_P2P;
  }

  save(): Uint8Array {
    return this.#model.save();
  }

  /** Bytes that a STOP_COPY takes at most now. */
  get stopCopyLength(): bigint {
    return big(RECORD_HEADER_BYTES + this.#model.save().length);
  }

  /** The device may hold something else now: who reads it while it runs is told. */
  touched(): void {
    if (this.preCopying) this.#saving?.onReadableChange?.();
  }

  /** Steps towards a state; answers what was opened on the way. What went well before an error stays. */
  setState(target: number): Result<OpenFile | null> {
    let opened: OpenFile | null = null;
    while (this.#state !== target) {
      const next = nextState(this.flags, this.#state, target);
      if (failed(next)) return next;
      const stepped = this.#step(next);
      if (failed(stepped)) return stepped;
      this.#state = next;
      opened = stepped;
    }
    return opened;
  }

  #step(next: number): Result<OpenFile | null> {
    if (this.#state === VFIO_DEVICE_STATE_RESUMING) {
      const loaded = this.#load();
      if (failed(loaded)) return loaded;
    }
    this.#pci.setPaused(activityOf(next) !== 'running');
    if (isSaving(this.#state) && !isSaving(next)) this.#endTransfer();
    if (next === VFIO_DEVICE_STATE_RESUMING) {
      this.#resuming = new ResumeFile();
      return this.#resuming;
    }
    if (!isSaving(next)) return null;
    if (this.#saving === null) {
      this.#saving = new SaveFile(this, next === VFIO_DEVICE_STATE_STOP_COPY);
      return this.#saving;
    }
    if (next === VFIO_DEVICE_STATE_STOP_COPY) this.#saving.finish();
    return null;
  }

  #load(): Result<void> {
    const found = lastSnapshot(this.identity, this.#resuming!.stream);
    if ('wrong' in found) return fail(EINVAL, `what was written cannot be taken: ${found.wrong}`);
    if (!this.#model.restore(found.state)) return fail(EINVAL, 'the device could not have saved this');
    this.#endTransfer();
  }

  #endTransfer(): void {
    this.#saving?.disable();
    this.#resuming?.disable();
    this.#saving = null;
    this.#resuming = null;
  }

  /** The function was reset: it runs, and what was going on has ended. */
  reset(): void {
    this.#endTransfer();
    this.#state = VFIO_DEVICE_STATE_RUNNING;
    this.#pci.setPaused(false);
  }
}
