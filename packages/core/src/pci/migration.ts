/** A device whose inside can be taken out, and put into another one of its kind. */
export interface Migratable {
  /** What a device of this kind must know to go on where this one is. Configuration space and MSI-X are not in it. */
  save(): Uint8Array;
  /** Takes what another one saved. False where that is nothing it could have saved: then nothing changes. */
  restore(state: Uint8Array): boolean;
}
