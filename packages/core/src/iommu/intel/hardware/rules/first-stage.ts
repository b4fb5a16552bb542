// First-stage translation: §3.6, §9.7, and nested translation: §3.8.

import { has, same, topic } from '../../../testing/rules.ts';
import { X86_ENTRY } from '../../../../pagetable/x86-64.ts';
import { AT, DATA, Rig, VA } from './rig.ts';

const A = BigInt(X86_ENTRY.A);
const D = BigInt(X86_ENTRY.D);
const EA = BigInt(X86_ENTRY.EA);
const PS = 0x80n;
const W = { write: true };
const HAW40 = { hostAddressWidth: 40 };
const G1 = 1n << 30n;

/** A rig whose first stage maps VA to DATA. */
function mapped(fields = {}, leaf = {}): { rig: Rig; tables: ReturnType<Rig['first']> } {
  const rig = new Rig();
  const tables = rig.first(fields);
  tables.map(VA, DATA, leaf);
  return { rig, tables };
}

export const FIRST_STAGE = topic('FS', (rule) => {
  rule('§3.6', '4-level and 5-level tables translate 48-bit and 57-bit canonical addresses', () => {
    for (const [levels, address] of [
      [4, 0x7fff_ffff_f000n],
      [4, 0xffff_8000_0000_0000n],
      [5, 0x00ff_ffff_ffff_f000n],
      [5, 0xff00_0000_0000_0000n],
    ] as const) {
      const rig = new Rig();
      rig.first({}, { levels }).map(address & 0x1ff_ffff_ffff_ffffn, DATA);
      same([levels, rig.pa(address)], [levels, AT.data]);
    }
  });
  rule('§7.1.3 SGN.1', 'an input address that is not canonical', () => {
    const { rig } = mapped();
    has(rig.fault(0x8000_0000_0000n), { FR: 0x80 });
    has(rig.fault(0xffff_0000_0000_0000n), { FR: 0x80 });
    const five = new Rig();
    five.first({}, { levels: 5 });
    same([five.code(1n << 56n), five.code(1n << 55n)], ['SGN.1', 'SFS.2']);
  });
  rule('§3.6', 'pages of 2 MiB and 1 GiB end the walk', () => {
    const { rig } = mapped({}, { level: 2 });
    same(rig.pa(VA + 0x1f_fff8n), AT.data + 0x1f_fff8);
    const large = mapped({}, { level: 3 }).rig;
    has(large.dma(VA + 0x3fff_fff8n), { pa: AT.data + 0x3fff_fff8, bytes: 8 });
  });
  rule('§9.7 Table 36', 'PS of a PDPE is reserved without FS1GP', () => {
    const rig = new Rig({ config: { CAP: { FS1GP: 0 } } });
    rig.first().map(VA, DATA, { level: 3 });
    has(rig.fault(VA), { FR: 0x72 });
  });
  rule('§7.1.3 SFS.2', 'an entry that is not present, at any level', () => {
    for (const level of [1, 2, 3, 4]) {
      const { rig, tables } = mapped();
      tables.clear(VA, level, 1n);
      has(rig.fault(VA, W), { FR: 0x71, FI: Number(VA) / 4096, T1: 0 });
    }
  });
  rule('§3.6', 'reserved bits: above HAW, PS of PML4E and PML5E, low bits of large pages', () => {
    for (const [level, bits] of [
      [1, 1n << 40n],
      [4, 1n << 51n],
      [4, PS],
      [5, PS],
    ] as const) {
      const rig = new Rig({ config: HAW40 });
      const tables = rig.first({}, { levels: 5 });
      tables.map(VA, DATA);
      tables.set(VA, level, bits);
      has(rig.fault(VA), { FR: 0x72 });
    }
    for (const [level, bits] of [
      [2, 0x2000n],
      [3, 0x2000_0000n],
    ] as const) {
      const { rig, tables } = mapped({}, { level });
      tables.set(VA, level, bits);
      same(rig.code(VA), 'SFS.3');
    }
  });
  rule('§9.7', 'bits 63:52, 11 and 9:8, and G, are ignored', () => {
    const { rig, tables } = mapped({}, { bits: (0xfffn << 52n) | 0xb00n });
    tables.set(VA, 2, 0xffe0_0000_0000_0b00n & ~(0xfn << 52n));
    same(rig.pa(VA, W), AT.data);
  });
  rule('§9.7', 'all fields of an entry that is not present are ignored', () => {
    const { rig, tables } = mapped();
    tables.put(tables.entry(VA, 1), 0xffff_ffff_ffff_fffen);
    same(rig.code(VA), 'SFS.2');
  });
  rule('§7.1.3 SFS.4', 'a root table that cannot be read', () => {
    const { rig, tables } = mapped();
    rig.memory.refuse(tables.root, 4096);
    has(rig.fault(VA), { FR: 0x73 });
  });
  rule('§7.1.3 SFS.1', 'a lower table that cannot be read', () => {
    for (const level of [1, 2, 3]) {
      const { rig, tables } = mapped();
      rig.memory.refuse(tables.entry(VA, level), 8);
      has(rig.fault(VA), { FR: 0x70 });
    }
  });
  rule('§3.6.1', 'users read where every U/S is 1', () => {
    for (const level of [1, 2, 3, 4]) {
      const { rig, tables } = mapped();
      tables.clear(VA, level, 4n);
      has(rig.fault(VA), { FR: 0x81, T1: 1 });
    }
  });
  rule('§3.6.1', 'users write where every R/W and U/S is 1', () => {
    for (const level of [1, 2, 3, 4]) {
      const { rig, tables } = mapped();
      tables.clear(VA, level, 2n);
      has(rig.fault(VA, W), { FR: 0x85, T1: 0 });
      same(rig.pa(VA), AT.data);
    }
  });
  rule('§3.6.1', 'a user write to a supervisor page is a privilege violation', () => {
    const { rig } = mapped({}, { user: false });
    same([rig.code(VA, W), rig.code(VA, { atomic: true })], ['SGN.2', 'SGN.2']);
  });
  rule('§3.6.1', 'supervisors read everything; they write everything without WPE', () => {
    const rig = new Rig();
    rig.first({ SRE: 1 }, {}, 1).map(VA, DATA, { user: false, write: false });
    const supervisor = { pasid: 1, privileged: true };
    same([rig.pa(VA, supervisor), rig.pa(VA, { ...supervisor, ...W })], [AT.data, AT.data]);
  });
  rule('§3.6.1 WPE', 'with WPE supervisors write where every R/W is 1', () => {
    const rig = new Rig();
    rig.first({ SRE: 1, WPE: 1 }, {}, 1).map(VA, DATA, { user: false, write: false });
    const supervisor = { pasid: 1, privileged: true };
    same([rig.pa(VA, supervisor), rig.code(VA, { ...supervisor, ...W })], [AT.data, 'SGN.6']);
  });
  rule('§3.6.1', 'an atomic needs read and write', () => {
    const { rig } = mapped({}, { write: false });
    has(rig.fault(VA, { atomic: true }), { FR: 0x85, T1: 1, T2: 1 });
  });
  rule('§3.6.2', 'a walk sets A in every entry, a write sets D in the last one', () => {
    const { rig, tables } = mapped();
    rig.pa(VA);
    const bits = (): bigint[] =>
      [4, 3, 2, 1].map((level) => tables.get(tables.entry(VA, level)) & (A | D | EA));
    same(bits(), [A, A, A, A]);
    rig.pa(VA, W);
    same(bits(), [A, A, A, A | D]);
  });
  rule('§3.6.2 EAFE', 'with EAFE the Extended Accessed flag is set with A', () => {
    const { rig, tables } = mapped({ EAFE: 1 });
    rig.pa(VA);
    same(
      [4, 1].map((level) => tables.get(tables.entry(VA, level)) & (A | D | EA)),
      [A | EA, A | EA],
    );
  });
  rule('§3.6.2', 'a write that is denied makes nothing dirty', () => {
    const { rig, tables } = mapped({}, { write: false });
    rig.pa(VA, W);
    same(tables.get(tables.entry(VA, 1)) & D, 0n);
  });
  rule('§3.6.2', 'a cached entry that is not dirty is walked again for a write', () => {
    const { rig, tables } = mapped();
    rig.pa(VA);
    rig.pa(VA, W);
    same(tables.get(tables.entry(VA, 1)) & D, D);
    tables.clear(VA, 1, D);
    rig.pa(VA, W);
    same(tables.get(tables.entry(VA, 1)) & D, 0n);
  });
  rule('§7.1.3 SFS.9', 'tables that are not snooped must have their flags set already', () => {
    const rig = new Rig();
    const tables = rig.first({ PWSNP: 0 });
    tables.map(VA, DATA, { bits: A });
    has(rig.fault(VA), { FR: 0x90 });
    for (const level of [2, 3, 4]) tables.set(VA, level, A);
    same([rig.pa(VA), rig.code(VA, W)], [AT.data, 'SFS.9']);
  });
  rule('§7.1.3 SFS.10', 'an update of a flag that memory refuses', () => {
    const { rig, tables } = mapped();
    rig.memory.refuse(tables.root, 4096, 'store');
    has(rig.fault(VA), { FR: 0x91 });
  });
  // --- nested ---
  rule('§3.8', 'every access to a first-stage table, and the page, goes through the second stage', () => {
    const rig = new Rig();
    const { first, second } = rig.nested();
    const page = first.map(VA, G1);
    second.map(G1, DATA);
    // The page table lies elsewhere in physical memory than its guest address says.
    const table = BigInt(page - (page % 4096));
    rig.memory.put64(AT.status + (page % 4096), rig.memory.get64(page));
    rig.memory.put64(page, 0n);
    second.map(table, BigInt(AT.status));
    same(rig.pa(VA), AT.data);
  });
  rule('§3.8', 'the smaller page of both stages is the translation', () => {
    const rig = new Rig();
    const { first, second } = rig.nested();
    first.map(VA, G1, { level: 2 });
    second.map(G1 + 0x1000n, DATA);
    has(rig.dma(VA + 0x1010n), { pa: AT.data + 0x10, bytes: 0x1000 - 0x10 });
    same(rig.code(VA + 0x2000n), 'SSS.2');
  });
  rule('§7.1.3 SFS.6', 'no read permission for the root table', () => {
    const rig = new Rig();
    const { first, second } = rig.nested();
    first.map(VA, G1);
    second.map(BigInt(first.root), BigInt(first.root), { read: false });
    has(rig.fault(VA), { FR: 0x75 });
  });
  rule('§7.1.3 SFS.7', 'no read permission for a lower table', () => {
    const rig = new Rig();
    const { first, second } = rig.nested();
    const table = BigInt(first.map(VA, G1)) & ~0xfffn;
    second.map(table, table, { read: false });
    has(rig.fault(VA), { FR: 0x76 });
  });
  rule('§7.1.3 SFS.8', 'no write permission for a table in which a flag has to be set', () => {
    const rig = new Rig();
    const { first, second } = rig.nested();
    second.map(G1, DATA);
    const entry = first.map(VA, G1);
    const table = BigInt(entry) & ~0xfffn;
    second.map(table, table, { write: false });
    has(rig.fault(VA), { FR: 0x77 });
    first.set(VA, 1, A);
    same([rig.pa(VA), rig.code(VA, W)], [AT.data, 'SFS.8']);
  });
  rule('§3.8.1', 'with SSADE reading a table needs write permission for it', () => {
    const rig = new Rig();
    const { first, second } = rig.nested({ SSADE: 1 });
    second.map(G1, DATA);
    const table = BigInt(first.map(VA, G1, { bits: A | D })) & ~0xfffn;
    second.map(table, table, { write: false });
    same(rig.code(VA), 'SFS.8');
  });
  rule('§7.1.3 SSS.2', 'a table that the second stage does not map at all', () => {
    const rig = new Rig();
    const { first, second } = rig.nested();
    const table = BigInt(first.map(VA, G1)) & ~0xfffn;
    second.put(second.entry(table, 1), 0n);
    has(rig.fault(VA), { FR: 0x79 });
  });
  rule('§7.1.3 SFS.5', 'a first-stage entry whose address exceeds the guest address width', () => {
    const rig = new Rig({ config: { CAP: { MGAW: 43 } } });
    const { first, second } = rig.nested();
    second.map(G1, DATA);
    first.map(VA, G1);
    first.set(VA, 2, 1n << 44n);
    has(rig.fault(VA), { FR: 0x74 });
    first.clear(VA, 2, 1n << 44n);
    first.set(VA, 1, 1n << 44n);
    has(rig.fault(VA), { FR: 0x74 });
  });
  rule('§3.8.1', 'permissions of both stages count for the page', () => {
    const rig = new Rig();
    const { first, second } = rig.nested();
    first.map(VA, G1);
    second.map(G1, DATA, { write: false });
    has(rig.fault(VA, W), { FR: 0x85 });
    first.map(VA + 0x1000n, G1 + 0x1000n);
    second.map(G1 + 0x1000n, DATA, { read: false });
    has(rig.fault(VA + 0x1000n), { FR: 0x86 });
    same(rig.pa(VA + 0x1000n, W), AT.data);
  });
  rule('§3.6.2', 'nested, a write that the second stage denies makes no page dirty', () => {
    const rig = new Rig();
    const { first, second } = rig.nested();
    const entry = first.map(VA, G1);
    second.map(G1, DATA, { write: false });
    rig.pa(VA, W);
    same(first.get(entry) & D, 0n);
  });
  rule('§3.6.2, §3.7.2', 'nested, a write makes the page dirty in both stages', () => {
    const rig = new Rig();
    const { first, second } = rig.nested({ SSADE: 1 });
    const one = first.map(VA, G1);
    const two = second.map(G1, DATA);
    rig.pa(VA);
    same([first.get(one) & D, second.get(two) & 0x300n], [0n, 0x100n]);
    rig.pa(VA, W);
    same([first.get(one) & D, second.get(two) & 0x300n], [D, 0x300n]);
  });
  rule('§3.7.2', 'nested, a page that is dirty in the first stage becomes so in the second', () => {
    const rig = new Rig();
    const { first, second } = rig.nested({ SSADE: 1 });
    first.map(VA, G1, { bits: D });
    const two = second.map(G1, DATA);
    rig.pa(VA, W);
    same(second.get(two) & 0x300n, 0x300n);
  });
});
