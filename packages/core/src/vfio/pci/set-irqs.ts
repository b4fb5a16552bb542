import { fail, failed, type Result } from '../../base/result.ts';
import { big } from '../../base/u64.ts';
import { EFAULT, EINVAL, ENOTTY } from '../../abi/errno.ts';
import {
  VFIO_IRQ_SET_ACTION_MASK,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_ACTION_TYPE_MASK,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_IRQ_SET_DATA_TYPE_MASK,
  VFIO_PCI_ERR_IRQ_INDEX,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_NUM_IRQS,
  VFIO_PCI_REQ_IRQ_INDEX,
  vfio_irq_set,
} from '../../abi/vfio.ts';
import type { Eventfd, Process, Task } from '../../memory/process.ts';
import { readPart } from '../user-struct.ts';
import { interruptType, type VfioInterrupts } from './interrupts.ts';

// VFIO_DEVICE_SET_IRQS: vfio_main.c vfio_set_irqs_validate_and_prepare() and vfio_pci_intrs.c.

const U32_MAX = 0xffff_ffff;

/** What came with the request, one entry for each interrupt from `start` on. */
type IrqData =
  | { readonly kind: 'none' }
  | { readonly kind: 'bool'; readonly bools: readonly boolean[] }
  | { readonly kind: 'eventfd'; readonly fds: readonly number[] };

interface Request {
  readonly process: Process;
  readonly index: number;
  readonly start: number;
  readonly count: number;
  readonly data: IrqData;
}

type Action = (interrupts: VfioInterrupts, request: Request) => Result<void>;

/** `counts`: how many interrupts an index has. */
export function setIrqs(
  interrupts: VfioInterrupts,
  counts: (index: number) => number,
  task: Task,
  arg: bigint,
): Result<void> {
  const { process } = task;
  const bytes = readPart(process.memory, arg, vfio_irq_set.size, vfio_irq_set.size);
  if (failed(bytes)) return bytes;
  const header = vfio_irq_set.read(bytes);
  const { argsz, flags, index, start, count } = header;
  const known = VFIO_IRQ_SET_DATA_TYPE_MASK | VFIO_IRQ_SET_ACTION_TYPE_MASK;
  if (argsz < vfio_irq_set.size || index >= VFIO_PCI_NUM_IRQS)
    return fail(EINVAL, 'argsz is too small, or there is no such index');
  if (count >= U32_MAX - start || (flags & ~known) !== 0)
    return fail(EINVAL, 'start and count are too large, or flags are unknown');
  const most = counts(index);
  if (start >= most || start + count > most) return fail(EINVAL, `index ${index} has ${most} interrupts`);
  const data = readData(process, arg, argsz, flags, count);
  if (failed(data)) return data;
  const action = ACTIONS[index]?.[flags & VFIO_IRQ_SET_ACTION_TYPE_MASK];
  if (action === undefined) return fail(ENOTTY, `index ${index} does not do that`);
  return action(interrupts, { process, index, start, count, data });
}

function readData(
  process: Process,
  arg: bigint,
  argsz: number,
  flags: number,
  count: number,
): Result<IrqData> {
  const kind = flags & VFIO_IRQ_SET_DATA_TYPE_MASK;
  if (kind === VFIO_IRQ_SET_DATA_NONE) return { kind: 'none' };
  if (kind !== VFIO_IRQ_SET_DATA_BOOL && kind !== VFIO_IRQ_SET_DATA_EVENTFD)
    return fail(EINVAL, 'one kind of data at a time');
  const each = kind === VFIO_IRQ_SET_DATA_BOOL ? 1 : 4;
  if (argsz - vfio_irq_set.size < count * each) return fail(EINVAL, 'argsz has no room for the data');
  const bytes = new Uint8Array(count * each);
  if (!process.memory.read(arg + big(vfio_irq_set.size), bytes))
    return fail(EFAULT, 'the data cannot be read');
  if (each === 1) return { kind: 'bool', bools: [...bytes].map((byte) => byte !== 0) };
  const view = new DataView(bytes.buffer);
  return { kind: 'eventfd', fds: Array.from({ length: count }, (_, i) => view.getInt32(4 * i, true)) };
}

// vfio_pci_set_intx_unmask(), vfio_pci_set_intx_mask()
const maskIntx =
  (mask: boolean): Action =>
  (interrupts, { process, start, count, data }) => {
    if (!interrupts.intxEnabled || start !== 0 || count !== 1) return fail(EINVAL, 'INTx is not in use');
    const apply = (): void => (mask ? interrupts.maskIntx() : interrupts.unmaskIntx());
    if (data.kind === 'none') return apply();
    if (data.kind === 'bool') return data.bools[0] === true ? apply() : undefined;
    if (mask) return fail(ENOTTY, 'INTx is not masked by eventfds');
    const fd = data.fds[0]!;
    if (fd < 0) return interrupts.setIntxUnmask(null);
    const eventfd = process.eventfd(fd);
    return failed(eventfd) ? eventfd : interrupts.setIntxUnmask(eventfd);
  };

// vfio_pci_set_intx_trigger()
const triggerIntx: Action = (interrupts, { process, start, count, data }) => {
  const used = interrupts.intxEnabled;
  if (used && count === 0 && data.kind === 'none') return interrupts.disableIntx();
  if ((!used && interrupts.type !== 'none') || start !== 0 || count !== 1)
    return fail(EINVAL, `interrupts come by ${interrupts.type} now, or start and count are not 0 and 1`);
  if (data.kind === 'eventfd') {
    const fd = data.fds[0]!;
    const trigger = fd < 0 ? null : process.eventfd(fd);
    if (trigger !== null && failed(trigger)) return trigger;
    if (used) return interrupts.setIntxTrigger(trigger);
    const enabled = interrupts.enableIntx(trigger);
    if (failed(enabled)) trigger?.release();
    return enabled;
  }
  if (!used) return fail(EINVAL, 'INTx is not in use');
  if (data.kind === 'none' || data.bools[0] === true) interrupts.triggerIntx();
};

// vfio_pci_set_msi_trigger()
const triggerMessages: Action = (interrupts, { process, index, start, count, data }) => {
  const type = interruptType(index) as 'msi' | 'msix';
  const used = interrupts.type === type;
  if (used && count === 0 && data.kind === 'none') return interrupts.disableMessages();
  if (!used && interrupts.type !== 'none') return fail(EINVAL, `interrupts come by ${interrupts.type} now`);
  if (data.kind === 'eventfd') {
    if (used) return interrupts.setVectors(process, start, data.fds);
    const enabled = interrupts.enableMessages(type, start + count);
    if (failed(enabled)) return enabled;
    const set = interrupts.setVectors(process, start, data.fds);
    if (failed(set)) interrupts.disableMessages();
    return set;
  }
  if (!used) return fail(EINVAL, `interrupts do not come by ${type} now`);
  const which = data.kind === 'bool' ? data.bools : Array.from({ length: count }, () => true);
  interrupts.triggerVectors(start, which);
};

// vfio_pci_set_ctx_trigger_single()
const triggerSingle =
  (which: 'error' | 'request'): Action =>
  (interrupts, { process, start, count, data }) => {
    if (start !== 0 || count > 1) return fail(EINVAL, 'there is one interrupt of this kind');
    const replace = (eventfd: Eventfd | null): void => {
      interrupts[which]?.release();
      interrupts[which] = eventfd;
    };
    if (data.kind === 'none') {
      if (interrupts[which] === null) return fail(EINVAL, 'there is no eventfd');
      return count > 0 ? interrupts[which].signal() : replace(null);
    }
    if (count === 0) return fail(EINVAL, 'count is 0');
    if (data.kind === 'bool') return data.bools[0] === true ? interrupts[which]?.signal() : undefined;
    const fd = data.fds[0]!;
    if (fd < -1) return fail(EINVAL, 'the descriptor is negative, and not -1');
    if (fd === -1) return replace(null);
    const eventfd = process.eventfd(fd);
    return failed(eventfd) ? eventfd : replace(eventfd);
  };

/** By index and by action; what is not here is ENOTTY. */
const ACTIONS: Readonly<Record<number, Readonly<Record<number, Action>>>> = {
  [VFIO_PCI_INTX_IRQ_INDEX]: {
    [VFIO_IRQ_SET_ACTION_MASK]: maskIntx(true),
    [VFIO_IRQ_SET_ACTION_UNMASK]: maskIntx(false),
    [VFIO_IRQ_SET_ACTION_TRIGGER]: triggerIntx,
  },
  [VFIO_PCI_MSI_IRQ_INDEX]: { [VFIO_IRQ_SET_ACTION_TRIGGER]: triggerMessages },
  [VFIO_PCI_MSIX_IRQ_INDEX]: { [VFIO_IRQ_SET_ACTION_TRIGGER]: triggerMessages },
  [VFIO_PCI_ERR_IRQ_INDEX]: { [VFIO_IRQ_SET_ACTION_TRIGGER]: triggerSingle('error') },
  [VFIO_PCI_REQ_IRQ_INDEX]: { [VFIO_IRQ_SET_ACTION_TRIGGER]: triggerSingle('request') },
};
