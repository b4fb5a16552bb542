import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

// Runs scenes of client/ under the supervisor, each in processes of its own, as the command line would.

const here = fileURLToPath(new URL('.', import.meta.url));
const CLIENT = ['main', 'files', 'memory', 'paths', 'processes'].map((name) =>
  join(here, `client/${name}.c`),
);
const addon = join(here, '../../native/build/viommu.node');

/** What a program under the supervisor left behind. */
export interface Ended {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  /** Lines of standard output. */
  readonly lines: readonly string[];
  readonly stderr: string;
}

/** How a scene is run. */
export interface RunOptions {
  /** A command in front, such as setpriv. */
  readonly as?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly input?: string;
  /** The client linked statically. */
  readonly statically?: boolean;
  /** Without the supervisor, for comparison. */
  readonly unsupervised?: boolean;
  /** Another program than the client. */
  readonly program?: string;
}

function must(command: string, args: readonly string[]): void {
  const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? stderr}`);
}

function compile(directory: string, name: string, more: readonly string[]): void {
  must('cc', ['-O1', '-o', join(directory, name), ...CLIENT, '-pthread', ...more]);
}

/** The built supervisor and client, in a directory of their own. */
export class Harness {
  readonly directory: string;

  private constructor(directory: string) {
    this.directory = directory;
  }

  /** Builds them. `statically`: the client linked statically too. */
  static async create(options: { readonly statically?: boolean } = {}): Promise<Harness> {
    if (!existsSync(addon)) must(process.execPath, [join(here, '../../native/build.mjs')]);
    const directory = mkdtempSync(join(tmpdir(), 'viommu-host-'));
    chmodSync(directory, 0o755);
    await build({
      entryPoints: [join(here, 'stub-main.ts')],
      outfile: join(directory, 'main.mjs'),
      bundle: true,
      platform: 'node',
      format: 'esm',
      target: 'es2023',
      conditions: ['viommu-source'],
      logLevel: 'error',
    });
    copyFileSync(addon, join(directory, 'viommu.node'));
    compile(directory, 'client', []);
    if (options.statically === true) compile(directory, 'client-static', ['-static']);
    symlinkSync('/dev/iommu', join(directory, 'link'));
    symlinkSync('link', join(directory, 'link-to-link'));
    return new Harness(directory);
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }

  #command(scene: readonly string[], options: RunOptions): string[] {
    const client = join(this.directory, options.statically === true ? 'client-static' : 'client');
    const supervisor = [process.execPath, join(this.directory, 'main.mjs')];
    return [
      ...(options.as ?? []),
      ...(options.unsupervised === true ? [] : supervisor),
      options.program ?? client,
      ...scene,
    ];
  }

  /** Runs a scene to its end. */
  run(scene: readonly string[], options: RunOptions = {}): Ended {
    const [command, ...args] = this.#command(scene, options);
    const { status, signal, stdout, stderr } = spawnSync(command!, args, {
      encoding: 'utf8',
      env: { ...process.env, ...options.env },
      input: options.input ?? '',
      timeout: 60_000,
    });
    return { status, signal, lines: stdout.split('\n').slice(0, -1), stderr };
  }

  /** The scene's lines, where it ended well. */
  lines(scene: readonly string[], options: RunOptions = {}): readonly string[] {
    const { status, signal, lines, stderr } = this.run(scene, options);
    if (status !== 0) throw new Error(`${scene.join(' ')} ended with ${signal ?? status}: ${stderr}`);
    return lines;
  }

  /** Starts a scene; its lines can be waited for. */
  start(scene: readonly string[]): Running {
    const [command, ...args] = this.#command(scene, {});
    return new Running(spawn(command!, args, { stdio: ['ignore', 'pipe', 'inherit'] }));
  }
}

/** A scene that runs. */
export class Running {
  readonly supervisor: ChildProcess;
  readonly #lines: string[] = [];
  #rest = '';
  #wake: () => void = () => {};
  readonly ended: Promise<{ status: number | null; signal: NodeJS.Signals | null }>;

  constructor(supervisor: ChildProcess) {
    this.supervisor = supervisor;
    supervisor.stdout!.setEncoding('utf8').on('data', (text: string) => {
      const parts = (this.#rest + text).split('\n');
      this.#rest = parts.pop()!;
      this.#lines.push(...parts);
      this.#wake();
    });
    supervisor.stdout!.on('end', () => this.#wake());
    this.ended = new Promise((resolve) => {
      supervisor.on('exit', (status, signal) => resolve({ status, signal }));
    });
  }

  get pid(): number {
    return this.supervisor.pid!;
  }

  /** Whether the line has been printed. */
  has(line: string): boolean {
    return this.#lines.includes(line);
  }

  /** The first line that starts with the word; what follows it there. */
  async line(word: string): Promise<string> {
    for (;;) {
      const found = this.#lines.find((line) => line.startsWith(`${word} `));
      if (found !== undefined) return found.slice(word.length + 1);
      if (this.supervisor.stdout!.readableEnded)
        throw new Error(`no line '${word}' among: ${this.#lines.join(', ')}`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

/** Waits until `condition` holds, for at most ten seconds; whether it does. */
export async function eventually(condition: () => boolean): Promise<boolean> {
  for (let tries = 0; tries < 1000; tries++) {
    if (condition()) return true;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return false;
}
