// The rules on all files of a directory.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { codeProblems, lengthProblems, placeProblems } from './house.mjs';
import { importProblem } from './layers.mjs';
import { importsOf, maskSource } from './source.mjs';

const SKIPPED = new Set(['node_modules', 'dist', 'build', 'coverage']);
const SCRIPT = /\.(?:ts|tsx|mts|mjs|js)$/;
const LIMITED = /\.(?:ts|tsx|mts|mjs|js|c|h)$/;
const TEXT = /(?:\.(?:ts|tsx|mts|mjs|js|c|h|md|json|jsonc|ya?ml|sh|html|css)|\/\.ci\/[^/]+)$/;

/** Every file to look at, from `root`, with slashes, in order. What is hidden in the root is the user's, but for .ci. */
function walk(root, directory = '') {
  const entries = readdirSync(`${root}/${directory}`, { withFileTypes: true });
  return entries
    .toSorted((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const path = directory === '' ? entry.name : `${directory}/${entry.name}`;
      if (SKIPPED.has(entry.name) || (/^\.(?!ci\b)/.test(path) && !path.includes('/'))) return [];
      if (entry.isDirectory()) return walk(root, path);
      return entry.isFile() && path !== 'package-lock.json' ? [path] : [];
    });
}

/** The hosts that npm and apt ask on this system; whoever writes one into a file took it from here. */
function registryHosts() {
  const texts = [process.env.npm_config_registry ?? ''];
  const parts = '/etc/apt/sources.list.d';
  const names = existsSync(parts) ? readdirSync(parts).map((name) => `${parts}/${name}`) : [];
  for (const file of ['/etc/apt/sources.list', ...names]) {
    if (existsSync(file)) texts.push(readFileSync(file, 'utf8'));
  }
  const hosts = texts.flatMap((text) =>
    [...text.matchAll(/https?:\/\/(?:[^/\s@]*@)?([^/\s:]+)/g)].map((match) => match[1]),
  );
  return [...new Set(hosts)].filter((host) => host.includes('.') && !/^[\d.]+$/.test(host));
}

/** What the packages below `root` depend on, by the name of their directory; under '' what is there to develop with. */
function declaredDependencies(root) {
  const { devDependencies } = JSON.parse(readFileSync(`${root}/package.json`, 'utf8'));
  const declared = { '': Object.keys(devDependencies) };
  for (const name of readdirSync(`${root}/packages`)) {
    const file = `${root}/packages/${name}/package.json`;
    if (!existsSync(file)) continue;
    const { dependencies = {}, peerDependencies = {} } = JSON.parse(readFileSync(file, 'utf8'));
    declared[name] = Object.keys({ ...dependencies, ...peerDependencies });
  }
  return declared;
}

/**
 * The problems of one file's text.
 *
 * @param {string} file
 * @param {string} text
 * @param {{ hosts?: string[], dependencies?: Record<string, string[]> }} [context]
 */
export function checkFile(file, text, { hosts = [], dependencies } = {}) {
  const problems = placeProblems(text, hosts);
  if (LIMITED.test(file)) problems.push(...lengthProblems(text));
  if (SCRIPT.test(file)) {
    const masked = maskSource(text);
    problems.push(...codeProblems(file, text, masked));
    for (const { specifier, line } of importsOf(text, masked)) {
      const message = importProblem(file, specifier, dependencies);
      if (message !== null) problems.push({ line, message });
    }
  }
  return problems.toSorted((a, b) => a.line - b.line).map((problem) => ({ file, ...problem }));
}

const CORE = 'packages/core/src/';

/**
 * The rooms of core that docs/architecture.md does not name.
 *
 * @param {string} text what it says
 * @param {string[]} files
 */
export function unnamedRooms(text, files) {
  const rooms = text.slice(text.indexOf('## The rooms'), text.indexOf('## Who may import whom'));
  const named = new Set(rooms.match(/[\w-]+/g));
  const parts = files
    .filter((file) => file.startsWith(CORE))
    .flatMap((file) => file.slice(CORE.length).split('/').slice(0, -1));
  return [...new Set(parts)].filter((part) => !named.has(part) && part !== 'testing' && part !== 'rules');
}

/** The problems of every file below `root`, and how many files that are. */
export function checkTree(root) {
  const context = { hosts: registryHosts(), dependencies: declaredDependencies(root) };
  const files = walk(root).filter((file) => TEXT.test(`/${file}`));
  const problems = files.flatMap((file) => checkFile(file, readFileSync(`${root}/${file}`, 'utf8'), context));
  const file = 'docs/architecture.md';
  for (const room of unnamedRooms(readFileSync(`${root}/${file}`, 'utf8'), files)) {
    problems.push({
      file,
      line: 1,
      message: `the folder ${room} of core is not among the rooms; say what is in it`,
    });
  }
  return { files: files.length, problems };
}
