import { fail, type Result } from '../../base/result.ts';
import { EINVAL } from '../../abi/errno.ts';
import { Kernel } from '../../machine/kernel.ts';
import { SimulatedProcess, simulatedTask } from '../../memory/simulated-process.ts';
import type { Device, IommuDomain, IommuDriver } from '../driver.ts';
import { IommuGroup } from '../group.ts';
import type { FaultQueueDevice, IopfGroup, PageRequest } from '../iopf.ts';

/** A domain that writes down what it is asked, and refuses the devices it is told to. */
export class FakeDomain implements IommuDomain {
  readonly type: IommuDomain['type'];
  readonly owner: IommuDriver | null;
  readonly name: string;
  readonly log: string[];
  readonly refused = new Set<string>();
  iopfHandler: ((group: IopfGroup) => boolean) | null = null;

  constructor(driver: FakeDriver, name: string, type: IommuDomain['type'] = 'paging') {
    this.owner = type === 'blocked' ? null : (driver as unknown as IommuDriver);
    this.type = type;
    this.name = name;
    this.log = driver.log;
  }

  attachDevice(device: Device, old: IommuDomain | null): Result<void> {
    return this.#take(device, device.name, old);
  }

  setDevicePasid(device: Device, pasid: number, old: IommuDomain | null): Result<void> {
    return this.#take(device, `${device.name}/${pasid}`, old);
  }

  #take(device: Device, what: string, old: IommuDomain | null): Result<void> {
    if (this.refused.has(device.name)) return fail(EINVAL, 'told to refuse');
    this.log.push(`${what} ${old === null ? '-' : (old as FakeDomain).name} > ${this.name}`);
  }

  free(): void {}
}

/** What a device was answered: the requests' addresses and the code. */
export interface Response {
  readonly device: string;
  readonly addrs: readonly bigint[];
  readonly code: number;
}

/** As much of a driver as groups and page requests need. */
export class FakeDriver {
  readonly log: string[] = [];
  readonly responses: Response[] = [];
  readonly blockedDomain: FakeDomain = new FakeDomain(this, 'blocked', 'blocked');
  userPasidTable = false;

  domain(name: string, type: IommuDomain['type'] = 'paging'): FakeDomain {
    return new FakeDomain(this, name, type);
  }

  pageResponse(device: Device, group: IopfGroup, code: number): void {
    const addrs = group.faults.map((each: PageRequest) => each.addr);
    this.responses.push({ device: device.name, addrs, code });
  }
}

/** A kernel with a caller, whose failpoints can be armed: the nth point fails. */
export function fakeKernel(): { kernel: Kernel; failNth: (nth: number) => void } {
  const kernel = new Kernel();
  const task = simulatedTask(new SimulatedProcess(1));
  kernel.current = task;
  return { kernel, failNth: (nth) => (task.failNth.remaining = nth) };
}

/** A group of devices by name, each with as many PASIDs as is said. */
export function fakeGroup(
  kernel: Kernel,
  driver: FakeDriver,
  pasids: Readonly<Record<string, number>>,
): IommuGroup {
  const group = new IommuGroup(kernel, 7);
  for (const [name, maxPasids] of Object.entries(pasids)) {
    const faults: FaultQueueDevice | null = null;
    const device = { name, driver, group, maxPasids, pci: null, faults } as unknown as Device;
    group.devices.push(device);
  }
  return group;
}
