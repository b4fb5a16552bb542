import { describe, expect, it } from 'vitest';
import { big } from '../../base/u64.ts';
import { EOPNOTSUPP } from '../../abi/errno.ts';
import {
  IOMMU_FAULT_QUEUE_ALLOC,
  IOMMU_HWPT_ALLOC,
  IOMMU_HWPT_ALLOC_PASID,
  IOMMU_HWPT_FAULT_ID_VALID,
  IOMMU_IOAS_MAP,
  IOMMU_IOAS_MAP_FIXED_IOVA,
  IOMMU_IOAS_MAP_READABLE,
  IOMMU_IOAS_MAP_WRITEABLE,
  IOMMU_PGFAULT_PERM_WRITE,
  IOMMUFD_PAGE_RESP_INVALID,
  IOMMUFD_PAGE_RESP_SUCCESS,
  iommu_fault_alloc,
  iommu_hwpt_alloc,
  iommu_hwpt_page_response,
  iommu_hwpt_pgfault,
  iommu_ioas_map,
} from '../../abi/iommufd.ts';
import { PRG_RESPONSE_CODE } from '../../iommu/requests/dma-port.ts';
import {
  VFIO_DEVICE_ATTACH_PASID,
  VFIO_DEVICE_BIND_IOMMUFD,
  vfio_device_bind_iommufd,
} from '../../abi/vfio.ts';
import { ADMIN, CC_EN, CNS, CSTS_CFS, CSTS_RDY, DOORBELLS, REG, SQE } from '../../pci/nvme/spec.ts';
import { COMMAND, ERROR, FLAG, REGISTER, STATUS } from '../../pci/dma-engine/registers.ts';
import { PCI_COMMAND, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY } from '../../pci/spec.ts';
import { regionOffset } from '../../vfio/pci/regions.ts';
import { BUFFER, Program } from '../../vfio/testing/program.ts';
import { simulatedTask } from '../../memory/simulated-process.ts';
import type { Task } from '../../memory/process.ts';
import type { DeviceModelName } from './device-models.ts';
import { Kernel } from '../kernel.ts';
import { IOMMU_TYPES, loadParts, type IommuType } from '../machine-file/parts.ts';
import { textOf } from '../../base/testing/ascii.ts';

const CONFIG_REGION = 7;
const PASID = 9;
const UNMAPPED = 0x10_0000;

/** A program with a device of the model behind the IOMMU, attached to an IOAS that has 16 KiB at IOVA 0. */
class Session {
  readonly kernel: Kernel;
  readonly program: Program;
  /** The thread that reads and answers faults. */
  readonly task: Task;
  readonly iommufd: number;
  readonly device: number;
  readonly ioas: number;
  readonly devId: number;

  static async open(type: IommuType, model: DeviceModelName): Promise<Session> {
    const parts = await loadParts({
      iommus: [{ name: 'iommu', type }],
      devices: [{ name: '0000:01:00.0', iommu: 'iommu', pasids: 64, ats: true, model }],
    });
    const kernel = new Kernel({ parts });
    return new Session(kernel, new Program(kernel));
  }

  private constructor(kernel: Kernel, program: Program) {
    this.kernel = kernel;
    this.program = program;
    this.task = simulatedTask(program.process);
    this.iommufd = program.open('/dev/iommu');
    this.device = program.open('/dev/vfio/devices/vfio0');
    const bind = { iommufd: this.iommufd };
    const bound = program.call(this.device, VFIO_DEVICE_BIND_IOMMUFD, vfio_device_bind_iommufd, bind);
    expect(bound.rc).toBe(0);
    this.devId = bound.out.out_devid;
    this.ioas = program.ioas(this.iommufd);
    expect(program.attach(this.device, this.ioas)).toBe(0);
    const enable = PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY;
    program.pwrite(this.device, regionOffset(CONFIG_REGION) + big(PCI_COMMAND), [enable, 0]);
  }

  /** A HWPT of the IOAS; it can be attached by a PASID where nothing else is said. */
  hwpt(ioas: number, flags: number = IOMMU_HWPT_ALLOC_PASID, fault_id = 0): number {
    const values = { flags, fault_id, dev_id: this.devId, pt_id: ioas };
    const { rc, out } = this.program.call(this.iommufd, IOMMU_HWPT_ALLOC, iommu_hwpt_alloc, values);
    expect(rc).toBe(0);
    return out.out_hwpt_id;
  }

  write(offset: number, value: number): void {
    const bytes = [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
    expect(this.program.pwrite(this.device, regionOffset(0) + big(offset), bytes)).toBe(4);
  }

  read(offset: number): number {
    expect(this.program.pread(this.device, regionOffset(0) + big(offset), 4)).toBe(4);
    return new DataView(this.memory(0, 4).buffer).getUint32(0, true);
  }

  /** The program's memory that the device knows by this IOVA; the first page is what read and write go through. */
  memory(iova: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    this.program.process.memory.read(BUFFER + big(iova), bytes);
    return bytes;
  }

  store(iova: number, bytes: Uint8Array): void {
    this.program.process.memory.write(BUFFER + big(iova), bytes);
  }
}

describe('a DMA engine behind VT-d whose page is missing', () => {
  const records = iommu_hwpt_pgfault;

  /** The copy waits for the page of its destination; the fault that the program reads. */
  async function waiting(): Promise<{
    session: Session;
    queue: number;
    fault: ReturnType<typeof records.read>;
  }> {
    const session = await Session.open('intel-iommu', 'dma-engine');
    const { program, iommufd, device, ioas } = session;
    const { out } = program.call(iommufd, IOMMU_FAULT_QUEUE_ALLOC, iommu_fault_alloc, {});
    expect(program.attach(device, session.hwpt(ioas, IOMMU_HWPT_FAULT_ID_VALID, out.out_fault_id))).toBe(0);
    session.store(0x1000, new Uint8Array(16).fill(0x77));
    session.write(REGISTER.SOURCE, 0x1000);
    session.write(REGISTER.DESTINATION, UNMAPPED);
    session.write(REGISTER.LENGTH, 16);
    session.write(REGISTER.FLAGS, FLAG.PAGE_REQUESTS);
    session.write(REGISTER.COMMAND, COMMAND.COPY);
    expect(session.read(REGISTER.STATUS)).toBe(STATUS.WAITING);
    expect(program.file(out.out_fault_fd).read!(session.task, BUFFER, records.size)).toBe(records.size);
    return { session, queue: out.out_fault_fd, fault: records.read(session.memory(0, records.size)) };
  }

  function answer({ program, task }: Session, queue: number, cookie: number, code: number): void {
    const bytes = new Uint8Array(iommu_hwpt_page_response.size);
    iommu_hwpt_page_response.write(bytes, 0, { cookie, code });
    program.process.memory.write(BUFFER, bytes);
    expect(program.file(queue).write!(task, BUFFER, bytes.length)).toBe(bytes.length);
  }

  it('goes on when the program has mapped it and says so', async () => {
    const { session, queue, fault } = await waiting();
    const { program, iommufd, ioas } = session;
    expect(fault).toMatchObject({ addr: big(UNMAPPED), perm: IOMMU_PGFAULT_PERM_WRITE });
    const flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE;
    const values = { flags, ioas_id: ioas, user_va: BUFFER + 0x3000n, iova: big(UNMAPPED), length: 0x1000n };
    expect(program.call(iommufd, IOMMU_IOAS_MAP, iommu_ioas_map, values).rc).toBe(0);
    answer(session, queue, fault.cookie, IOMMUFD_PAGE_RESP_SUCCESS);
    while (session.kernel.doorbells.look());
    expect(session.read(REGISTER.STATUS)).toBe(STATUS.DONE);
    expect(session.memory(0x3000, 16)).toEqual(new Uint8Array(16).fill(0x77));
  });

  it('gives up when the program refuses', async () => {
    const { session, queue, fault } = await waiting();
    answer(session, queue, fault.cookie, IOMMUFD_PAGE_RESP_INVALID);
    expect([session.read(REGISTER.STATUS), session.read(REGISTER.ERROR)]).toEqual([
      STATUS.ERROR,
      ERROR.PAGE_RESPONSE,
    ]);
    expect(session.read(REGISTER.RESPONSE)).toBe(PRG_RESPONSE_CODE.INVALID_REQUEST);
  });
});

describe.each(IOMMU_TYPES)('a device model behind an %s', (type) => {
  it('copies what is mapped, and reaches nothing else', async () => {
    const session = await Session.open(type, 'dma-engine');
    session.store(0x1000, new Uint8Array(0x800).fill(0x5a));
    const run = (source: number, destination: number): number => {
      session.write(REGISTER.SOURCE, source);
      session.write(REGISTER.DESTINATION, destination);
      session.write(REGISTER.LENGTH, 0x800);
      session.write(REGISTER.COMMAND, COMMAND.COPY);
      return session.read(REGISTER.STATUS);
    };
    expect(run(0x1000, 0x2400)).toBe(STATUS.DONE);
    expect(session.memory(0x2400, 0x800)).toEqual(new Uint8Array(0x800).fill(0x5a));
    expect(run(0x1000, UNMAPPED)).toBe(STATUS.ERROR);
    expect(session.read(REGISTER.ERROR)).toBe(ERROR.WRITE);
    expect(run(UNMAPPED, 0x1000)).toBe(STATUS.ERROR);
    expect(session.read(REGISTER.ERROR)).toBe(ERROR.READ);
  });

  it('reaches an address space by a PASID once it is attached there, where its driver does that', async () => {
    const session = await Session.open(type, 'dma-engine');
    const fill = (): number => {
      session.write(REGISTER.DESTINATION, 0x1000);
      session.write(REGISTER.LENGTH, 4);
      session.write(REGISTER.PATTERN, 7);
      session.write(REGISTER.PASID, PASID);
      session.write(REGISTER.FLAGS, FLAG.DESTINATION_PASID);
      session.write(REGISTER.COMMAND, COMMAND.FILL);
      return session.read(REGISTER.STATUS);
    };
    expect(fill()).toBe(STATUS.ERROR);
    const { program, device, ioas } = session;
    expect(program.attach(device, session.hwpt(ioas))).toBe(0);
    const attached = program.attach(device, session.hwpt(ioas), VFIO_DEVICE_ATTACH_PASID, PASID);
    // drivers/iommu/amd: only SVA domains have set_dev_pasid().
    const supported = type !== 'amd-iommu';
    expect(attached).toBe(supported ? 0 : -EOPNOTSUPP);
    expect(fill()).toBe(supported ? STATUS.DONE : STATUS.ERROR);
    if (!supported) return;
    expect([...session.memory(0x1000, 5)]).toEqual([7, 7, 7, 7, 0]);
  });

  it('is an NVMe controller that answers where its queues are mapped, and fails where they are not', async () => {
    const session = await Session.open(type, 'nvme');
    const enable = (queue: number): number => {
      session.write(REG.CC, 0);
      session.write(REG.AQA, (15 << 16) | 15);
      session.write(REG.ASQ, queue);
      session.write(REG.ACQ, 0x2000);
      session.write(REG.CC, CC_EN | (6 << 16) | (4 << 20));
      return session.read(REG.CSTS);
    };
    expect(enable(0x1000)).toBe(CSTS_RDY);
    const command = new DataView(new ArrayBuffer(64));
    command.setUint8(SQE.OPCODE, ADMIN.IDENTIFY);
    command.setBigUint64(SQE.PRP1, 0x3000n, true);
    command.setUint32(SQE.CDW10, CNS.CONTROLLER, true);
    session.store(0x1000, new Uint8Array(command.buffer));
    session.write(DOORBELLS, 1);
    expect(new DataView(session.memory(0x2000, 16).buffer).getUint16(14, true)).toBe(1);
    expect(textOf(session.memory(0x3018, 6))).toBe('viommu');
    enable(UNMAPPED);
    session.write(DOORBELLS, 1);
    expect(session.read(REG.CSTS)).toBe(CSTS_RDY | CSTS_CFS);
  });
});
