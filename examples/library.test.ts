import { createContext, runInContext } from 'node:vm';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { expect, test } from 'vitest';

/** What the example prints in a realm that has of its surroundings what a browser has too, and nothing of Node. */
async function inBrowser(): Promise<string[]> {
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL('library.mjs', import.meta.url))],
    bundle: true,
    write: false,
    platform: 'browser',
    format: 'iife',
    globalName: 'library',
    conditions: ['viommu-source'],
  });
  const printed: string[] = [];
  const context = createContext({
    console: { log: (line: string) => printed.push(line) },
    TextEncoder,
    TextDecoder,
  });
  runInContext(outputFiles[0]!.text, context);
  await runInContext('library.finished', context);
  return printed;
}

async function inNode(): Promise<string[]> {
  const printed: string[] = [];
  const { log } = console;
  console.log = (line: string) => void printed.push(line);
  try {
    await (
      await import('./library.mjs' as string)
    ).finished;
  } finally {
    console.log = log;
  }
  return printed;
}

test('the library answers in a browser what it answers in Node, to the last event', async () => {
  const printed = await inBrowser();
  expect(printed.filter((line) => !line.startsWith(' '))).toEqual(['old', 'old', 'new']);
  expect(printed.length).toBeGreaterThan(40);
  expect(printed).toEqual(await inNode());
});
