import { EFAULT, EINVAL, ENODEV, ENOMEM, ENOTTY, ESPIPE } from '@viommu/core/abi/errno';
import { big, exact, PAGE_MASK_N, U64_MAX } from '@viommu/core/base/u64';
import type { OpenFile } from '@viommu/core/memory/file';
import { OP } from '../native.ts';
import type { InstalledFile } from '../files/files.ts';
import { ANSWERED, PASS, putStat, type Answer, type Machine } from './machine.ts';
import { statOfFile } from './path-calls.ts';
import type { HostTask } from '../processes/processes.ts';
import type { PseudoFile } from '../files/pseudo-files.ts';

// System calls on a descriptor of ours.

/** read(2) and write(2) move at most this much at once (fs/read_write.c MAX_RW_COUNT). */
const MAX_RW_COUNT = 0x7fff_f000n;
const IOV_MAX = 1024;
const IOVEC_BYTES = 16;
const MAP_SHARED = 1n;
const SEEK_SET = 0;
const SEEK_CUR = 1;
/** Far beyond the end of every file of ours. */
const SEEK_MAX = 0x7fff_ffffn;
/** uapi/linux/kvm.h, uapi/linux/kvm.h KVM_DEV_VFIO_FILE and its attributes: QEMU tells KVM of its VFIO files. */
const KVM_DEV_VFIO_FILE = 1;
const KVM_DEV_VFIO_FILE_ADD = 1;
const KVM_DEV_VFIO_FILE_DEL = 2;
const KVM_DEVICE_ATTR_BYTES = 24;

type Transfer = (va: bigint, count: number) => number;

/** Answers the call in the mailbox. */
export function answerFdCall(machine: Machine, task: HostTask, entry: InstalledFile): Answer {
  const { box } = machine;
  switch (box.op) {
    case OP.IOCTL:
      return entry.file.type === 'pseudo' ? -ENOTTY : entry.file.ioctl(task, box.low(0), box.arg(1));
    case OP.FSTAT:
    case OP.FSTATX:
      return putStat(machine, task.tid, box.arg(0), statOfFile(machine, entry), box.op === OP.FSTATX);
    case OP.MMAP:
      return mmap(machine, task, entry);
    case OP.DUP:
      return duplicate(machine, task, entry);
    case OP.LSEEK:
      return entry.file.type === 'pseudo' ? seek(entry, box.arg(0), box.low(1)) : PASS;
    default:
      return transfer(machine, task, entry);
  }
}

/** KVM_SET_DEVICE_ATTR on a descriptor that is not ours: it may name one that is, which the real KVM refuses. */
export function answerForeignIoctl(machine: Machine, task: HostTask): Answer {
  const { memory } = task.process;
  const attribute = new Uint8Array(KVM_DEVICE_ATTR_BYTES);
  if (!memory.read(machine.box.arg(1), attribute)) return PASS;
  const view = new DataView(attribute.buffer);
  const [group, what] = [view.getUint32(4, true), view.getBigUint64(8, true)];
  if (group !== KVM_DEV_VFIO_FILE) return PASS;
  if (what !== big(KVM_DEV_VFIO_FILE_ADD) && what !== big(KVM_DEV_VFIO_FILE_DEL)) return PASS;
  const fd = new Uint8Array(4);
  if (!memory.read(view.getBigUint64(16, true), fd)) return PASS;
  const file = machine.files.behind(task.tid, new DataView(fd.buffer).getInt32(0, true));
  // virt/kvm/vfio.c kvm_vfio_file_add(): vfio_file_is_valid().
  return file?.type === 'vfio-device' || file?.type === 'vfio-group' ? 0 : PASS;
}

/** dup(2) and fcntl(2)'s F_DUPFD of a file whose reads must be stopped: the copy's number, too, must tell. */
function duplicate(machine: Machine, task: HostTask, entry: InstalledFile): Answer {
  const { box, files, processes } = machine;
  if (!files.stopped(entry)) return PASS;
  const copy = processes.copyDescriptor(task, box.fd);
  if (copy < 0) return PASS;
  const number = files.place(task, copy, box.low(0), box.low(1) !== 0);
  return number < 0 ? number : ANSWERED;
}

function mmap(machine: Machine, task: HostTask, entry: InstalledFile): Answer {
  const { file } = entry;
  if (file.type === 'pseudo' || file.mmap === undefined) return -ENODEV;
  // VM_SHARED: none of ours can be mapped in private.
  if (((machine.box.arg(2) >> 32n) & MAP_SHARED) === 0n) return -EINVAL;
  const { box, files } = machine;
  const [length, offset] = [(box.arg(1) + PAGE_MASK_N) & ~PAGE_MASK_N, box.arg(3)];
  if (length === 0n || (offset & PAGE_MASK_N) !== 0n) return -EINVAL;
  if (!files.prepareMapping(task, box.fd, entry, offset + length)) return -ENOMEM;
  const refused = file.mmap(task, offset, length, box.low(2));
  return refused < 0 ? refused : PASS;
}

function seek(entry: InstalledFile, distance: bigint, whence: number): number {
  const signed = BigInt.asIntN(64, distance);
  const to = whence === SEEK_SET ? signed : whence === SEEK_CUR ? big(entry.position) + signed : -1n;
  if (to < 0n || to > SEEK_MAX) return -EINVAL;
  entry.position = exact(to);
  return entry.position;
}

function transfer(machine: Machine, task: HostTask, entry: InstalledFile): Answer {
  const { op } = machine.box;
  const writes = op === OP.WRITE || op === OP.WRITEV || op === OP.PWRITE || op === OP.PWRITEV;
  const positioned = op === OP.PREAD || op === OP.PWRITE || op === OP.PREADV || op === OP.PWRITEV;
  const vectored = op === OP.READV || op === OP.WRITEV || op === OP.PREADV || op === OP.PWRITEV;
  const { file } = entry;
  const offset = positioned ? BigInt.asIntN(64, machine.box.arg(3)) : 0n;
  // pwritev2() and preadv2() with -1 use the file's position.
  const atPosition = !positioned || offset === -1n;
  if (!atPosition && offset < 0n) return -EINVAL;
  const move =
    file.type === 'pseudo'
      ? pseudoTransfer(task, entry, file, writes, atPosition ? null : exact(offset & U64_MAX))
      : fileTransfer(task, file, writes, atPosition ? null : offset);
  if (typeof move === 'number') return move;
  return vectored ? overVector(machine, task, move) : move(machine.box.arg(0), clamp(machine.box.arg(1)));
}

function clamp(count: bigint): number {
  return exact(count > MAX_RW_COUNT ? MAX_RW_COUNT : count);
}

function fileTransfer(
  task: HostTask,
  file: OpenFile,
  writes: boolean,
  offset: bigint | null,
): Transfer | number {
  const positioned = writes ? file.pwrite : file.pread;
  if (positioned !== undefined) {
    let at = offset ?? 0n;
    return (va, count) => {
      const done = positioned.call(file, task, va, count, at);
      if (done > 0) at += big(done);
      return done;
    };
  }
  if (writes ? file.write === undefined : file.read === undefined) return -EINVAL;
  // The files that have these operations have no positions, not even 0: anon_inode_getfile() gives no FMODE_PREAD.
  if (offset !== null) return -ESPIPE;
  return (va, count) => (writes ? file.write!(task, va, count) : file.read!(task, va, count));
}

function pseudoTransfer(
  task: HostTask,
  entry: InstalledFile,
  file: PseudoFile,
  writes: boolean,
  offset: number | null,
): Transfer {
  let at = offset ?? entry.position;
  return (va, count) => {
    const done = writes ? file.write(task, va, count, at) : file.read(task, va, count, at);
    if (done > 0) at += done;
    if (done > 0 && offset === null) entry.position = at;
    return done;
  };
}

/** One struct iovec after the other, as fs/read_write.c do_loop_readv_writev() does it. */
function overVector(machine: Machine, task: HostTask, move: Transfer): number {
  const count = machine.box.low(1);
  if (count > IOV_MAX) return -EINVAL;
  const bytes = new Uint8Array(count * IOVEC_BYTES);
  if (!task.process.memory.read(machine.box.arg(0), bytes)) return -EFAULT;
  const view = new DataView(bytes.buffer);
  let total = 0;
  for (let at = 0; at < bytes.length; at += IOVEC_BYTES) {
    const length = clamp(view.getBigUint64(at + 8, true));
    if (length === 0) continue;
    const done = move(view.getBigUint64(at, true), length);
    if (done < 0) return total > 0 ? total : done;
    total += done;
    if (done !== length) break;
  }
  return total;
}
