/** VIOMMU_LONG=1: property tests run many times as long as they do in a suite. */
export const LONG: boolean =
  (globalThis as { process?: { env: Record<string, string | undefined> } }).process?.env['VIOMMU_LONG'] ===
  '1';
