import { describe, expect, test } from 'vitest';
import { ATTRIBUTES } from './rules/attributes.ts';
import { COMMANDS } from './rules/commands.ts';
import { CONTEXTS } from './rules/context-descriptors.ts';
import { FAULTS } from './rules/faults.ts';
import { PCIE } from './rules/pcie.ts';
import { QUEUES } from './rules/queues.ts';
import { REGISTER_RULES } from './rules/registers.ts';
import { STREAMS } from './rules/streams.ts';
import { TRANSLATION } from './rules/translation.ts';

const TOPICS = {
  registers: REGISTER_RULES,
  queues: QUEUES,
  streams: STREAMS,
  contexts: CONTEXTS,
  translation: TRANSLATION,
  attributes: ATTRIBUTES,
  commands: COMMANDS,
  faults: FAULTS,
  pcie: PCIE,
};
const RULES = Object.values(TOPICS).flat();

describe.each(Object.entries(TOPICS))('rules of IHI 0070G.b: %s', (_, rules) => {
  test.each(rules.map((each) => [each.id, each.section, each.rule, each] as const))('%s %s: %s', (...row) => {
    row[3].test();
  });
});

describe('the table of rules', () => {
  test('has at least 250 of them, with a section and a test each', () => {
    expect(RULES.length).toBeGreaterThanOrEqual(250);
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
