import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { LAYERS, importProblem } from './layers.mjs';
import { importsOf, lineAt, maskSource } from './source.mjs';
import { checkFile, checkTree, unnamedRooms } from './tree.mjs';

const CORE = 'packages/core/src';
/** A file of hardware. */
const WALK = `${CORE}/iommu/amd/hardware/translation/walk.ts`;

interface Problem {
  file: string;
  line: number;
  message: string;
}

const messages = (file: string, text: string, hosts: string[] = []) =>
  checkFile(file, text, { hosts }).map(({ line, message }: Problem) => `${line}: ${message}`);

describe('the mask', () => {
  test.each([
    ['a; // Number(b)\nc', 'a;             \nc'],
    ['f(\'enum\', "a\\"b");', 'f(\'    \', "    ");'],
    ['/* x\n y */z', '    \n     z'],
    ['`a ${f(`b`, {c})} d` + e', '`  ${f(` `, {c})}  ` + e'],
    ['x = /[/"]\'/g; y', 'x = /     /g; y'],
    ['a / b; // c', 'a / b;     '],
    ["'never closed\nnext", "'            \nnext"],
  ])('of %j is %j', (text, masked) => {
    expect(maskSource(text)).toBe(masked);
  });

  test('keeps the length and the lines of any text', () => {
    const text = 'const a = `x${`y${1}`}`; /* b */\nreturn /\\//.test("\\\\") ? 1 : 2 // end';
    const masked = maskSource(text);
    expect(masked).toHaveLength(text.length);
    expect(masked.indexOf('\n')).toBe(text.indexOf('\n'));
    expect(lineAt(text, text.indexOf('return'))).toBe(2);
  });
});

describe('the imports of a source', () => {
  test('are found in all their forms, and not in comments or strings', () => {
    const text = [
      "import { a,\n  b } from './1.ts';",
      "import type { T } from './2.ts';",
      "import * as all from './3.ts';",
      "import './4.ts';",
      "export { c } from './5.ts';",
      "export * from './6.ts';",
      "const d = await import('./7.ts');",
      "type E = import('./8.ts').E;",
      "// import { f } from './no.ts';",
      'const s = "import { g } from \'./no.ts\'";',
    ].join('\n');
    const found = importsOf(text, maskSource(text));
    expect(found.map(({ specifier }: { specifier: string }) => specifier)).toEqual(
      [1, 2, 3, 4, 5, 6, 7, 8].map((n) => `./${n}.ts`),
    );
    expect(found[1]).toEqual({ specifier: './2.ts', line: 3 });
  });
});

describe('the import rule', () => {
  const DECLARED = { '': ['esbuild', 'fast-check'], core: ['zod'], cli: ['commander'], host: [] };

  test.each([
    [`${CORE}/abi/iommufd.ts`, '../base/struct.ts'],
    [`${CORE}/iommufd/ioas/ioas.ts`, '../../iommu/driver.ts'],
    [`${CORE}/iommufd/ioas/ioas.ts`, '../../trace/trace.ts'],
    [`${CORE}/iommufd/selftest/device.ts`, '../../iommu/mock/device.ts'],
    [WALK, '../../../caches/cache.ts'],
    [WALK, '../../../requests/dma-port.ts'],
    [WALK, '../../spec/dte.ts'],
    [`${CORE}/iommu/amd/driver/init.ts`, '../../driver.ts'],
    [`${CORE}/iommu/amd/driver/init.ts`, '../../drivers/mmio.ts'],
    [`${CORE}/iommu/drivers/mmio.ts`, '../driver.ts'],
    [`${CORE}/iommu/requests/dma-port.ts`, '../caches/cache-atc.ts'],
    [`${CORE}/machine/kernel.ts`, '../iommufd/selftest/command.ts'],
    [`${CORE}/base/struct.test.ts`, '../machine/kernel.ts'],
    [`${CORE}/base/struct.test.ts`, 'fast-check'],
    [`${CORE}/iommu/amd/hardware/rules/walks.ts`, '../../../../machine/kernel.ts'],
    ['packages/host/src/supervisor.ts', 'node:fs'],
    ['packages/host/src/testing/build.ts', 'esbuild'],
    ['packages/host/src/supervisor.ts', '@viommu/core/abi/errno'],
    ['packages/cli/src/run.ts', '@viommu/host/supervisor'],
    ['packages/cli/src/run.ts', 'commander'],
    [`${CORE}/machine/machine-file/description.ts`, 'zod/v4'],
    ['conformance/abi/run.mjs', '../../packages/core/src/abi/errno.ts'],
  ])('lets %s import %s', (file, specifier) => {
    expect(importProblem(file, specifier, DECLARED)).toBeNull();
  });

  test.each([
    [`${CORE}/base/u64.ts`, '../abi/errno.ts', 'base may not import abi'],
    [`${CORE}/base/u64.ts`, '../trace/trace.ts', 'base may not import trace'],
    [`${CORE}/iommu/driver.ts`, '../iommufd/hwpt/hwpt.ts', 'iommu may not import iommufd'],
    [`${CORE}/iommu/caches/cache.ts`, '../amd/hardware/translation/walk.ts', 'may not import iommu/amd'],
    [
      `${CORE}/iommu/drivers/mmio.ts`,
      '../amd/hardware/translation/walk.ts',
      'iommu/drivers may not import iommu/amd',
    ],
    [`${CORE}/iommu/caches/cache.ts`, '../drivers/mmio.ts', 'sees registers, memory and requests'],
    [`${CORE}/iommu/requests/dma-port.ts`, '../driver.ts', 'sees registers, memory and requests'],
    [`${CORE}/iommu/requests/dma-port.ts`, '../drivers/mmio.ts', 'sees registers, memory and requests'],
    [
      `${CORE}/iommu/amd/driver/init.ts`,
      '../../intel/spec/context.ts',
      'iommu/amd may not import iommu/intel',
    ],
    [WALK, '../../driver/init.ts', 'sees registers, memory and requests'],
    [WALK, '../../viommu.ts', 'sees registers, memory and requests'],
    [WALK, '../../../driver.ts', 'sees registers, memory and requests'],
    [WALK, '../../../drivers/mmio.ts', 'sees registers, memory and requests'],
    [WALK, '../../../../abi/errno.ts', 'silicon knows no ioctl'],
    [WALK, '../../../../iommufd/hwpt/hwpt.ts', 'iommu may not import iommufd'],
    [`${CORE}/iommu/amd/spec/dte.ts`, '../hardware/translation/walk.ts', 'needs nothing but base'],
    [`${CORE}/iommufd/hwpt/hwpt.ts`, '../../iommu/amd/viommu.ts', 'of IOMMUs it knows iommu/driver.ts'],
    [`${CORE}/iommufd/hwpt/hwpt.ts`, '../../iommu/caches/cache.ts', 'of IOMMUs it knows iommu/driver.ts'],
    [`${CORE}/iommufd/hwpt/hwpt.ts`, '../../iommu/drivers/ids.ts', 'of IOMMUs it knows iommu/driver.ts'],
    [`${CORE}/iommufd/hwpt/hwpt.ts`, '../selftest/device.ts', 'machine hands it in'],
    [`${CORE}/iommufd/selftest/device.ts`, '../../iommu/amd/viommu.ts', 'of IOMMUs it knows'],
    [WALK, '../testing/rig.ts', 'is for tests'],
    ['packages/host/src/a.ts', './testing/harness.ts', 'is for tests'],
    [`${CORE}/iommufd/hwpt/hwpt.ts`, '../../machine/kernel.ts', 'machine, which stands above it'],
    [`${CORE}/iommufd/hwpt/hwpt.ts`, '../../objects/id.ts', 'is not in LAYERS'],
    [`${CORE}/memory/pin.ts`, 'node:fs', 'it runs in the browser too'],
    [`${CORE}/memory/pin.ts`, 'fast-check', 'below machine it has no dependencies'],
    [`${CORE}/memory/pin.ts`, '@viommu/host/memory', 'it may import no other package'],
    [`${CORE}/memory/pin.ts`, '@viommu/core/base/u64', 'by a relative path'],
    [`${CORE}/memory/pin.ts`, '../base/u64', 'relative imports end in .ts'],
    [`${CORE}/memory/pin.test.ts`, '../../../host/src/memory.ts', "write '@viommu/host/…'"],
    ['packages/host/src/a.ts', '../../core/src/abi/errno.ts', "write '@viommu/core/…'"],
    ['packages/host/src/a.ts', '@viommu/core', 'names no file'],
    ['packages/host/src/a.ts', 'esbuild', 'esbuild is no dependency of packages/host'],
    ['packages/host/src/a.ts', '@scope/name/x', '@scope/name is no dependency of packages/host'],
    [`${CORE}/machine/machine-file/description.ts`, 'zod', 'zod is no dependency of packages/core'],
    ['packages/host/src/a.ts', '@viommu/cli/run', 'it may import core'],
  ])('keeps %s from importing %s', (file, specifier, reason) => {
    expect(importProblem(file, specifier, { ...DECLARED, core: [] })).toContain(reason);
  });
});

test('docs/architecture.md names every room of core', () => {
  const text = '# x\nattic\n## The rooms\nsrc/base  amd: spec\n## Who may import whom\ncellar\n';
  const files = ['base/a.ts', 'base/testing/b.ts', 'amd/spec/c.ts', 'cellar/d.ts', 'amd/attic/e.ts'];
  expect(
    unnamedRooms(
      text,
      files.map((file) => `${CORE}/${file}`),
    ),
  ).toEqual(['cellar', 'attic']);
});

test('docs/architecture.md has the layers in their order', () => {
  const text = readFileSync(new URL('../../docs/architecture.md', import.meta.url), 'utf8');
  expect(text).toContain(`\n    ${LAYERS.join(' ← ')}\n`);
});

describe('the house rules', () => {
  const file = `${CORE}/iommu/amd/spec/x.ts`;
  const other = `${CORE}/memory/x.ts`;

  test.each([
    [other, '\nexport default 1;', '2: export default: a default export'],
    [other, 'export { a as default };', '1: export { a as default: a default export'],
    [other, 'export const enum A { B }', '1: export const enum A: an enum'],
    [other, 'namespace N {}', '1: namespace N {: a namespace'],
    [other, 'const a = Date.now();', '1: Date.now: core reads no clock'],
    [other, 'const a = Math.random();', '1: Math.random: core has no randomness'],
    [other, 'setTimeout(f, 1);', '1: setTimeout(: core has no timers'],
    [other, '\n\nconst a = Number(b);', '3: Number() outside base/u64.ts'],
    [`${CORE}/memory/x.test.ts`, "test.skip('a', f);", '1: test.skip: a test that is left out'],
    [file, 'for (;;) f();', '1: for (: spec describes'],
    ['docs/x.md', `See /${'root'}/notes.`, `1: /${'root'}/notes is a path of one machine`],
    [
      'scripts/x.mjs',
      `'https://${'registry'}.example.org/'`,
      `1: ${'registry'}.example.org is a registry's host`,
    ],
  ])('find in %s: %j', (name, text, expected) => {
    const found = messages(name, text);
    expect(found).toHaveLength(1);
    expect(found[0]).toContain(expected);
  });

  test.each([
    [other, '// export default, enum A, Date.now(), Number(b)\nconst s = "Math.random()";'],
    [other, 'const a = Number(b); // number: a decimal string of a trace'],
    [other, '// number: a decimal string of a trace\nconst a = Number(b);'],
    [other, 'if (Number.isSafeInteger(a)) f();'],
    [`${CORE}/base/u64.ts`, 'const a = Number(b);'],
    ['packages/host/src/x.ts', 'const a = Number(b), t = Date.now();'],
    ['vitest.config.ts', 'export default {};'],
    ['docs/x.md', 'See /dev/iommu, and https://docs.kernel.org/userspace-api/iommufd.html.'],
  ])('are content with %s: %j', (name, text) => {
    expect(messages(name, text)).toEqual([]);
  });

  test('count 600 lines as one file and 601 as two', () => {
    expect(messages('bench/x.c', 'int a;\n'.repeat(600))).toEqual([]);
    expect(messages('bench/x.c', 'int a;\n'.repeat(601))).toEqual([
      '601: 601 lines; past 600 a file is two files',
    ]);
  });

  test("know the hosts of this system's registries", () => {
    expect(messages('docs/x.md', '\nfrom packages.inside.example', ['packages.inside.example'])).toEqual([
      "2: packages.inside.example is a registry's host; npm and apt know theirs from the system",
    ]);
  });
});

test('this repository keeps its rules', () => {
  const { files, problems } = checkTree(fileURLToPath(new URL('../..', import.meta.url)));
  expect(problems.map(({ file, line, message }: Problem) => `${file}:${line}: ${message}`)).toEqual([]);
  expect(files).toBeGreaterThan(100);
});
