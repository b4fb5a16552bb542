import { fail, failed, type Result } from '../../base/result.ts';
import { EINVAL } from '../../abi/errno.ts';
import {
  IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS,
  iommu_test_cmd_mock_domain,
  iommu_test_cmd_mock_domain_flags,
  iommu_test_cmd_mock_domain_replace,
  iommu_test_cmd_pasid_attach,
  iommu_test_cmd_pasid_check,
  iommu_test_cmd_pasid_detach,
  iommu_test_cmd_pasid_replace,
} from '../../abi/iommufd-test.ts';
import { IOMMU_NO_PASID } from '../../iommu/driver.ts';
import type { MockDevice } from '../../iommu/mock/device.ts';
import type { MockIommu } from '../../iommu/mock/driver.ts';
import { attachDevice, detachDevice, replaceDevice } from '../device/attach.ts';
import type { Command } from '../command.ts';
import type { IommufdContext } from '../context.ts';
import { bindDevice, unbindDevice, type IommufdDevice } from '../device/device.ts';
import { Hwpt } from '../hwpt/hwpt.ts';
import { IommufdObject } from '../objects.ts';

// drivers/iommu/iommufd/selftest.c: mock devices, which come bound and attached.

/** struct selftest_obj: destroying it detaches, unbinds and removes its device. */
export class SelftestDevice extends IommufdObject {
  readonly type = 'SELFTEST';
  readonly #context: IommufdContext;
  #parts: { readonly mock: MockDevice; readonly idev: IommufdDevice } | null = null;

  constructor(context: IommufdContext) {
    super();
    this.#context = context;
  }

  get mock(): MockDevice {
    return this.#parts!.mock;
  }

  get idev(): IommufdDevice {
    return this.#parts!.idev;
  }

  complete(mock: MockDevice, idev: IommufdDevice): void {
    this.#parts = { mock, idev };
  }

  /**
   * iommufd_selftest_destroy(). DEVIATION: Linux detaches no PASID, warns that the device is still in use and leaks it; here
   * they are detached.
   */
  destroy(): void {
    for (const pasid of [...this.idev.group.attached.keys()]) detachDevice(this.#context, this.idev, pasid);
    unbindDevice(this.idev);
    this.mock.driver.destroyDevice(this.mock);
  }
}

/** iommufd_test_mock_domain(). */
export function mockDomain(command: Command, iommu: MockIommu): Result<number> {
  const { context } = command;
  const cmd = iommu_test_cmd_mock_domain.read(command.bytes);
  const flags =
    cmd.op === IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS
      ? iommu_test_cmd_mock_domain_flags.read(command.bytes).dev_flags
      : 0;
  const object = context.objects.allocate(new SelftestDevice(context));
  if (failed(object)) return object;
  const made = makeAttached(context, iommu, flags, cmd.id);
  if (failed(made)) {
    context.objects.abort(object);
    return made;
  }
  cmd.out_hwpt_id = made.hwptId;
  cmd.out_stdev_id = object.id;
  cmd.out_idev_id = made.idev.id;
  const rc = command.respond(iommu_test_cmd_mock_domain, cmd);
  if (failed(rc)) {
    detachDevice(context, made.idev, IOMMU_NO_PASID);
    unbindDevice(made.idev);
    iommu.destroyDevice(made.mock);
    context.objects.abort(object);
    return rc;
  }
  object.complete(made.mock, made.idev);
  context.objects.publish(object);
  return 0;
}

function makeAttached(
  context: IommufdContext,
  iommu: MockIommu,
  flags: number,
  ptId: number,
): Result<{ mock: MockDevice; idev: IommufdDevice; hwptId: number }> {
  const mock = iommu.createDevice(flags);
  if (failed(mock)) return mock;
  const idev = bindDevice(context, mock, false);
  if (failed(idev)) {
    iommu.destroyDevice(mock);
    return idev;
  }
  const hwptId = attachDevice(context, idev, IOMMU_NO_PASID, ptId);
  if (failed(hwptId)) {
    unbindDevice(idev);
    iommu.destroyDevice(mock);
    return hwptId;
  }
  return { mock, idev, hwptId };
}

function getSelftest(context: IommufdContext, id: number): Result<SelftestDevice> {
  return context.objects.get<SelftestDevice>(id, 'SELFTEST');
}

/** iommufd_test_mock_domain_replace(). */
export function mockDomainReplace(command: Command): Result<number> {
  const cmd = iommu_test_cmd_mock_domain_replace.read(command.bytes);
  const object = getSelftest(command.context, cmd.id);
  if (failed(object)) return object;
  const ptId = replaceDevice(command.context, object.idev, IOMMU_NO_PASID, cmd.pt_id);
  if (failed(ptId)) return ptId;
  cmd.pt_id = ptId;
  const rc = command.respond(iommu_test_cmd_mock_domain_replace, cmd);
  return failed(rc) ? rc : 0;
}

/** iommufd_test_pasid_attach(). */
export function pasidAttach(command: Command): Result<number> {
  const cmd = iommu_test_cmd_pasid_attach.read(command.bytes);
  const object = getSelftest(command.context, cmd.id);
  if (failed(object)) return object;
  const ptId = attachDevice(command.context, object.idev, cmd.pasid, cmd.pt_id);
  if (failed(ptId)) return ptId;
  cmd.pt_id = ptId;
  const rc = command.respond(iommu_test_cmd_pasid_attach, cmd);
  if (!failed(rc)) return 0;
  detachDevice(command.context, object.idev, cmd.pasid);
  return rc;
}

/** iommufd_test_pasid_replace(). */
export function pasidReplace(command: Command): Result<number> {
  const cmd = iommu_test_cmd_pasid_replace.read(command.bytes);
  const object = getSelftest(command.context, cmd.id);
  if (failed(object)) return object;
  const ptId = replaceDevice(command.context, object.idev, cmd.pasid, cmd.pt_id);
  if (failed(ptId)) return ptId;
  cmd.pt_id = ptId;
  const rc = command.respond(iommu_test_cmd_pasid_replace, cmd);
  return failed(rc) ? rc : 0;
}

/** iommufd_test_pasid_detach(). */
export function pasidDetach(command: Command): Result<number> {
  const cmd = iommu_test_cmd_pasid_detach.read(command.bytes);
  const object = getSelftest(command.context, cmd.id);
  if (failed(object)) return object;
  detachDevice(command.context, object.idev, cmd.pasid);
  return 0;
}

/** iommufd_test_pasid_check_hwpt(): EINVAL where the PASID has another domain; HWPT 0 stands for none. */
export function pasidCheck(command: Command): Result<number> {
  const cmd = iommu_test_cmd_pasid_check.read(command.bytes);
  const object = getSelftest(command.context, cmd.id);
  if (failed(object)) return object;
  const attached = object.mock.group.handle(cmd.pasid)?.domain ?? null;
  if (cmd.hwpt_id === 0) return attached === null ? 0 : fail(EINVAL, `PASID ${cmd.pasid} is attached`);
  const hwpt = command.context.objects.get(cmd.hwpt_id);
  if (failed(hwpt)) return hwpt;
  if (!(hwpt instanceof Hwpt)) return fail(EINVAL, `object ${cmd.hwpt_id} is not a HWPT`);
  return attached === hwpt.domain ? 0 : fail(EINVAL, `PASID ${cmd.pasid} has another domain`);
}
