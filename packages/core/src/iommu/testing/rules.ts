// Tables of rules: what a specification says and software can observe, each rule with its section and a test. A vendor's
// topics are in its hardware/rules; hardware/rules.test.ts runs and counts them.

import { describe, expect, test } from 'vitest';

export interface Rule {
  /** Unique, such as `STE-07`. */
  readonly id: string;
  /** One section or more, such as `§5.2.2`. */
  readonly section: string;
  readonly rule: string;
  readonly test: () => void;
}

export type Topic = (section: string, rule: string, test: () => void) => void;

/** Numbers a topic's rules. */
export function topic(prefix: string, fill: (rule: Topic) => void): readonly Rule[] {
  const rules: Rule[] = [];
  fill((section, rule, test) => {
    const number = String(rules.length + 1).padStart(2, '0');
    rules.push({ id: `${prefix}-${number}`, section, rule, test });
  });
  return rules;
}

/** Runs every rule of a specification, and sees that there are as many as there should be. */
export function describeRules(
  specification: string,
  least: number,
  topics: Readonly<Record<string, readonly Rule[]>>,
): void {
  describe.each(Object.entries(topics))(`rules of ${specification}: %s`, (_, rules) => {
    test.each(rules.map((each) => [each.id, each.section, each.rule, each] as const))(
      '%s %s: %s',
      (...row) => {
        row[3].test();
      },
    );
  });

  describe('the table of rules', () => {
    const all = Object.values(topics).flat();

    test(`has at least ${least} of them, with a section and a test each`, () => {
      expect(all.length).toBeGreaterThanOrEqual(least);
      for (const each of all) {
        expect(each.section).toMatch(/^§\d+(\.\d+)*/);
        expect(each.rule.length).toBeGreaterThan(10);
        expect(each.test).toBeTypeOf('function');
      }
    });

    test('names each once', () => {
      expect(new Set(all.map((each) => each.id)).size).toBe(all.length);
      expect(new Set(all.map((each) => each.rule)).size).toBe(all.length);
    });
  });
}

/** Throws unless both are alike in every part. */
export function same(got: unknown, want: unknown): void {
  const [left, right] = [show(got), show(want)];
  if (left !== right) throw new Error(`got ${left}, want ${right}`);
}

/** Throws unless `got` has what `want` has; it may have more. */
export function has(got: object | null | undefined, want: object): void {
  const part: Record<string, unknown> = {};
  for (const key of Object.keys(want)) part[key] = (got as Record<string, unknown> | null | undefined)?.[key];
  same(part, want);
}

function show(value: unknown): string {
  return (
    JSON.stringify(value, (_, each: unknown) => {
      if (typeof each === 'bigint') return `${each}n`;
      return each === undefined ? 'undefined' : each;
    }) ?? 'undefined'
  );
}
