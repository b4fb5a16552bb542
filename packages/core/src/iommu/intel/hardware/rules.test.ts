import { describe, expect, test } from 'vitest';
import { CACHES } from './rules/caches.ts';
import { CONTEXTS } from './rules/contexts.ts';
import { FAULTS } from './rules/faults.ts';
import { PASIDS } from './rules/pasids.ts';
import { FIRST_STAGE } from './rules/first-stage.ts';
import { PCIE } from './rules/pcie.ts';
import { QUEUE } from './rules/queue.ts';
import { REGISTERS } from './rules/registers.ts';
import { SECOND_STAGE } from './rules/second-stage.ts';

const TOPICS = {
  registers: REGISTERS,
  contexts: CONTEXTS,
  pasids: PASIDS,
  'first stage': FIRST_STAGE,
  'second stage': SECOND_STAGE,
  caches: CACHES,
  queue: QUEUE,
  faults: FAULTS,
  PCIe: PCIE,
};
const RULES = Object.values(TOPICS).flat();

describe.each(Object.entries(TOPICS))('rules of D51397 rev 5.10: %s', (_, rules) => {
  test.each(rules.map((each) => [each.id, each.section, each.rule, each] as const))('%s %s: %s', (...row) => {
    row[3].test();
  });
});

describe('the table of rules', () => {
  test('has at least 150 of them, with a section and a test each', () => {
    expect(RULES.length).toBeGreaterThanOrEqual(150);
    for (const each of RULES) {
      expect(each.section).toMatch(/^§\d+(\.\d+)*/);
      expect(each.rule.length).toBeGreaterThan(10);
      expect(each.test).toBeTypeOf('function');
    }
  });

  test('names each once', () => {
    expect(new Set(RULES.map((each) => each.id)).size).toBe(RULES.length);
    expect(new Set(RULES.map((each) => each.rule)).size).toBe(RULES.length);
  });
});
