import { describe, expect, test } from 'vitest';
import { EADDRINUSE, EBUSY, EINVAL, ENOENT, ENOMEM } from '../../abi/errno.ts';
import { IOMMU_HWPT_ALLOC_NEST_PARENT, IOMMU_HWPT_ALLOC_PASID } from '../../abi/iommufd.ts';
import {
  IOMMU_TEST_PASID_RESERVED,
  MOCK_FLAGS_DEVICE_NO_DIRTY,
  MOCK_FLAGS_DEVICE_PASID,
} from '../../abi/iommufd-test.ts';
import {
  VFIO_DEVICE_ATTACH_IOMMUFD_PT,
  VFIO_DEVICE_BIND_IOMMUFD,
  VFIO_DEVICE_DETACH_IOMMUFD_PT,
  vfio_device_attach_iommufd_pt,
  vfio_device_bind_iommufd,
  vfio_device_detach_iommufd_pt,
} from '../../abi/vfio.ts';
import { Kernel } from '../../machine/kernel.ts';
import { DEFAULT_PARTS, loadParts } from '../../machine/machine-file/parts.ts';
import { APERTURE, ARENA, PAGE, Program } from '../testing/program.ts';

const PASID = 5;

/** A program with an IOAS and a device that is attached to it, which may have PASIDs. */
const PARTS = await loadParts(DEFAULT_PARTS);

function setUp(devFlags = 0) {
  const program = new Program(new Kernel({ parts: PARTS }));
  const ioas = program.ioas();
  const device = program.mock(ioas, devFlags);
  return { program, ioas, device };
}

describe('a device', () => {
  test('that is attached to an IOAS gets a domain, which goes with its last device', () => {
    const { program, ioas, device } = setUp();
    const second = program.mock(ioas);
    expect(second.hwpt).toBe(device.hwpt);
    program.destroy(device.stdev);
    program.map(ioas, { iova: APERTURE });
    expect(program.checkMap(device.hwpt, APERTURE, ARENA)).toBe(0);
    program.destroy(second.stdev);
    expect(program.checkMap(device.hwpt, APERTURE, ARENA)).toBe(-ENOENT);
    expect(program.destroy(ioas)).toBe(0);
  });

  test('gets a domain of its own where it cannot use another’s', () => {
    const program = new Program();
    const ioas = program.ioas();
    const first = program.mock(ioas);
    const dirty = program.hwpt(first.idev, ioas, 2);
    // One that the program asked for by name is nobody else's.
    const second = program.mock(ioas, MOCK_FLAGS_DEVICE_NO_DIRTY);
    expect(second.hwpt).toBe(first.hwpt);
    expect(program.tryMock(dirty, MOCK_FLAGS_DEVICE_NO_DIRTY).rc).toBe(-EINVAL);
  });

  test('that is attached to a HWPT keeps it from being destroyed', () => {
    const { program, ioas, device } = setUp();
    const hwpt = program.hwpt(device.idev, ioas);
    expect(program.replace(device.stdev, hwpt).out.pt_id).toBe(hwpt);
    expect(program.destroy(hwpt)).toBe(-EBUSY);
    program.destroy(device.stdev);
    expect(program.destroy(hwpt)).toBe(0);
  });

  test('cannot be attached to what is neither an IOAS nor a HWPT', () => {
    const { program, device } = setUp();
    expect(program.tryMock(device.idev).rc).toBe(-EINVAL);
    expect(program.tryMock(99).rc).toBe(-ENOENT);
    expect(program.tryMock(0).rc).toBe(-ENOENT);
  });

  test('that cannot be attached leaves nothing behind', () => {
    const { program, ioas } = setUp();
    program.kernel.current = program.task;
    const before = program.context.objects.size;
    expect(program.tryMock(ioas, 0x80).rc).toBe(-EINVAL);
    program.map(ioas, { iova: APERTURE });
    const foreign = program.ioas();
    program.map(foreign, { iova: 0x1000n });
    expect(program.tryMock(foreign).rc).toBe(-EADDRINUSE);
    expect(program.context.objects.size).toBe(before + 1);
    expect(program.mock(ioas).stdev).toBe(before + 2);
  });
});

describe('a replacement', () => {
  test('gives the device the mappings of the other IOAS, and frees its automatic domain', () => {
    const { program, device } = setUp();
    const other = program.ioas();
    program.map(other, { iova: APERTURE });
    const { rc, out } = program.replace(device.stdev, other);
    expect([rc, out.pt_id === device.hwpt]).toEqual([0, false]);
    expect(program.checkMap(out.pt_id, APERTURE, ARENA)).toBe(0);
    expect(program.destroy(device.hwpt)).toBe(-ENOENT);
  });

  test('by what the device has already changes nothing', () => {
    const { program, ioas, device } = setUp();
    expect(program.replace(device.stdev, device.hwpt).out.pt_id).toBe(device.hwpt);
    expect(program.replace(device.stdev, ioas).out.pt_id).toBe(device.hwpt);
    expect(program.checkMap(device.hwpt, APERTURE, ARENA)).toBe(-EINVAL);
  });

  test('that fails leaves the device where it was', () => {
    const { program, ioas, device } = setUp();
    const other = program.ioas();
    program.map(other, { iova: 0x1000n });
    expect(program.replace(device.stdev, other).rc).toBe(-EADDRINUSE);
    expect(program.replace(device.stdev, 99).rc).toBe(-ENOENT);
    expect(program.replace(device.stdev, device.stdev).rc).toBe(-EINVAL);
    program.map(ioas, { iova: APERTURE });
    expect(program.checkMap(device.hwpt, APERTURE, ARENA)).toBe(0);
    expect(program.destroy(other)).toBe(0);
  });

  test('lets the old IOAS be destroyed', () => {
    const { program, ioas, device } = setUp();
    expect(program.destroy(ioas)).toBe(-EBUSY);
    program.replace(device.stdev, program.ioas());
    expect(program.destroy(ioas)).toBe(0);
  });
});

describe('a PASID', () => {
  /** A device with PASIDs on a domain that allows them, and another such domain. */
  function withPasids() {
    const program = new Program();
    const ioas = program.ioas();
    const device = program.mock(ioas, MOCK_FLAGS_DEVICE_PASID);
    const [base, other] = [1, 2].map(() => program.hwpt(device.idev, ioas, IOMMU_HWPT_ALLOC_PASID));
    program.replace(device.stdev, base!);
    return { program, ioas, device, base: base!, other: other! };
  }

  test('has a domain of its own', () => {
    const { program, device, other } = withPasids();
    expect(program.pasidAttach(device.stdev, PASID, other)).toBe(0);
    expect(program.pasidCheck(device.stdev, PASID, other)).toBe(0);
    expect(program.pasidCheck(device.stdev, PASID + 1, 0)).toBe(0);
    expect(program.destroy(other)).toBe(-EBUSY);
    expect(program.pasidDetach(device.stdev, PASID)).toBe(0);
    expect(program.pasidCheck(device.stdev, PASID, 0)).toBe(0);
    expect(program.destroy(other)).toBe(0);
  });

  test('is attached once', () => {
    const { program, device, base, other } = withPasids();
    program.pasidAttach(device.stdev, PASID, other);
    expect(program.pasidAttach(device.stdev, PASID, other)).toBe(-EBUSY);
    expect(program.pasidAttach(device.stdev, PASID, base)).toBe(-EBUSY);
  });

  test('takes only domains that were made for it', () => {
    const { program, ioas, device } = withPasids();
    const plain = program.hwpt(device.idev, ioas);
    expect(program.pasidAttach(device.stdev, PASID, plain)).toBe(-EINVAL);
    expect(program.pasidAttach(device.stdev, PASID, ioas)).toBe(-EINVAL);
  });

  test('is refused while the device has a domain that was not made for such devices', () => {
    const { program, ioas, device } = setUp(MOCK_FLAGS_DEVICE_PASID);
    const able = program.hwpt(device.idev, ioas, IOMMU_HWPT_ALLOC_PASID);
    expect(program.pasidAttach(device.stdev, PASID, able)).toBe(-EINVAL);
    program.replace(device.stdev, able);
    expect(program.pasidAttach(device.stdev, PASID, able)).toBe(0);
    expect(program.replace(device.stdev, ioas).rc).toBe(-EINVAL);
    program.pasidDetach(device.stdev, PASID);
    expect(program.replace(device.stdev, ioas).rc).toBe(0);
  });

  test('is replaced by another domain', () => {
    const { program, device, base, other } = withPasids();
    expect(program.pasidReplace(device.stdev, PASID, base)).toBe(-EINVAL);
    program.pasidAttach(device.stdev, PASID, other);
    expect(program.pasidReplace(device.stdev, PASID, base)).toBe(0);
    expect(program.pasidCheck(device.stdev, PASID, base)).toBe(0);
    expect(program.destroy(other)).toBe(0);
  });

  test('lets the device have another domain that was made for such devices', () => {
    const { program, device, base, other } = withPasids();
    program.pasidAttach(device.stdev, PASID, base);
    expect(program.replace(device.stdev, other).rc).toBe(0);
    expect(program.pasidCheck(device.stdev, PASID, base)).toBe(0);
  });

  test('keeps its domain where a replacement fails', () => {
    const { program, device, base, other } = withPasids();
    expect(program.pasidAttach(device.stdev, IOMMU_TEST_PASID_RESERVED, other)).toBe(0);
    expect(program.pasidReplace(device.stdev, IOMMU_TEST_PASID_RESERVED, base)).toBe(-ENOMEM);
    expect(program.pasidCheck(device.stdev, IOMMU_TEST_PASID_RESERVED, other)).toBe(0);
    expect(program.destroy(other)).toBe(-EBUSY);
  });

  test('must be one that the device has', () => {
    const { program, device, other } = withPasids();
    expect(program.pasidAttach(device.stdev, 0xf_ffff, other)).toBe(0);
    expect(program.pasidAttach(device.stdev, 0x10_0000, other)).toBe(-EINVAL);
    const without = program.mock(other);
    expect(program.pasidAttach(without.stdev, PASID, other)).toBe(-EINVAL);
  });

  test('goes with its device', () => {
    const { program, device, other } = withPasids();
    program.pasidAttach(device.stdev, PASID, other);
    expect(program.destroy(device.stdev)).toBe(0);
    expect(program.destroy(other)).toBe(0);
  });
});

describe('a nested domain', () => {
  test('has the mappings of its parent, and keeps it', () => {
    const { program, ioas, device } = setUp();
    const parent = program.hwpt(device.idev, ioas, IOMMU_HWPT_ALLOC_NEST_PARENT);
    const nested = program.nested(device.idev, parent);
    expect(program.replace(device.stdev, nested).out.pt_id).toBe(nested);
    expect(program.destroy(parent)).toBe(-EBUSY);
    expect(program.destroy(nested)).toBe(-EBUSY);
    program.replace(device.stdev, ioas);
    expect(program.destroy(nested)).toBe(0);
    expect(program.destroy(parent)).toBe(0);
  });
});

describe('a device behind an IOMMU of another driver', () => {
  /** A mock device and one behind an SMMU; IOVAs that the SMMU's device reserves are in `msi`. */
  function withSmmu() {
    const { program, ioas, device } = setUp();
    const vfio = program.openDevice('/dev/vfio/devices/vfio0');
    const bound = program.call(
      VFIO_DEVICE_BIND_IOMMUFD,
      vfio_device_bind_iommufd,
      { iommufd: program.fd },
      vfio,
    );
    expect(bound.rc).toBe(0);
    const attach = (pt: number): { rc: number; hwpt: number } => {
      const { rc, out } = program.call(
        VFIO_DEVICE_ATTACH_IOMMUFD_PT,
        vfio_device_attach_iommufd_pt,
        { pt_id: pt },
        vfio,
      );
      return { rc, hwpt: out.pt_id };
    };
    const detach = (): number =>
      program.call(VFIO_DEVICE_DETACH_IOMMUFD_PT, vfio_device_detach_iommufd_pt, {}, vfio).rc;
    return { program, ioas, device, idev: bound.out.out_devid, attach, detach, msi: 0x800_0000n };
  }

  test('gets a domain of its own on the same IOAS, with the same mappings', () => {
    const { program, ioas, device, attach } = withSmmu();
    const { rc, hwpt } = attach(ioas);
    expect([rc, hwpt === device.hwpt]).toEqual([0, false]);
    program.map(ioas, { iova: APERTURE });
    expect(program.checkMap(device.hwpt, APERTURE, ARENA)).toBe(0);
    expect(program.kernel.physical.frames.pinned).toBe(1);
  });

  test('takes no domain of the other driver, neither first nor in place of its own', () => {
    const { program, ioas, device, idev, attach } = withSmmu();
    expect(attach(device.hwpt).rc).toBe(-EINVAL);
    const own = attach(ioas);
    expect(own.rc).toBe(0);
    expect(attach(device.hwpt).rc).toBe(-EINVAL);
    expect(program.replace(device.stdev, own.hwpt).rc).toBe(-EINVAL);
    expect(attach(program.hwpt(idev, ioas)).rc).toBe(0);
  });

  test('reserves its MSIs while it is attached', () => {
    const { program, device, attach, detach, msi } = withSmmu();
    const ioas = program.ioas();
    program.destroy(device.stdev);
    attach(ioas);
    expect(program.tryMap(ioas, { iova: msi }).rc).toBe(-EINVAL);
    expect(program.tryMap(ioas, { iova: msi - PAGE }).rc).toBe(0);
    expect(detach()).toBe(0);
    expect(program.tryMap(ioas, { iova: msi }).rc).toBe(0);
    expect(attach(ioas).rc).toBe(-EADDRINUSE);
    program.unmap(ioas, msi, PAGE);
    expect(attach(ioas).rc).toBe(0);
  });

  test('takes its MSIs with it to another IOAS', () => {
    const { program, ioas, attach, msi } = withSmmu();
    attach(ioas);
    const other = program.ioas();
    program.map(other, { iova: msi });
    expect(attach(other).rc).toBe(-EADDRINUSE);
    expect(program.tryMap(ioas, { iova: msi }).rc).toBe(-EINVAL);
    program.unmap(other, msi, PAGE);
    expect(attach(other).rc).toBe(0);
    expect(program.tryMap(other, { iova: msi }).rc).toBe(-EINVAL);
  });
});
