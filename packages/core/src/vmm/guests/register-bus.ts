/** A guest's way to its IOMMU: loads and stores of 4 or 8 bytes of registers. */
export interface RegisterBus {
  readRegister(offset: number, bytes: number): bigint;
  writeRegister(offset: number, bytes: number, value: bigint): void;
}
