// esbuild makes variables of a bundle's constants, which V8 does not fold: walks of page tables take 6 % longer. The
// modules of packages/core/dist keep them.

/** A line that esbuild puts before each module. */
const MODULE = /^\/\/ (\S+\.[a-z]+)$/;
const CORE = /(^|\/)core\/(src|dist)\//;
/** None of core's modules has a variable of such a name at its top: these were constants. */
const VARIABLE = /^var (?=[A-Z][A-Z0-9_]* = )/;

/**
 * The text of a bundle, in which the constants of core's modules are constants again.
 *
 * @param {string} text
 * @returns {string}
 */
export function keepConstants(text) {
  let core = false;
  return text
    .split('\n')
    .map((line) => {
      const path = MODULE.exec(line)?.[1];
      if (path !== undefined) core = CORE.test(path);
      return core ? line.replace(VARIABLE, 'const ') : line;
    })
    .join('\n');
}
