import type { Context, Obj } from '../iommufd/context.ts';
import type { Dice } from './dice.ts';
import { ModelPlayer } from '../player.ts';

// A script while it is being written: the model runs along, so that a step can ask for what is there.

/** What a variable of the script was filled with: an object's type, or a descriptor's. */
export type Kind = Obj['type'] | 'access-fd' | 'fault-fd' | 'veventq-fd' | 'dmabuf-fd';

interface Variable {
  readonly kind: Kind;
  readonly slot: number;
}

/** What comes in a field that names something: a variable of the script or a number. */
export type Reference = { readonly variable: number } | { readonly value: number };

const VARIABLES = 256;
const UNSET = 0x7fff_fff0;

/** One argument of an ioctl while it is put together. */
export class StructWriter {
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  readonly #fixes: string[] = [];

  constructor(size: number) {
    this.bytes = new Uint8Array(size);
    this.#view = new DataView(this.bytes.buffer);
    this.u32(0, size);
  }

  u16(at: number, value: number): this {
    this.#view.setUint16(at, value, true);
    return this;
  }

  u32(at: number, value: number): this {
    this.#view.setUint32(at, value, true);
    return this;
  }

  u64(at: number, value: bigint): this {
    this.#view.setBigUint64(at, value, true);
    return this;
  }

  reference(at: number, reference: Reference): this {
    if ('value' in reference) return this.u32(at, reference.value);
    this.#fixes.push(`${at}=v${reference.variable}`);
    return this;
  }

  /** A pointer into the arena. */
  arena(at: number, offset: bigint): this {
    this.#fixes.push(`${at}=p${offset.toString(16)}`);
    return this;
  }

  /** A pointer to an auxiliary buffer. */
  buffer(at: number, index: number): this {
    this.#fixes.push(`${at}=b${index}`);
    return this;
  }

  memfd(at: number, index: number): this {
    this.#fixes.push(`${at}=m${index}`);
    return this;
  }

  /** What a careless program gets wrong: the size, a reserved field, any word. */
  spoil(dice: Dice): this {
    const size = this.bytes.length;
    switch (dice.below(4)) {
      case 0:
        return this.u32(
          0,
          dice.pick([0, 4, size - 4, size - 1, size + 1, size + 8, 496, 512, 4096, 0xffff_ffff]),
        );
      case 1:
        return this.u32(dice.below(size / 4) * 4, 1 << dice.below(32));
      case 2:
        return this.u32(dice.below(size / 4) * 4, dice.u32());
      default:
        return size < 12 ? this : this.u64(4 + dice.below(Math.floor((size - 4) / 8)) * 4, dice.u64());
    }
  }

  line(slot: number, command: number): string {
    const hex = Buffer.from(this.bytes).toString('hex');
    return ['I', slot, command.toString(16).padStart(2, '0'), hex, ...this.#fixes].join(' ');
  }
}

/** Adds steps that make an object of a kind, if they can. */
export type Maker = (script: Script, dice: Dice, slot: number, kind: Kind) => void;

/** A script and the model that follows it. */
export class Script {
  readonly lines: string[] = [];
  readonly model = new ModelPlayer();
  readonly #variables: (Variable | null)[] = Array.from({ length: VARIABLES }, () => null);
  readonly #take: (line: string) => void;
  readonly #make: Maker;
  #nextVariable = 0;

  /** `take` plays a line, on the model too; `make` makes an object that a step needs. */
  constructor(take: (line: string) => void, make: Maker) {
    this.#take = take;
    this.#make = make;
  }

  add(line: string): void {
    this.lines.push(line);
    this.#take(line);
  }

  /** An ioctl, and variables for what it answers: [offset, kind]. */
  ioctl(
    slot: number,
    command: number,
    struct: StructWriter,
    results: readonly (readonly [number, Kind])[] = [],
  ): void {
    this.add(struct.line(slot, command));
    for (const [offset, kind] of results) {
      const variable = this.#nextVariable;
      this.#nextVariable = (variable + 1) % VARIABLES;
      this.add(`S ${offset} ${variable}`);
      this.#variables[variable] = { kind, slot };
    }
  }

  context(slot: number): Context | null {
    return this.model.context(slot);
  }

  /** The live objects of a type. */
  objects<T extends Obj['type']>(slot: number, type: T): Extract<Obj, { type: T }>[] {
    const objects = this.context(slot)?.objects ?? [];
    return objects.filter((object): object is Extract<Obj, { type: T }> => object.type === type);
  }

  /** What a variable holds now. */
  value(variable: number): number {
    return this.model.vars[variable]!;
  }

  #alive(variable: number): boolean {
    const { kind, slot } = this.#variables[variable]!;
    const value = this.value(variable);
    if (value === UNSET) return false;
    if (!kind.endsWith('-fd')) return this.objects(slot, kind as Obj['type']).some(({ id }) => id === value);
    return `${this.model.machine.descriptors.get(value)?.kind}-fd` === kind;
  }

  /** The variables that hold a live object or descriptor of a kind. */
  live(slot: number, kind: Kind): number[] {
    const found: number[] = [];
    this.#variables.forEach((variable, index) => {
      if (variable?.kind === kind && (kind.endsWith('-fd') || variable.slot === slot) && this.#alive(index))
        found.push(index);
    });
    return found;
  }

  /**
   * A reference to an object of one of the kinds, which is made where there is none; rarely to a dead one, one of another
   * kind or to nothing.
   */
  reference(dice: Dice, slot: number, ...kinds: Kind[]): Reference {
    const any = this.#variables.flatMap((variable, index) => (variable === null ? [] : [index]));
    if (any.length > 0 && dice.once(24)) return { variable: dice.pick(any) };
    if (dice.once(64))
      return { value: dice.pick([0, 1, 2, 3, 5, 8, 13, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) };
    let live = kinds.flatMap((kind) => this.live(slot, kind));
    if (live.length === 0 && !dice.once(8)) {
      const kind = dice.pick(kinds);
      this.#make(this, dice, slot, kind);
      live = this.live(slot, kind);
    }
    if (live.length === 0) return any.length === 0 ? { value: dice.below(8) } : { variable: dice.pick(any) };
    return { variable: dice.pick(live) };
  }

  /** The live variables whose objects are of the type and fulfil `where`. */
  liveWhere<T extends Obj['type']>(
    slot: number,
    type: T,
    where: (object: Extract<Obj, { type: T }>) => boolean,
  ): number[] {
    const ids = new Set(
      this.objects(slot, type)
        .filter(where)
        .map(({ id }) => id),
    );
    return this.live(slot, type).filter((variable) => ids.has(this.value(variable)));
  }

  /** The object that a reference finds, if it is of that type. */
  resolve<T extends Obj['type']>(
    slot: number,
    reference: Reference,
    type: T,
  ): Extract<Obj, { type: T }> | null {
    const id = 'value' in reference ? reference.value : this.value(reference.variable);
    return this.objects(slot, type).find((object) => object.id === id) ?? null;
  }
}
