import { describe, expect, test } from 'vitest';
import { DmaEngine } from './dma-engine/dma-engine.ts';
import { COMMAND, FLAG, REGISTER, STATUS } from './dma-engine/registers.ts';
import { PciFunction } from './function.ts';
import { PCI_COMMAND, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY } from './spec.ts';
import { FlatPort } from './testing/flat-port.ts';

function rig(): { pci: PciFunction; port: FlatPort; messages: number[] } {
  const pci = new PciFunction('0000:0a:00.0', new DmaEngine());
  const port = new FlatPort(1 << 20);
  pci.dma.connect(port);
  const messages: number[] = [];
  pci.user = { message: (_vector, { data }) => messages.push(data) };
  pci.writeConfig(PCI_COMMAND, 2, PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);
  return { pci, port, messages };
}

describe('a function', () => {
  test('does DMA and signals its end', () => {
    const { pci, port, messages } = rig();
    port.bytes.set([1, 2, 3, 4], 0x1000);
    pci.msix!.program(1, { address: 0xfee0_0000n, data: 77 });
    pci.writeConfig(pci.config.capability(0x11) + 2, 2, 0x8000);
    pci.writeBar(0, REGISTER.SOURCE, 8, 0x1000n);
    pci.writeBar(0, REGISTER.DESTINATION, 8, 0x2000n);
    pci.writeBar(0, REGISTER.LENGTH, 4, 4n);
    pci.writeBar(0, REGISTER.FLAGS, 4, BigInt(FLAG.INTERRUPT));
    pci.writeBar(0, REGISTER.VECTOR, 4, 1n);
    pci.writeBar(0, REGISTER.COMMAND, 4, BigInt(COMMAND.COPY));
    expect(pci.readBar(0, REGISTER.STATUS, 4)).toBe(BigInt(STATUS.DONE));
    expect([...port.bytes.subarray(0x2000, 0x2005)]).toEqual([1, 2, 3, 4, 0]);
    expect(messages).toEqual([77]);
  });

  test('sends nothing while bus mastering is off', () => {
    const { pci, port } = rig();
    pci.writeConfig(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    pci.writeBar(0, REGISTER.LENGTH, 4, 4n);
    pci.writeBar(0, REGISTER.COMMAND, 4, BigInt(COMMAND.FILL));
    expect(pci.readBar(0, REGISTER.STATUS, 4)).toBe(BigInt(STATUS.ERROR));
    expect(port.requests).toEqual([]);
  });

  test('answers with ones while memory space is off, and when it is gone', () => {
    const { pci } = rig();
    expect(pci.readBar(0, REGISTER.ID, 4)).toBe(1n);
    pci.writeConfig(PCI_COMMAND, 2, 0);
    expect(pci.readBar(0, REGISTER.ID, 4)).toBe(0xffff_ffffn);
    expect(pci.readConfig(0, 2)).toBe(0x1209);
    pci.remove();
    expect(pci.readConfig(0, 2)).toBe(0xffff);
  });
});
