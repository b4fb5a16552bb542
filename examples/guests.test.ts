import { describe, expect, test } from 'vitest';
import { run } from './guests.mjs';

describe.each(['arm-smmu-v3', 'intel-iommu', 'amd-iommu'])('the example of a guest on %s', (type) => {
  test('tells what it should', async () => {
    const lines: string[] = [];
    await run(type, {}, (line: string) => lines.push(line.trim()));
    expect(lines).toEqual([
      type,
      'the VMM has an iommufd and a device; the guest has brought its IOMMU up',
      'the guest has built page tables in its memory, and told its IOMMU',
      'the device reads through them: "old"',
      'the guest maps another page, and says nothing: "old"',
      'it invalidates: "new"',
      'PASID 5 has an address space of its own: "sva"',
      'the device writes to a page of PASID 5 that is not there, and is waiting',
      'the guest is asked for 0x12346000, maps it and answers: done, "!!!"',
      'it takes the tables away: nothing: a fault',
      'the VMM ends',
    ]);
  });
});
