import type { DeviceModel, TranslationFeatures } from '../function.ts';
import { QueueBroken, type Chain, type SplitQueue } from './split-queue.ts';
import { CONSOLE_RECEIVEQ, CONSOLE_TRANSMITQ, VIRTIO_CONSOLE_F_SIZE, VIRTIO_ID_CONSOLE } from './spec.ts';
import { VirtioPci, type VirtioDevice } from './transport.ts';

/** Where a console's output goes, and its input comes from. */
export interface ConsoleBackend {
  /** The driver wrote these bytes. */
  write(bytes: Uint8Array): void;
  /** How many bytes of input there are. */
  readonly available: number;
  /** Takes up to `max` bytes of input. */
  read(max: number): Uint8Array;
  /** Set by the console: input has come. */
  onInput?: (() => void) | undefined;
}

const QUEUE_SIZE = 64;
/** Buffers that are served at once. */
const BUFFERS_A_POLL = 64;
/** Bytes of one buffer that are looked at: what is more is dropped. */
const BUFFER_MAX = 1 << 16;

/** virtio-console with one port: VIRTIO 1.2 §5.3. */
export class VirtioConsole implements VirtioDevice {
  readonly type = VIRTIO_ID_CONSOLE;
  readonly classCode = 0x078000;
  readonly features = [VIRTIO_CONSOLE_F_SIZE];
  readonly queues = [QUEUE_SIZE, QUEUE_SIZE];
  /** struct virtio_console_config: 80 columns, 25 rows. */
  readonly config = new Uint8Array([80, 0, 25, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
  readonly #backend: ConsoleBackend;
  #transport!: VirtioPci;

  /** The console, on PCI. */
  static create(backend: ConsoleBackend, features: TranslationFeatures = {}): DeviceModel {
    const made = new VirtioConsole(backend);
    made.#transport = new VirtioPci(made, features);
    return made.#transport;
  }

  private constructor(backend: ConsoleBackend) {
    this.#backend = backend;
    backend.onInput = () => void this.serve(CONSOLE_RECEIVEQ);
  }

  reset(): void {}

  serve(index: number): boolean {
    const queue = this.#transport.queue(index);
    if (queue === null) return false;
    const serveOne = index === CONSOLE_TRANSMITQ ? this.#transmit : this.#receive;
    let notify = false;
    let served = 0;
    for (; served < BUFFERS_A_POLL; served++) {
      const wanted = serveOne.call(this, queue);
      if (wanted instanceof QueueBroken) {
        this.#transport.broken(wanted);
        return false;
      }
      if (wanted === null) break;
      notify ||= wanted;
    }
    if (notify) this.#transport.notifyDriver(index);
    return served === BUFFERS_A_POLL;
  }

  /** One buffer of output; null where there is none. */
  #transmit(queue: SplitQueue): boolean | QueueBroken | null {
    const chain = queue.next();
    if (chain === null || chain instanceof QueueBroken) return chain;
    let left = BUFFER_MAX;
    for (const { address, length } of chain.readable) {
      const bytes = new Uint8Array(Math.min(length, left));
      if (bytes.length === 0) continue;
      const stopped = this.#transport.dma.read(address, bytes);
      if (stopped !== null) return new QueueBroken(stopped.reason);
      this.#backend.write(bytes);
      left -= bytes.length;
    }
    return queue.complete(chain, 0);
  }

  /** One buffer of input; null where there is none, or no input. */
  #receive(queue: SplitQueue): boolean | QueueBroken | null {
    if (this.#backend.available === 0) return null;
    const chain = queue.next();
    if (chain === null || chain instanceof QueueBroken) return chain;
    const written = this.#fill(chain);
    return written instanceof QueueBroken ? written : queue.complete(chain, written);
  }

  #fill(chain: Chain): number | QueueBroken {
    let written = 0;
    for (const { address, length } of chain.writable) {
      const bytes = this.#backend.read(Math.min(length, BUFFER_MAX));
      if (bytes.length === 0) continue;
      const stopped = this.#transport.dma.write(address, bytes);
      if (stopped !== null) return new QueueBroken(stopped.reason);
      written += bytes.length;
      if (bytes.length < length) break;
    }
    return written;
  }
}
