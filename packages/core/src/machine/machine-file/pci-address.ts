const PCI_ADDRESS = /^[0-9a-f]{4}:([0-9a-f]{2}):([01][0-9a-f])\.([0-7])$/i;

/** The requester id of the PCI function that `name` is the address of (0000:0a:00.0), or null where it is none. */
export function requesterIdOf(name: string): number | null {
  const match = PCI_ADDRESS.exec(name);
  if (match === null) return null;
  const [bus, device, fn] = match.slice(1).map((digits) => parseInt(digits, 16));
  return (bus! << 8) | (device! << 3) | fn!;
}
