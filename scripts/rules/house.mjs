// House rules that are seen in a file alone.

import { isTest } from './layers.mjs';
import { lineAt } from './source.mjs';

const LINES_MAX = 600;

/**
 * @typedef {{ line: number, message: string }} Problem
 * @typedef {{ when: (file: string) => boolean, pattern: RegExp, message: string }} Rule
 */

const typescript = (file) => /\.tsx?$/.test(file);
const core = (file) => file.startsWith('packages/core/src/');
const config = (file) => /(?:^|\/)(?:vitest|vite)\.config\.ts$/.test(file);
const spec = (file) => /\/iommu\/[^/]+\/spec\//.test(file) && !isTest(file);

/** Looked for in the code, that is, not in comments and strings. @type {Rule[]} */
const CODE_RULES = [
  {
    when: (file) => !config(file),
    pattern: /\bexport\s+default\b|\bexport\s*\{[^}]*\bas\s+default\b/g,
    message: 'a default export; export it by its name',
  },
  {
    when: typescript,
    pattern: /^[ \t]*(?:export\s+)?(?:declare\s+)?(?:const\s+)?enum\s+\w/gm,
    message: 'an enum; write an object `as const`',
  },
  {
    when: typescript,
    pattern: /^[ \t]*(?:export\s+)?(?:declare\s+)?(?:namespace|module)\s+[\w.]+\s*\{/gm,
    message: 'a namespace; a file is one',
  },
  {
    when: core,
    pattern: /\bDate\s*\.\s*now\b|\bnew\s+Date\b|\bperformance\s*\.\s*now\b/g,
    message: 'core reads no clock; take the time as an argument',
  },
  {
    when: core,
    pattern: /\bMath\s*\.\s*random\b|\bcrypto\s*\.\s*(?:getRandomValues|randomUUID)\b/g,
    message: 'core has no randomness; take a seed or a generator as an argument',
  },
  {
    when: core,
    pattern: /\b(?:setTimeout|setInterval|setImmediate|requestAnimationFrame)\s*\(/g,
    message: 'core has no timers; what happens later is called from outside',
  },
  {
    when: isTest,
    pattern: /\b(?:test|it|describe|suite)\s*\.\s*(?:skip|only|todo|skipIf|runIf|fails)\b/g,
    message: 'a test that is left out; make it run or remove it',
  },
  {
    when: spec,
    pattern: /\b(?:for|while|switch|if)\s*\(|\bclass\s+\w/g,
    message: 'spec describes and holds no algorithm; it belongs in hardware or driver',
  },
];

const NUMBER_ALLOWED = /\/\/ number: \S/;

function numberProblems(file, text, masked) {
  if (!core(file) || isTest(file) || file.endsWith('/base/u64.ts')) return [];
  const lines = text.split('\n');
  return [...masked.matchAll(/(?<![.\w$])Number\s*\(/g)]
    .map((match) => lineAt(text, match.index))
    .filter((line) => ![lines[line - 1], lines[line - 2] ?? ''].some((each) => NUMBER_ALLOWED.test(each)))
    .map((line) => ({
      line,
      message:
        'Number() outside base/u64.ts; for a bigint call exact, pageNumber, pageOffset, hi32 or lo32 of base/u64.ts, ' +
        'for anything else say what it is in a comment `// number: …`',
    }));
}

/**
 * @param {string} file from the repository's root, with slashes
 * @param {string} text
 * @param {string} masked the code as maskSource() leaves it
 * @returns {Problem[]}
 */
export function codeProblems(file, text, masked) {
  const found = CODE_RULES.filter(({ when }) => when(file)).flatMap(({ pattern, message }) =>
    [...masked.matchAll(pattern)].map((match) => {
      const start = match.index + match[0].search(/\S/);
      return { line: lineAt(text, start), message: `${match[0].trim().replace(/\s+/g, ' ')}: ${message}` };
    }),
  );
  return [...found, ...numberProblems(file, text, masked)];
}

/** @returns {Problem[]} */
export function lengthProblems(text) {
  const lines = text.split('\n').length - (text.endsWith('\n') ? 1 : 0);
  if (lines <= LINES_MAX) return [];
  return [{ line: LINES_MAX + 1, message: `${lines} lines; past ${LINES_MAX} a file is two files` }];
}

// Put together from parts, so that this file does not find itself.
const HOME = new RegExp(`(?<![\\w.$}-])/(?:${['root', 'work', 'home'].join('|')})/[\\w.-]*[\\w-]`, 'g');
const REGISTRY = new RegExp(
  `\\b(?:${['registry', 'deb', 'security', 'snapshot', 'mirrors?', 'pypi', 'proxy'].join('|')})` +
    '\\.[a-z0-9-]+(?:\\.[a-z0-9-]+)*\\.(?:org|com|net|io|dev)\\b',
  'g',
);

/**
 * What ties a file to the machine it was written on.
 *
 * @param {string} text
 * @param {string[]} hosts registries that this system uses
 * @returns {Problem[]}
 */
export function placeProblems(text, hosts) {
  const problems = [];
  const add = (offset, message) => problems.push({ line: lineAt(text, offset), message });
  for (const match of text.matchAll(HOME)) {
    add(
      match.index,
      `${match[0]} is a path of one machine; derive it from import.meta.url or take it as an argument`,
    );
  }
  for (const match of text.matchAll(REGISTRY)) {
    add(match.index, `${match[0]} is a registry's host; npm and apt know theirs from the system`);
  }
  for (const host of hosts) {
    const offset = text.indexOf(host);
    if (offset !== -1) add(offset, `${host} is a registry's host; npm and apt know theirs from the system`);
  }
  return problems;
}
