import { IOCTL_OPS, knownSize } from '@viommu/core/iommufd/dispatch';
import { DEFAULT_PROFILE, versionName, type Profile } from '@viommu/core/iommufd/profile';
import { profileNamed } from './profile.ts';

/** The support matrix of one kernel, from the dispatch table. */
export function ioctlMatrix(profile: Profile): string {
  const rows = [['REQUEST', 'NUMBER', 'SINCE', 'SIZE', 'SMALLEST', 'ANSWER', 'NOTE']];
  for (const op of IOCTL_OPS) {
    const known = op.since <= profile.version;
    rows.push([
      op.name,
      `0x${op.cmd.toString(16)}`,
      versionName(op.since),
      known ? String(knownSize(op, profile.version)) : '-',
      known ? String(Math.min(op.minSize, knownSize(op, profile.version))) : '-',
      known ? 'yes' : 'ENOTTY',
      op.note ?? '',
    ]);
  }
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** `viommu ioctls`. */
export function ioctls(options: { kernel?: string }): void {
  const profile = profileNamed(options.kernel ?? DEFAULT_PROFILE);
  process.stdout.write(`/dev/iommu as ${profile.name} answers it\n\n${ioctlMatrix(profile)}\n`);
}
