import type { KernelOptions } from '@viommu/core/machine/kernel';
import { Player } from '../transcripts/play.ts';
import { Dice } from './dice.ts';
import { make } from './make.ts';
import { Script } from './script.ts';
import { DEVICE_STEPS } from './steps-device.ts';
import { EVENT_STEPS, lastSteps } from './steps-events.ts';
import { IOAS_STEPS, type Step } from './steps-ioas.ts';

// Random scripts on viommu and on the model at once.

const STEPS: readonly (readonly [number, string, Step])[] = [...IOAS_STEPS, ...DEVICE_STEPS, ...EVENT_STEPS];
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
      `the last step of this script answers\n  ${viommu}\nand the model says\n  ${model}\n\n${lines.join('\n')}\n`,
    );
  }
}

/** A script, written and played on both. */
export class Run {
  readonly player: Player;
  readonly script: Script;
  readonly #names: (typeof NAMES)[number];

  constructor(theme: number, options: KernelOptions = {}) {
    this.#names = NAMES[theme]!;
    this.player = new Player(options);
    this.script = new Script((line, model) => {
      const before = this.player.lines.length;
      this.player.step(line);
      const viommu = this.player.lines.length > before ? this.player.lines.at(-1)!.trimEnd() : null;
      if (viommu !== (model?.trimEnd() ?? null)) throw new Difference(this.script.lines, model, viommu);
    }, make);
    this.script.add('C 0');
    this.script.add('W 0 40000 232');
    this.script.add('M 0 200000');
    this.script.add('M 1 10000');
  }

  step({ choice, seed }: RandomStep): void {
    const dice = new Dice(seed);
    const name = new Dice(choice).weighted(this.#names);
    const other = dice.once(24);
    if (other && this.script.context(1) === null) this.script.add('C 1');
    BY_NAME.get(name)!(this.script, dice, other ? 1 : 0);
  }

  /** Closes everything. */
  end(): void {
    lastSteps(this.script);
    for (const slot of [0, 1]) if (this.script.context(slot) !== null) this.script.add(`X ${slot}`);
    for (const kind of ['access-fd', 'fault-fd', 'veventq-fd', 'dmabuf-fd'] as const)
      for (const slot of [0, 1])
        for (const variable of this.script.live(slot, kind))
          if (this.script.live(slot, kind).includes(variable)) this.script.add(`Z ${variable}`);
  }
}
