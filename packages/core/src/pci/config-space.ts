import { assert } from '../base/assert.ts';
import {
  PCI_CAPABILITY_LIST,
  PCI_CFG_SPACE_BYTES,
  PCI_CFG_SPACE_EXP_BYTES,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
} from './spec.ts';

// The configuration space of a function: bytes, each bit read-only, read and write, or write one to clear, and a list of
// capabilities. What a register does stands with whoever defines it.

export type ConfigAccessSize = 1 | 2 | 4;

/** A register of configuration space: its place, what it reads as after reset, and what software may change. */
export interface ConfigRegister {
  readonly offset: number;
  readonly size: ConfigAccessSize;
  /** After reset. */
  readonly value?: number;
  /** Bits that software writes. */
  readonly writable?: number;
  /** Bits that a written 1 clears (RW1C). */
  readonly clearable?: number;
  /** Survives a Function Level Reset (§6.6.2), as hardware-initialized and sticky bits do. */
  readonly sticky?: boolean;
  /** What it reads as, where that is not what it holds. */
  readonly onRead?: () => number;
  /** Called after a write changed, or could have changed, the register: `written` is what was written to it. */
  readonly onWrite?: (value: number, before: number, written: number) => void;
}

export class ConfigSpace {
  readonly #bytes = new Uint8Array(PCI_CFG_SPACE_EXP_BYTES);
  readonly #view = new DataView(this.#bytes.buffer);
  readonly #writable = new Uint8Array(PCI_CFG_SPACE_EXP_BYTES);
  readonly #clearable = new Uint8Array(PCI_CFG_SPACE_EXP_BYTES);
  readonly #registers: ConfigRegister[] = [];
  /** The register that a byte belongs to, as its index plus one. */
  readonly #owner = new Uint16Array(PCI_CFG_SPACE_EXP_BYTES);
  readonly #capabilities = new Map<number, number>();
  readonly #extended = new Map<number, number>();
  readonly #windows: ConfigRegister[] = [];
  /** Where the next capabilities go, and where the pointer to them is. */
  #next = 0x40;
  #link = PCI_CAPABILITY_LIST;
  #nextExtended = PCI_CFG_SPACE_BYTES;
  #lastExtended = 0;

  /** Reads 1, 2 or 4 bytes. What lies beyond the end reads as ones. */
  read(offset: number, size: ConfigAccessSize): number {
    for (const window of this.#windows)
      if (offset < window.offset + window.size && window.offset < offset + size)
        this.set(window.offset, window.size, window.onRead!());
    return this.#held(offset, size);
  }

  #held(offset: number, size: number): number {
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = value * 256 + (this.#bytes[offset + i] ?? 0xff);
    return value;
  }

  /** Writes 1, 2 or 4 bytes, as software does. */
  write(offset: number, size: ConfigAccessSize, value: number): void {
    const touched = new Set<number>();
    const before = new Map<number, number>();
    for (let i = 0; i < size; i++) {
      const owner = this.#owner[offset + i] ?? 0;
      if (owner === 0 || touched.has(owner)) continue;
      touched.add(owner);
      const register = this.#registers[owner - 1]!;
      before.set(owner, this.#held(register.offset, register.size));
    }
    const written = new Uint8Array(8);
    const first = offset & ~3;
    for (let i = 0; i < size && offset + i < this.#bytes.length; i++) {
      const byte = Math.floor(value / 2 ** (8 * i)) & 0xff;
      written[offset + i - first] = byte;
      this.#writeByte(offset + i, byte);
    }
    for (const owner of touched) {
      const register = this.#registers[owner - 1]!;
      let part = 0;
      for (let i = register.size - 1; i >= 0; i--)
        part = part * 256 + (written[register.offset + i - first] ?? 0);
      register.onWrite?.(this.#held(register.offset, register.size), before.get(owner)!, part);
    }
  }

  #writeByte(at: number, byte: number): void {
    const writable = this.#writable[at]!;
    const old = this.#bytes[at]!;
    this.#bytes[at] = ((old & ~writable) | (byte & writable)) & ~(byte & this.#clearable[at]!);
  }

  // ---- for those who make the function ----

  /** Sets a register or a part of one, whatever software may do there. */
  set(offset: number, size: ConfigAccessSize, value: number): void {
    if (size === 1) this.#view.setUint8(offset, value);
    else if (size === 2) this.#view.setUint16(offset, value, true);
    else this.#view.setUint32(offset, value, true);
  }

  /** Registers must not overlap and lie in one aligned 4-byte word. */
  define(register: ConfigRegister): void {
    const { offset, size, value = 0, writable = 0, clearable = 0 } = register;
    assert(offset % size === 0 && offset + size <= this.#bytes.length, `a register at ${offset}`);
    this.#registers.push(register);
    if (register.onRead !== undefined) this.#windows.push(register);
    for (let i = 0; i < size; i++) {
      assert(this.#owner[offset + i] === 0, `two registers at offset 0x${offset.toString(16)}`);
      this.#owner[offset + i] = this.#registers.length;
      this.#writable[offset + i] = Math.floor(writable / 2 ** (8 * i)) & 0xff;
      this.#clearable[offset + i] = Math.floor(clearable / 2 ** (8 * i)) & 0xff;
    }
    this.set(offset, size, value);
  }

  /** Adds a capability of `bytes` bytes to the list; answers its offset. */
  addCapability(id: number, bytes: number): number {
    const at = this.#next;
    assert(at + bytes <= PCI_CFG_SPACE_BYTES, 'the capabilities fit in 256 bytes');
    this.#next += (bytes + 3) & ~3;
    this.set(at, 1, id);
    this.set(this.#link, 1, at);
    this.#link = at + 1;
    this.set(PCI_STATUS, 2, this.read(PCI_STATUS, 2) | PCI_STATUS_CAP_LIST);
    if (!this.#capabilities.has(id)) this.#capabilities.set(id, at);
    return at;
  }

  /** Adds an extended capability; answers its offset. */
  addExtendedCapability(id: number, version: number, bytes: number): number {
    const at = this.#nextExtended;
    assert(at + bytes <= this.#bytes.length, 'the extended capabilities fit');
    this.#nextExtended += (bytes + 3) & ~3;
    this.set(at, 4, id | (version << 16));
    if (this.#lastExtended !== 0) this.set(this.#lastExtended + 2, 2, (at << 4) | (this.#version() & 0xf));
    this.#lastExtended = at;
    this.#extended.set(id, at);
    return at;
  }

  #version(): number {
    return this.read(this.#lastExtended + 2, 2);
  }

  /** Where the first capability of this id is, or 0. */
  capability(id: number): number {
    return this.#capabilities.get(id) ?? 0;
  }

  /** Where the extended capability of this id is, or 0. */
  extendedCapability(id: number): number {
    return this.#extended.get(id) ?? 0;
  }

  /** A Function Level Reset, or with `all` a power-on. */
  reset(all: boolean): void {
    for (const { offset, size, value = 0, sticky = false } of this.#registers)
      if (all || !sticky) this.set(offset, size, value);
  }
}
