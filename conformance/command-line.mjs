// The command lines of the scripts here. A wrong one is told in a line, and the script ends with 2.

import { basename } from 'node:path';
import { parseArgs } from 'node:util';

/**
 * Ends the script.
 *
 * @param {string} message what is wrong with its command line
 * @returns {never}
 */
export function usage(message) {
  console.error(`${basename(process.argv[1] ?? '')}: ${message}`);
  process.exit(2);
}

/**
 * What `read` answers; an error that it throws is the command line's.
 *
 * @template Read
 * @param {() => Read} read
 * @returns {Read}
 */
export function orUsage(read) {
  try {
    return read();
  } catch (error) {
    return usage(error.message);
  }
}

/**
 * @template {import('node:util').ParseArgsConfig} Config
 * @param {Config} config
 */
export function commandLine(config) {
  return orUsage(() => parseArgs(config));
}

/**
 * Ends the script unless all `names` are known.
 *
 * @param {string} what one of them is
 * @param {readonly string[]} names
 * @param {readonly string[]} known
 */
export function expectKnown(what, names, known) {
  const unknown = names.find((name) => !known.includes(name));
  if (unknown !== undefined) usage(`there is no ${what} ${unknown}; there are ${known.join(', ')}`);
}

/**
 * The number that an option has: 1 or more.
 *
 * @param {string} option
 * @param {string} text
 */
export function atLeastOne(option, text) {
  const number = Number(text);
  return number >= 1 ? number : usage(`${option} takes a number from 1 on, not '${text}'`);
}
