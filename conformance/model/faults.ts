import { Dice } from './script/dice.ts';
import { Run, type RandomStep } from './run.ts';
import { viommuResources } from './state.ts';

// Random scripts in which allocations and copies fail: Linux's fault injection, /proc/self/fail-nth.

const EFAULT = 14;
/** Most requests have fewer points than that; rarely one of so many fails. */
const POINTS = 12;
const POINTS_MAX = 60;

const UNMAP_DMA = 0x72;
const TEST = 0xa0;
const TEST_ACCESS_PAGES = 7;
const TEST_MOCK_DOMAIN_REPLACE = 10;
const TEST_DIRTY = 13;
const TEST_TRIGGER_VEVENT = 17;
const TEST_PASID_ATTACH = 18;
const TEST_PASID_REPLACE = 19;
const FAKE_ERROR_PASID = 1024;

/** Requests that are done when their answer cannot be copied, and stay done in Linux too. */
const DONE_BEHIND_EFAULT = new Set([0x83, 0x85, 0x86, 0x8d, 0x8f]);
const TEST_DONE_BEHIND_EFAULT = new Set([TEST_MOCK_DOMAIN_REPLACE, TEST_DIRTY, TEST_PASID_REPLACE]);

export interface Request {
  readonly command: number;
  readonly op: number;
  readonly pasid: number;
}

/** What a line asks for, null where it is no ioctl with a struct. */
export function requestOf(line: string): Request | null {
  const [kind, , command = '', hex = ''] = line.split(' ');
  if (kind !== 'I') return null;
  const bytes = Buffer.from(hex, 'hex');
  const word = (at: number): number => (bytes.length >= at + 4 ? bytes.readUInt32LE(at) : 0);
  return { command: parseInt(command, 16), op: word(4), pasid: word(16) };
}

export function staysDone({ command, op }: Request): boolean {
  return DONE_BEHIND_EFAULT.has(command) || (command === TEST && TEST_DONE_BEHIND_EFAULT.has(op));
}

/** Requests whose failure leaves a trace in Linux as well, so that they do not answer the same again. */
function leavesTrace({ command, op, pasid }: Request): boolean {
  // Mappings have been cut, an event is lost, PASID 1024 fails every second time.
  if (command !== TEST) return command === UNMAP_DMA;
  if (op === TEST_PASID_ATTACH || op === TEST_PASID_REPLACE) return pasid === FAKE_ERROR_PASID;
  return op === TEST_TRIGGER_VEVENT;
}

/** A run in which every ioctl fails at a random point first, and is asked again. */
export class FaultRun extends Run {
  readonly #dice: Dice;
  /** Failures that were injected and told. */
  failures = 0;
  /** Where a failure was swallowed, viommu went another way than the model. */
  apart = false;

  constructor(theme: number, seed: number) {
    super(theme);
    this.#dice = new Dice(seed);
  }

  override step(step: RandomStep): void {
    if (!this.apart) super.step(step);
  }

  override compareStates(): void {
    if (!this.apart) super.compareStates();
  }

  override end(): void {
    if (this.apart) this.checkLeaks();
    else super.end();
  }

  protected override take(line: string): void {
    if (this.apart) {
      this.script.model.step(line);
      return;
    }
    const request = requestOf(line);
    if (request === null || leavesTrace(request) || !this.#fails(line, request)) super.take(line);
  }

  /** Makes the nth point of a request fail. False where that left everything as it was and the request is still to do. */
  #fails(line: string, request: Request): boolean {
    const { failNth } = this.player.task;
    const before = this.#resources();
    failNth.remaining = 1 + this.#dice.below(this.#dice.once(8) ? POINTS_MAX : POINTS);
    const answer = this.play(line)!;
    const injected = failNth.remaining === 0;
    failNth.remaining = 0;
    if (!injected) return this.#same(line, answer);
    if (!answer.includes(' rc=-1 ')) {
      // The failure was made up for, with another domain for example, or is nobody's to tell.
      this.apart = answer !== this.script.model.step(line)!.trimEnd() || this.stateDifference() !== null;
      return true;
    }
    this.failures++;
    const after = this.#resources();
    if (after === before) return request.op === TEST_ACCESS_PAGES && this.#pinAgain(line);
    if (!answer.includes(` errno=${EFAULT} `) || !staysDone(request)) this.#changed(before, after, answer);
    this.script.model.step(line);
    return true;
  }

  /** What is pinned has a number, which a failure may have used up. */
  #pinAgain(line: string): boolean {
    const [model, viommu] = [this.script.model.step(line)!.trimEnd(), this.play(line)!];
    const id = (answer: string): number => Buffer.from(answer.split(' ').at(-1)!, 'hex').readUInt32LE(20);
    const file = this.script.model.lastAccess();
    const item = file?.items.at(-1);
    if (model.includes(' rc=0 ') && file !== null && item !== undefined && id(viommu) === item.id + 1) {
      file.items.splice(-1, 1, { ...item, id: item.id + 1 });
      file.nextId++;
    } else if (viommu !== model) {
      this.differ(model, viommu);
    }
    return true;
  }

  #same(line: string, answer: string): boolean {
    const model = this.script.model.step(line)!.trimEnd();
    if (answer !== model) this.differ(model, answer);
    return true;
  }

  #changed(before: string, after: string, answer: string): never {
    const was = before.split('\n');
    const is = after.split('\n');
    const at = is.findIndex((line, index) => line !== was[index]);
    return this.differ(`before the call: ${was[at]}`, `${answer}, and then: ${is[at]}`);
  }

  #resources(): string {
    return viommuResources(this.player.kernel, this.player.process);
  }
}
