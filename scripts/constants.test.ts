import { expect, it } from 'vitest';
import { keepConstants } from './constants.mjs';

it('makes constants again of what core’s modules have at their top, and of nothing else', () => {
  const bundle = [
    '// node_modules/yaml/dist/x.js',
    'var LIMIT = 1;',
    '// packages/core/src/abi/x.ts',
    'var LIMIT2 = 1;',
    '// A comment.',
    'var Class = class {',
    '  var LIMIT3 = 1;',
    'var MASKS_64 = [',
    '// packages/cli/src/run.ts',
    'var LIMIT4 = 1;',
    '// ../core/dist/abi/y.js',
    'var LIMIT5 = 1;',
  ];
  const changed = keepConstants(bundle.join('\n')).split('\n');
  expect(changed.filter((line, i) => line !== bundle[i])).toEqual([
    'const LIMIT2 = 1;',
    'const MASKS_64 = [',
    'const LIMIT5 = 1;',
  ]);
});
