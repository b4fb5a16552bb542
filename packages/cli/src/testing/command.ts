import { spawnSync, type SpawnSyncReturns } from 'node:child_process';
import { copyFileSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const at = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const addon = at('../../../host/native/build/viommu.node');

/** The command line as it is built for users, from the sources as they are, in a directory of its own. */
export class Command {
  readonly directory: string;

  private constructor(directory: string) {
    this.directory = directory;
  }

  static async create(): Promise<Command> {
    if (!existsSync(addon))
      spawnSync(process.execPath, [at('../../../host/native/build.mjs')], { stdio: 'inherit' });
    const directory = mkdtempSync(join(tmpdir(), 'viommu-cli-'));
    await build({
      entryPoints: [at('../viommu.ts')],
      outdir: directory,
      outExtension: { '.js': '.mjs' },
      bundle: true,
      splitting: true,
      platform: 'node',
      format: 'esm',
      conditions: ['viommu-source'],
      logLevel: 'error',
      banner: {
        js: "import { createRequire as $require } from 'node:module'; const require = $require(import.meta.url);",
      },
    });
    copyFileSync(addon, join(directory, 'viommu.node'));
    return new Command(directory);
  }

  /** Compiles a program of this folder; its path. */
  compile(source: string): string {
    const program = join(this.directory, source.replace(/\.c$/, ''));
    const { status, stderr } = spawnSync('cc', ['-O1', '-o', program, at(source)], { encoding: 'utf8' });
    if (status !== 0) throw new Error(stderr);
    return program;
  }

  /** Writes a machine file; its path. */
  machine(text: string): string {
    const path = join(this.directory, 'machine.yaml');
    writeFileSync(path, text);
    return path;
  }

  /** Runs it to its end. */
  run(args: readonly string[], stdio: (number | 'pipe')[] = []): SpawnSyncReturns<string> {
    return spawnSync(process.execPath, [join(this.directory, 'viommu.mjs'), ...args], {
      encoding: 'utf8',
      // Directories that everybody may search: with another among them, what is not found is EACCES and not ENOENT.
      env: { ...process.env, PATH: '/usr/local/bin:/usr/bin:/bin' },
      stdio: ['ignore', 'pipe', 'pipe', ...stdio],
      timeout: 60_000,
    });
  }

  /** Runs a script of the shell, which gets the command line as its arguments; what is written is read as Latin-1. */
  shell(script: string, args: readonly string[]): SpawnSyncReturns<string> {
    const command = [process.execPath, join(this.directory, 'viommu.mjs'), ...args];
    return spawnSync('sh', ['-c', script, 'sh', ...command], { encoding: 'latin1', timeout: 60_000 });
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }
}
