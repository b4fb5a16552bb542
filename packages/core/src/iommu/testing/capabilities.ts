// docs/*-capabilities.md: every field of the registers that advertise, with what the model does behind it. What may be
// set, and what goes with what, is found by asking the vendor's function that makes configurations.

import { describe, expect, test } from 'vitest';
import { type Field, type LayoutInfo, readField } from '../../base/bit-fields.ts';

/** Values of fields, by register and name. */
export type FieldValues = Record<string, Record<string, number>>;

export interface AdvertisingRegister {
  /** As overrides have it. */
  readonly name: string;
  readonly layout: LayoutInfo;
  readonly section: string;
  /** By default. */
  readonly words: ArrayLike<number>;
}

export interface CapabilitiesOptions {
  readonly registers: readonly AdvertisingRegister[];
  /** What the model does for a field that may be set, by `REGISTER.FIELD`. */
  readonly meaning: Readonly<Record<string, string>>;
  /** Makes a configuration, and throws where it is refused. */
  readonly configure: (values: FieldValues) => unknown;
}

interface Answer {
  /** What has to be clear for it, by `REGISTER.FIELD`. */
  readonly clears: readonly string[];
  readonly refusal?: string;
}

interface Entry {
  readonly register: string;
  readonly field: Field;
  readonly key: string;
  readonly value: number;
  /** Values that are taken, as ranges; '0' where nothing else is. */
  readonly taken: string;
}

export class Capabilities {
  readonly #options: CapabilitiesOptions;
  readonly #entries: readonly Entry[];

  constructor(options: CapabilitiesOptions) {
    this.#options = options;
    this.#entries = options.registers.flatMap(({ name, layout, words }) =>
      layout.fields.map((field) => ({
        register: name,
        field,
        key: `${name}.${field.name}`,
        value: readField(field, words),
        taken: this.#taken(name, field),
      })),
    );
  }

  /** Asks for a value. What cannot stay beside it is cleared, as refusals name it. */
  #ask(register: string, name: string, value: number): Answer {
    const values: FieldValues = {};
    for (const each of this.#options.registers) values[each.name] = {};
    values[register]![name] = value;
    const clears: string[] = [];
    for (;;) {
      const message = this.#refusal(values);
      if (message === null) return { clears };
      const needs = /(\w+)\.(\w+) needs /.exec(message);
      if (needs === null || (needs[1] === register && needs[2] === name)) return { clears, refusal: message };
      values[needs[1]!]![needs[2]!] = 0;
      clears.push(`${needs[1]}.${needs[2]}`);
    }
  }

  #refusal(values: FieldValues): string | null {
    try {
      this.#options.configure(values);
      return null;
    } catch (error) {
      return (error as Error).message;
    }
  }

  /** Of wide fields the ends alone are asked for. */
  #taken(register: string, field: Field): string {
    const most = 2 ** field.width - 1;
    const takes = (value: number): boolean => this.#ask(register, field.name, value).refusal === undefined;
    if (field.width > 10) return takes(0) && takes(most) ? `0–${most}` : '0';
    const ranges: [number, number][] = [];
    for (let value = 0; value <= most; value++) {
      if (!takes(value)) continue;
      const last = ranges.at(-1);
      if (last?.[1] === value - 1) last[1] = value;
      else ranges.push([value, value]);
    }
    return ranges.map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`)).join(', ');
  }

  /** A section for each register: the fields that may be set. */
  sections(): string {
    const sections = this.#options.registers.map(({ name, layout, section, words }) => {
      const rows = this.#entries
        .filter(({ register, taken }) => register === name && taken !== '0')
        .map(({ key, field, value, taken }) => {
          return [field.name, bits(field), `${value}`, taken, this.#options.meaning[key] ?? ''];
        });
      const title = `## ${layout.name} (${section}), by default ${hex(words)}h`;
      return `${title}\n\n${table([['Field', 'Bits', 'Default', 'Values', 'What the model does'], ...rows])}`;
    });
    return sections.join('\n\n');
  }

  /** What else has to be clear where a field is. */
  preconditions(): string {
    const rows = this.#entries
      .filter(({ field, value }) => field.width <= 2 && value === 1)
      .map(({ register, key, field }) => [
        key,
        this.#ask(register, field.name, 0).clears.toSorted().join(', '),
      ])
      .filter(([, clears]) => clears !== '');
    return table([['Without', 'also clear'], ...rows]);
  }

  /** What may not be set, and what it would be for. */
  absent(): string {
    const rows = this.#entries
      .filter(({ taken }) => taken === '0')
      .map(({ register, key, field }) => {
        const refusal = (this.#ask(register, field.name, 1).refusal ?? '').replace(/^.* configuration: /, '');
        return [key, bits(field), /but (.*) is not modelled/.exec(refusal)?.[1] ?? refusal];
      });
    return table([['Field', 'Bits', 'For'], ...rows]);
  }

  /** The page is what stands in `docs/NAME`, and leaves nothing out. */
  check(name: string, page: string): void {
    describe(`docs/${name}`, () => {
      test('is what the model advertises', async () => {
        // By where the repository is: a path from the test's own folder would make a new page when the test moves.
        const { testPath = '' } = expect.getState();
        const root = testPath.slice(0, testPath.lastIndexOf('/packages/core/src/'));
        await expect(page).toMatchFileSnapshot(`${root}/docs/${name}`);
      });

      test('says of each field that may be set what it is for', () => {
        const named = this.#entries.filter(({ taken }) => taken !== '0').map(({ key }) => key);
        expect(Object.keys(this.#options.meaning).toSorted()).toEqual(named.toSorted());
      });

      test('has a default that is taken as it stands', () => {
        for (const { register, key, field, value } of this.#entries)
          expect([key, this.#ask(register, field.name, value)]).toEqual([key, { clears: [] }]);
      });
    });
  }
}

const bits = ({ msb, lsb }: Field): string => (msb === lsb ? `${msb}` : `${msb}:${lsb}`);

const hex = (words: ArrayLike<number>): string =>
  Array.from(words, (word) => word.toString(16).padStart(8, '0'))
    .toReversed()
    .join('_');

/** A table of Markdown, the first row its heads, padded as prettier pads it. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(3, ...rows.map((row) => row[column]!.length)));
  const line = (row: readonly string[]): string =>
    `| ${row.map((cell, column) => cell.padEnd(widths[column]!)).join(' | ')} |`;
  const rule = widths.map((width) => '-'.repeat(width));
  return [line(rows[0]!), line(rule), ...rows.slice(1).map(line)].join('\n');
}
