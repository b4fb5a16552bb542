import { failed } from '@viommu/core/base/result';
import type { KernelOptions } from '@viommu/core/machine/kernel';
import { Player } from '../transcripts/play.ts';
import { Dice } from './script/dice.ts';
import { make } from './script/make.ts';
import { Script } from './script/script.ts';
import type { Step } from './script/step.ts';
import { modelState, viommuState } from './state.ts';
import { ACCESS_STEPS } from './script/steps-access.ts';
import { DEVICE_STEPS } from './script/steps-device.ts';
import { DIRTY_STEPS } from './script/steps-dirty.ts';
import { EVENT_STEPS, lastSteps } from './script/steps-events.ts';
import { IOAS_STEPS } from './script/steps-ioas.ts';

// Random scripts on viommu and on the model at once.

const STEPS: readonly (readonly [number, string, Step])[] = [
  ...IOAS_STEPS,
  ...DEVICE_STEPS,
  ...DIRTY_STEPS,
  ...ACCESS_STEPS,
  ...EVENT_STEPS,
];
const BY_NAME = new Map(STEPS.map(([, name, step]) => [name, step]));

/** What a script is about: these steps come more often than the others. */
const THEMES: readonly (readonly string[])[] = [
  [],
  ['map', 'map-file', 'copy', 'unmap', 'allow-iovas', 'add-reserved', 'iova-ranges'],
  ['vfio-ioas', 'vfio-map', 'vfio-unmap', 'vfio-info', 'vfio-other', 'create-access', 'access-pages'],
  ['map-file', 'set-tracking', 'set-dirty', 'get-dirty', 'hwpt-alloc', 'option'],
  ['create-access', 'access-pages', 'destroy-pages', 'access-rw', 'replace-ioas', 'copy', 'unmap', 'map'],
  ['viommu-alloc', 'vdevice-alloc', 'hw-queue-alloc', 'hwpt-alloc', 'mock-replace', 'destroy', 'map-file'],
  [
    'viommu-alloc',
    'vdevice-alloc',
    'veventq-alloc',
    'trigger-vevent',
    'read-events',
    'mock-replace',
    'destroy',
  ],
  ['fault-alloc', 'hwpt-alloc', 'trigger-fault', 'read-events', 'respond', 'mock-replace', 'pasid-attach'],
  ['pasid-attach', 'pasid-detach', 'pasid-check', 'mock-replace', 'hwpt-alloc', 'mock-domain', 'destroy'],
  ['dmabuf', 'map-file', 'unmap', 'mock-domain', 'hwpt-alloc', 'destroy', 'copy', 'option', 'check-map'],
];
const THEME_FACTOR = 8;
const STEPS_BETWEEN_LOOKS = 16;

const NAMES = THEMES.map((theme) =>
  STEPS.map(([weight, name]) => [theme.includes(name) ? weight * THEME_FACTOR : weight, name] as const),
);

/** How many themes there are. */
export const THEMES_COUNT = THEMES.length;

/** Which step a script of a theme takes, and the seed of what is random in it. Both are any u32. */
export interface RandomStep {
  readonly choice: number;
  readonly seed: number;
}

/** A script on which viommu and the model do not agree. */
export class Difference extends Error {
  override name = 'Difference';

  constructor(lines: readonly string[], model: string | null, viommu: string | null) {
    super(
      `after the last step of this script viommu has\n  ${viommu}\nand the model\n  ${model}\n\n${lines.join('\n')}\n`,
    );
  }
}

/** A script, written and played on both. */
export class Run {
  readonly player: Player;
  readonly script: Script;
  readonly #names: (typeof NAMES)[number];
  #steps = 0;

  constructor(theme: number, options: KernelOptions = {}) {
    this.#names = NAMES[theme]!;
    this.player = new Player(options);
    this.script = new Script((line) => this.take(line), make);
    this.script.add('C 0');
    this.script.add('W 0 40000 232');
    this.script.add('M 0 200000');
    this.script.add('M 1 10000');
  }

  /** Plays a line on both and compares what they print. */
  protected take(line: string): void {
    const model = this.script.model.step(line)?.trimEnd() ?? null;
    const viommu = this.play(line);
    if (viommu !== model) this.differ(model, viommu);
  }

  /** Plays a line on viommu. */
  protected play(line: string): string | null {
    const before = this.player.lines.length;
    this.player.step(line);
    return this.player.lines.length > before ? this.player.lines.at(-1)!.trimEnd() : null;
  }

  protected differ(model: string | null, viommu: string | null): never {
    throw new Difference(this.script.lines, model, viommu);
  }

  step({ choice, seed }: RandomStep): void {
    const dice = new Dice(seed);
    const name = new Dice(choice).weighted(this.#names);
    const other = dice.once(24);
    if (other && this.script.context(1) === null) this.script.add('C 1');
    BY_NAME.get(name)!(this.script, dice, other ? 1 : 0);
    if (++this.#steps % STEPS_BETWEEN_LOOKS === 0) this.compareStates();
  }

  /** Compares what no ioctl tells. */
  compareStates(): void {
    const difference = this.stateDifference();
    if (difference !== null) this.differ(...difference);
  }

  /** What the model and viommu have where they do not have the same. */
  protected stateDifference(): readonly [model: string | null, viommu: string | null] | null {
    const model = modelState(this.script.model.machine);
    const viommu = viommuState(this.player.kernel, this.player.process);
    for (let i = 0; i < Math.max(model.length, viommu.length); i++)
      if (model[i] !== viommu[i]) return [model[i] ?? null, viommu[i] ?? null];
    return null;
  }

  /** Closes everything; nothing may be left. */
  end(): void {
    this.compareStates();
    lastSteps(this.script);
    for (const slot of [0, 1]) if (this.script.context(slot) !== null) this.script.add(`X ${slot}`);
    for (const kind of ['access-fd', 'fault-fd', 'veventq-fd', 'dmabuf-fd'] as const)
      for (const slot of [0, 1])
        for (const variable of this.script.live(slot, kind))
          if (this.script.live(slot, kind).includes(variable)) this.script.add(`Z ${variable}`);
    this.checkLeaks();
  }

  /** Nothing may be left when everything is closed. */
  protected checkLeaks(): void {
    const { kernel, process } = this.player;
    // Descriptors that no variable holds any more.
    process.exit();
    const { frames, ram } = kernel.physical;
    const left = [
      ['pinned frames', frames.pinned],
      ['chunks of frames', frames.chunks],
      ['pages of RAM', ram.size],
      ['locked pages', kernel.locked.of(process.uid)],
      ['VmLck', process.memory.lockedPages],
      ['VmPin', process.memory.pinnedPages],
    ] as const;
    for (const [what, count] of left) if (count !== 0) this.differ(`no ${what}`, `${count} ${what}`);
    const device = kernel.mock.createDevice(0);
    if (failed(device)) throw new Error(device.reason);
    if (device.id !== 0) this.differ('no mock device', `mock devices up to ${device.id - 1}`);
    kernel.mock.destroyDevice(device);
  }
}
