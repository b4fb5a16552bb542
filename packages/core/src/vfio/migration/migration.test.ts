import { describe, expect, test } from 'vitest';
import { EBADF, EFAULT, EINVAL, ENODEV, ENOMEM, ENOMSG, ENOTTY } from '../../abi/errno.ts';
import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_RESET,
  VFIO_DEVICE_STATE_PRE_COPY as PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P as PRE_COPY_P2P,
  VFIO_DEVICE_STATE_RESUMING as RESUMING,
  VFIO_DEVICE_STATE_RUNNING as RUNNING,
  VFIO_DEVICE_STATE_RUNNING_P2P as P2P,
  VFIO_DEVICE_STATE_STOP as STOP,
  VFIO_DEVICE_STATE_STOP_COPY as STOP_COPY,
  VFIO_MIG_GET_PRECOPY_INFO,
  VFIO_MIGRATION_P2P,
  VFIO_MIGRATION_PRE_COPY,
  VFIO_MIGRATION_STOP_COPY,
  vfio_device_feature_mig_state,
  vfio_precopy_info,
} from '../../abi/vfio.ts';
import { findProfile } from '../../iommufd/profile.ts';
import { Kernel } from '../../machine/kernel.ts';
import { loadParts } from '../../machine/machine-file/parts.ts';
import { COMMAND, FLAG, REGISTER, STATUS } from '../../pci/dma-engine/registers.ts';
import { PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY } from '../../pci/spec.ts';
import { TestDeviceFile } from '../testing/features.ts';
import { ARGUMENT, BUFFER, Program } from '../testing/program.ts';
import type { MigrationSettings } from './migration.ts';

const ALL: MigrationSettings = { p2p: true, preCopy: true, dmaLogging: true };
const RECORD = 16 + 0x54;

async function partsOf(
  migration: MigrationSettings | undefined,
): Promise<Awaited<ReturnType<typeof loadParts>>> {
  const device = { iommu: 'smmu0', pasids: 0, ats: false, model: 'dma-engine', migration };
  return loadParts({
    iommus: [{ name: 'smmu0', type: 'arm-smmu-v3' }],
    devices: [
      { ...device, name: '0000:0a:00.0' },
      { ...device, name: '0000:0b:00.0' },
    ],
  } as Parameters<typeof loadParts>[0]);
}

const FULL = await partsOf(ALL);
const LEAST = await partsOf({ p2p: false, preCopy: false, dmaLogging: false });
const NONE = await partsOf(undefined);

/** Two engines on one IOAS; the second is where the first goes to. */
class Rig {
  readonly kernel: Kernel;
  readonly program: Program;
  readonly source: TestDeviceFile;
  readonly target: TestDeviceFile;

  constructor(parts = FULL, profile = 'linux-7.3') {
    this.kernel = new Kernel({ parts, profile: findProfile(profile)! });
    this.program = new Program(this.kernel);
    const iommufd = this.program.open('/dev/iommu');
    const ioas = this.program.ioas(iommufd);
    const [source, target] = [0, 1].map(
      (n) => new TestDeviceFile(this.program, `/dev/vfio/devices/vfio${n}`),
    );
    this.source = source!;
    this.target = target!;
    for (const device of [this.source, this.target]) {
      expect(this.program.bind(device.fd, iommufd)).toBe(0);
      expect(this.program.attach(device.fd, ioas)).toBe(0);
      expect(device.setCommand(PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY)).toBe(2);
    }
  }

  /** Everything that a saving descriptor has now. */
  drain(fd: number, most = 7): Uint8Array {
    const bytes: number[] = [];
    for (;;) {
      const part = this.program.read(fd, most);
      if (typeof part === 'number' || part.length === 0) return Uint8Array.from(bytes);
      bytes.push(...part);
    }
  }

  /** Opens a transfer. */
  to(device: TestDeviceFile, state: number): number {
    const { rc, fd } = device.setState(state);
    expect(rc).toBe(0);
    expect(device.state).toBe(state);
    return fd;
  }

  precopyInfo(fd: number, flags = 0): { rc: number; info: ReturnType<typeof vfio_precopy_info.create> } {
    const { rc, out } = this.program.call(fd, VFIO_MIG_GET_PRECOPY_INFO, vfio_precopy_info, { flags });
    return { rc, info: out };
  }

  /** A long fill of the buffer's last pages, which goes on in the background. */
  startFill(device: TestDeviceFile, length = 0x3000): void {
    device.set(REGISTER.DESTINATION, 0x1000, 8);
    device.set(REGISTER.LENGTH, length);
    device.set(REGISTER.PATTERN, 0x5a);
    device.set(REGISTER.FLAGS, FLAG.BACKGROUND);
    device.set(REGISTER.COMMAND, COMMAND.FILL);
  }

  /** What the buffer has at an offset. */
  byte(at: number): number {
    const byte = new Uint8Array(1);
    this.program.process.memory.read(BUFFER + BigInt(at), byte);
    return byte[0]!;
  }

  settle(): void {
    for (let rounds = 0; this.kernel.doorbells.look(); rounds++) expect(rounds).toBeLessThan(100);
  }
}

describe('VFIO_DEVICE_FEATURE_MIGRATION', () => {
  test('tells what the device can, as the machine file says it', () => {
    const flags = (parts: typeof FULL): [number, number | undefined] => {
      const rig = new Rig(parts);
      const get = VFIO_DEVICE_FEATURE_MIGRATION | VFIO_DEVICE_FEATURE_GET;
      const { rc, more } = rig.program.feature(rig.source.fd, get, new Uint8Array(8));
      return [rc, more[0]];
    };
    const most = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY;
    expect(flags(FULL)).toEqual([0, most]);
    expect(flags(LEAST)).toEqual([0, VFIO_MIGRATION_STOP_COPY]);
    expect(flags(NONE)[0]).toBe(-ENOTTY);
  });

  test('and its kin are ENOTTY where the device cannot, and EINVAL with the wrong way or no room', () => {
    const none = new Rig(NONE);
    const [GET, SET, PROBE] = [VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_SET, VFIO_DEVICE_FEATURE_PROBE];
    const features = [
      [VFIO_DEVICE_FEATURE_MIGRATION, GET],
      [VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, GET | SET],
      [VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, GET],
    ] as const;
    const rig = new Rig();
    for (const [feature, ways] of features) {
      expect(none.program.feature(none.source.fd, feature | PROBE | GET).rc).toBe(-ENOTTY);
      expect(rig.program.feature(rig.source.fd, feature | PROBE | ways).rc).toBe(0);
      expect(rig.program.feature(rig.source.fd, feature | GET, new Uint8Array(7)).rc).toBe(-EINVAL);
      expect(rig.program.feature(rig.source.fd, feature, new Uint8Array(8)).rc).toBe(-EINVAL);
      if ((ways & SET) === 0)
        expect(rig.program.feature(rig.source.fd, feature | SET, new Uint8Array(8)).rc).toBe(-EINVAL);
    }
    expect(none.source.state).toBe(-ENOTTY);
  });
});

describe('a device that is migrated', () => {
  test('is as it was, in another one, and goes on with what it did', () => {
    const rig = new Rig();
    rig.startFill(rig.source, 0x3000);
    expect(rig.source.get(REGISTER.STATUS)).toBe(STATUS.RUNNING);
    const from = rig.to(rig.source, STOP_COPY);
    expect(rig.source.get(REGISTER.STATUS)).toBe(STATUS.RUNNING);
    rig.settle();
    expect(rig.byte(0x1000)).toBe(0);
    const stream = rig.drain(from);
    expect(stream.length).toBe(RECORD);
    const to = rig.to(rig.target, RESUMING);
    for (let at = 0; at < stream.length; at += 5)
      expect(rig.program.write(to, stream.subarray(at, at + 5))).toBe(Math.min(5, stream.length - at));
    expect(rig.to(rig.target, RUNNING)).toBe(-1);
    expect(rig.target.get(REGISTER.PATTERN)).toBe(0x5a);
    rig.settle();
    expect(rig.target.get(REGISTER.STATUS)).toBe(STATUS.DONE);
    expect([rig.byte(0xfff), rig.byte(0x1000), rig.byte(0x3fff)]).toEqual([0, 0x5a, 0x5a]);
    expect(rig.source.get(REGISTER.STATUS)).toBe(STATUS.RUNNING);
  });

  test('starts no DMA in RUNNING_P2P and STOP, and goes on when it runs', () => {
    for (const state of [P2P, STOP, PRE_COPY_P2P]) {
      const rig = new Rig();
      rig.to(rig.source, state);
      rig.startFill(rig.source, 0x10);
      rig.source.set(REGISTER.FLAGS, 0);
      rig.settle();
      expect(rig.byte(0x1000)).toBe(0);
      rig.to(rig.source, RUNNING);
      rig.settle();
      expect(rig.source.get(REGISTER.STATUS)).toBe(STATUS.DONE);
      expect(rig.byte(0x1000)).toBe(0x5a);
    }
  });

  test('is read while it runs, as often as it changes', () => {
    const rig = new Rig();
    const fd = rig.to(rig.source, PRE_COPY);
    expect(rig.precopyInfo(fd).info).toMatchObject({ initial_bytes: BigInt(RECORD), dirty_bytes: 0n });
    expect(rig.drain(fd).length).toBe(RECORD);
    expect(rig.precopyInfo(fd).info).toMatchObject({ initial_bytes: 0n, dirty_bytes: 0n });
    expect(rig.program.read(fd, 100)).toBe(-ENOMSG);
    rig.source.set(REGISTER.PATTERN, 0x77);
    expect(rig.precopyInfo(fd).info).toMatchObject({ initial_bytes: 0n, dirty_bytes: BigInt(RECORD) });
    const first = rig.program.read(fd, 10);
    expect(first).toHaveLength(10);
    expect(rig.precopyInfo(fd).info.dirty_bytes).toBe(BigInt(RECORD - 10));
    expect(rig.to(rig.source, PRE_COPY_P2P)).toBe(-1);
    expect(rig.precopyInfo(fd).rc).toBe(0);
    expect(rig.to(rig.source, STOP_COPY)).toBe(-1);
    expect(rig.precopyInfo(fd).rc).toBe(-EINVAL);
    expect(rig.drain(fd).length).toBe(RECORD - 10 + RECORD);
    expect(rig.program.read(fd, 1)).toEqual(new Uint8Array());
  });

  test('is taken from the last snapshot of a pre-copy', () => {
    const rig = new Rig();
    const from = rig.to(rig.source, PRE_COPY);
    const parts = [rig.drain(from)];
    rig.source.set(REGISTER.PATTERN, 1);
    parts.push(rig.drain(from));
    rig.source.set(REGISTER.PATTERN, 2);
    rig.to(rig.source, STOP_COPY);
    parts.push(rig.drain(from));
    const to = rig.to(rig.target, RESUMING);
    for (const part of parts) expect(rig.program.write(to, part)).toBe(part.length);
    rig.to(rig.target, RUNNING);
    expect(rig.target.get(REGISTER.PATTERN)).toBe(2);
  });

  test('tells how much a stop-copy takes, in every state', () => {
    const rig = new Rig();
    const get = VFIO_DEVICE_FEATURE_MIG_DATA_SIZE | VFIO_DEVICE_FEATURE_GET;
    for (const state of [RUNNING, PRE_COPY, STOP_COPY, RESUMING]) {
      rig.source.setState(state);
      const { rc, more } = rig.program.feature(rig.source.fd, get, new Uint8Array(8));
      expect([rc, new DataView(more.buffer, more.byteOffset).getBigUint64(0, true)]).toEqual([
        0,
        BigInt(RECORD),
      ]);
    }
  });

  test('runs again after a reset, whatever it was in the middle of', () => {
    for (const state of [STOP, STOP_COPY, RESUMING, PRE_COPY, P2P]) {
      const rig = new Rig();
      const { fd } = rig.source.setState(state);
      expect(rig.program.ioctl(rig.source.fd, VFIO_DEVICE_RESET, 0n)).toBe(0);
      expect(rig.source.state).toBe(RUNNING);
      if (fd >= 0 && state === RESUMING) expect(rig.program.write(fd, Uint8Array.of(1))).toBe(-ENODEV);
      else if (fd >= 0) expect(rig.program.read(fd, 1)).toBe(-ENODEV);
      expect(rig.source.setCommand(PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY)).toBe(2);
      rig.startFill(rig.source);
      rig.settle();
      expect(rig.byte(0x1000)).toBe(0x5a);
    }
  });

  test('runs for the next program', () => {
    const rig = new Rig();
    rig.to(rig.source, STOP);
    rig.program.process.exit();
    const next = new Program(rig.kernel);
    const device = new TestDeviceFile(next, '/dev/vfio/devices/vfio0');
    expect(next.bind(device.fd, next.open('/dev/iommu'))).toBe(0);
    expect(device.state).toBe(RUNNING);
  });
});

describe('VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE', () => {
  test('refuses states that are not there and ways that are not, and stays', () => {
    const rig = new Rig();
    for (const state of [0, 8, 0xffff_ffff])
      expect(rig.source.setState(state)).toEqual({ rc: -EINVAL, fd: -1 });
    expect(rig.source.state).toBe(RUNNING);
    rig.to(rig.source, STOP_COPY);
    expect(rig.source.setState(PRE_COPY).rc).toBe(-EINVAL);
    expect(rig.source.state).toBe(STOP_COPY);
    const least = new Rig(LEAST);
    for (const state of [P2P, PRE_COPY, PRE_COPY_P2P]) expect(least.source.setState(state).rc).toBe(-EINVAL);
    least.to(least.source, STOP_COPY);
  });

  test('does nothing where the device is in the state already', () => {
    const rig = new Rig();
    expect(rig.source.setState(RUNNING)).toEqual({ rc: 0, fd: -1 });
    const fd = rig.to(rig.source, STOP_COPY);
    expect(fd).toBeGreaterThanOrEqual(0);
    expect(rig.source.setState(STOP_COPY)).toEqual({ rc: 0, fd: -1 });
  });

  test('keeps RESUMING where what was written cannot be taken, until a reset', () => {
    const rig = new Rig();
    const from = rig.to(rig.source, STOP_COPY);
    const good = rig.drain(from);
    const wrong: Uint8Array[] = [
      new Uint8Array(),
      good.subarray(0, good.length - 1),
      Uint8Array.from([...good, 0]),
      Uint8Array.from([...good, ...good]),
      good.map((byte, index) => (index === 0 ? byte ^ 1 : byte)),
      good.map((byte, index) => (index === 6 ? 0 : byte)),
      good.map((byte, index) => (index === 8 ? byte ^ 1 : byte)),
      good.map((byte, index) => (index === 12 ? byte - 4 : byte)).subarray(0, good.length - 4),
      good.map((byte, index) => (index === good.length - 1 ? 9 : byte)),
    ];
    for (const stream of wrong) {
      const to = rig.to(rig.target, RESUMING);
      rig.program.write(to, stream);
      for (const state of [STOP, RUNNING]) expect(rig.target.setState(state).rc).toBe(-EINVAL);
      expect(rig.target.state).toBe(RESUMING);
      expect(rig.program.ioctl(rig.target.fd, VFIO_DEVICE_RESET, 0n)).toBe(0);
    }
    const to = rig.to(rig.target, RESUMING);
    rig.program.write(to, good);
    rig.to(rig.target, RUNNING);
  });

  test('is EFAULT where the answer cannot be written, and the state is the new one', () => {
    const rig = new Rig();
    const at = ARGUMENT + 0x1000n - 12n;
    const head = new Uint8Array(12);
    new DataView(head.buffer).setUint32(0, 16, true);
    const set = VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_SET;
    new DataView(head.buffer).setUint32(4, set, true);
    rig.program.process.memory.write(at, head);
    // device_state is the last word of the page.
    expect(rig.program.ioctl(rig.source.fd, 0x3b75, at)).toBe(-EFAULT);
    expect(rig.source.state).toBe(RUNNING);
    expect(vfio_device_feature_mig_state.size).toBe(8);
  });
});

describe('the descriptor of a transfer', () => {
  test('is for reading, or for writing', () => {
    const rig = new Rig();
    const from = rig.to(rig.source, STOP_COPY);
    expect(rig.program.write(from, Uint8Array.of(1))).toBe(-EBADF);
    const to = rig.to(rig.target, RESUMING);
    expect(rig.program.read(to, 1)).toBe(-EBADF);
    expect(rig.program.ioctl(to, VFIO_MIG_GET_PRECOPY_INFO, ARGUMENT)).toBe(-ENOTTY);
    expect(rig.program.ioctl(from, 1, ARGUMENT)).toBe(-ENOTTY);
    expect(rig.program.ioctl(from, VFIO_MIG_GET_PRECOPY_INFO, 1n)).toBe(-EFAULT);
    const short = rig.program.call(from, VFIO_MIG_GET_PRECOPY_INFO, vfio_precopy_info, { argsz: 23 });
    expect(short.rc).toBe(-EINVAL);
  });

  test('takes no more than a device can hold', () => {
    const rig = new Rig();
    const to = rig.to(rig.target, RESUMING);
    expect(rig.program.file(to).write!({ process: rig.program.process, tid: 1 }, BUFFER, 1 << 30)).toBe(
      -ENOMEM,
    );
  });

  test('is dead when the transfer has ended, and its end ends nothing else', () => {
    const rig = new Rig();
    const from = rig.to(rig.source, STOP_COPY);
    rig.to(rig.source, STOP);
    expect(rig.program.read(from, 1)).toBe(-ENODEV);
    const again = rig.to(rig.source, STOP_COPY);
    rig.program.process.close(again);
    expect(rig.source.state).toBe(STOP_COPY);
    expect(rig.to(rig.source, RUNNING)).toBe(-1);
  });

  test('says when there is something to read', () => {
    const rig = new Rig();
    const fd = rig.to(rig.source, PRE_COPY);
    const file = rig.program.file(fd);
    const seen: boolean[] = [];
    file.onReadableChange = () => seen.push(file.readable!);
    rig.drain(fd, 1000);
    expect(seen.at(-1)).toBe(false);
    rig.source.set(REGISTER.PATTERN, 9);
    expect(seen.at(-1)).toBe(true);
    rig.drain(fd, 1000);
    expect(seen.at(-1)).toBe(false);
    rig.to(rig.source, STOP_COPY);
    rig.to(rig.source, STOP);
    expect(seen[0]).toBe(false);
    expect(seen).toContain(true);
    expect(seen.at(-1)).toBe(true);
  });
});

describe('VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2', () => {
  const v2 = VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2;
  const SET = VFIO_DEVICE_FEATURE_SET;

  test('makes the flags of VFIO_MIG_GET_PRECOPY_INFO an answer', () => {
    const rig = new Rig();
    const fd = rig.to(rig.source, PRE_COPY);
    expect(rig.precopyInfo(fd, 5).info.flags).toBe(5);
    expect(rig.program.feature(rig.source.fd, v2 | SET | VFIO_DEVICE_FEATURE_PROBE).rc).toBe(0);
    expect(rig.precopyInfo(fd, 5).info.flags).toBe(5);
    expect(rig.program.feature(rig.source.fd, v2 | SET).rc).toBe(0);
    expect(rig.precopyInfo(fd, 5).info.flags).toBe(0);
  });

  test('needs a pre-copy, and Linux 7.1', () => {
    for (const [parts, profile, expected] of [
      [LEAST, 'linux-7.3', -EINVAL],
      [NONE, 'linux-7.3', -EINVAL],
      [FULL, 'linux-7.0', -ENOTTY],
      [FULL, 'linux-7.1', 0],
    ] as const) {
      const rig = new Rig(parts, profile);
      expect(rig.program.feature(rig.source.fd, v2 | SET).rc).toBe(expected);
    }
    const rig = new Rig();
    expect(rig.program.feature(rig.source.fd, v2 | VFIO_DEVICE_FEATURE_GET).rc).toBe(-EINVAL);
  });
});
