// Who may import whom. docs/architecture.md has the house this keeps.

import { posix } from 'node:path';

/** The folders of core/src. An import points down this list (to an earlier entry) or stays in its folder. */
export const LAYERS = [
  'base',
  'abi',
  'trace',
  'memory',
  'pagetable',
  'iommu',
  'iommufd',
  'pci',
  'vfio',
  'vmm',
  'machine',
];

/** All that iommufd knows of IOMMUs. */
const DRIVER_INTERFACE = ['driver.ts', 'group.ts', 'iopf.ts', 'user-data.ts'];
/** What vendors share, in folders of iommu: the hardware's, and the drivers'. */
const SHARED = { hardware: ['caches', 'requests'], drivers: ['drivers'] };
/** The parts of an IOMMU that are neither registers nor silicon. */
const DRIVER_PARTS = ['driver', 'viommu', 'cmdqv'];
const TEST_LIBRARIES = ['vitest', 'fast-check'];
/** The packages of this repository that each may import. */
const PACKAGES = { core: [], host: ['core'], cli: ['core', 'host'] };

/** A test, or what only tests import: folders named `testing`, and `rules` for tables of cases. */
export function isTest(file) {
  return /\.test\.tsx?$|^packages\/.*\/(?:testing|rules)\//.test(file);
}

/** `packages/NAME/src/REST` taken apart, or null for another file. */
function place(file) {
  const match = /^packages\/([^/]+)\/src\/(.+)$/.exec(file);
  return match === null ? null : { package: match[1], rest: match[2] };
}

/**
 * Why `file` may not import `specifier`: what is wrong and what would be right. Null where it may.
 *
 * @param {string} file from the repository's root, with slashes
 * @param {string} specifier
 * @param {Record<string, string[]>} [dependencies] what each package of this repository declares, and under '' what tests may use; any will do without it
 * @returns {string | null}
 */
export function importProblem(file, specifier, dependencies) {
  const from = place(file);
  if (from === null) return null;
  if (!specifier.startsWith('.')) return packageProblem(from, file, specifier, dependencies);
  const target = posix.join(posix.dirname(file), specifier);
  const to = place(target);
  if (to === null || to.package !== from.package) {
    const right =
      to === null ? 'code that two rooms share lives in a package' : `write '@viommu/${to.package}/…'`;
    return `${specifier} leaves packages/${from.package}; ${right}`;
  }
  if (!/\.(?:tsx?|json|css)$/.test(specifier))
    return `${specifier} has no extension; relative imports end in .ts`;
  if (isTest(file)) return null;
  if (isTest(target)) return `${specifier} is for tests; what other code needs stands outside of testing`;
  if (from.package !== 'core') return null;
  return layerProblem(from.rest, to.rest) ?? ruleProblem(from.rest, to.rest);
}

function packageProblem(from, file, specifier, dependencies) {
  const own = /^@viommu\/([^/]+)(\/.*)?$/.exec(specifier);
  if (own !== null) {
    const [, name, path] = own;
    if (name === from.package) return `${specifier} is this package; import it by a relative path`;
    const may = PACKAGES[from.package] ?? [];
    if (!may.includes(name)) {
      return `packages/${from.package} may not import ${name}; it may import ${may.join(' and ') || 'no other package'}`;
    }
    return path === undefined ? `${specifier} names no file; write '@viommu/${name}/<path>'` : null;
  }
  const library = libraryOf(specifier);
  if (isTest(file) && (dependencies?.[''] ?? TEST_LIBRARIES).includes(library)) return null;
  if (from.package === 'core') {
    if (specifier.startsWith('node:')) {
      return `core may not import ${specifier}; it runs in the browser too: what it needs from outside is handed in, and packages/host does it`;
    }
    if (!from.rest.startsWith('machine/')) {
      return `core may not import ${specifier}; below machine it has no dependencies`;
    }
  }
  if (specifier.startsWith('node:') || (dependencies?.[from.package] ?? [library]).includes(library))
    return null;
  return `${library} is no dependency of packages/${from.package}; its package.json must have it, or the import must go`;
}

/** The package that a bare import is from. */
function libraryOf(specifier) {
  const [scope, name] = specifier.split('/');
  return scope.startsWith('@') ? `${scope}/${name}` : scope;
}

function layerProblem(from, to) {
  const [lower, upper] = [to.split('/')[0], from.split('/')[0]];
  for (const layer of [upper, lower]) {
    if (LAYERS.includes(layer)) continue;
    return `core/src/${layer} is not in LAYERS of scripts/rules/layers.mjs; say there what it stands above`;
  }
  if (LAYERS.indexOf(lower) <= LAYERS.indexOf(upper)) return null;
  return `${upper} may not import ${lower}, which stands above it; the order is ${LAYERS.join(' ← ')}`;
}

function ruleProblem(from, to) {
  const [fromLayer, ...fromPath] = from.split('/');
  const [toLayer, ...toPath] = to.split('/');
  if (fromLayer === 'iommufd') return iommufdProblem(fromPath, toLayer, toPath);
  if (fromLayer !== 'iommu') return null;
  const vendor = vendorOf(fromPath);
  const other = toLayer === 'iommu' ? vendorOf(toPath) : null;
  if (other !== null && other !== vendor) {
    const shared = Object.values(SHARED).flat().join(', ');
    return `iommu/${fromPath[0]} may not import iommu/${other}; what vendors share stands in iommu itself, in ${shared}`;
  }
  if (vendor !== null && fromPath[1] === 'spec') return specProblem(toLayer, toPath);
  const hardware = vendor === null ? SHARED.hardware.includes(fromPath[0]) : fromPath[1] === 'hardware';
  return hardware ? hardwareProblem(toLayer, toPath) : null;
}

/** The vendor's folder that a path below iommu leads into, or null. */
function vendorOf(path) {
  return path.length > 1 && !Object.values(SHARED).flat().includes(path[0]) ? path[0] : null;
}

function iommufdProblem(fromPath, toLayer, toPath) {
  const selftest = fromPath[0] === 'selftest';
  if (toLayer === 'iommufd' && toPath[0] === 'selftest' && !selftest) {
    return 'iommufd may not import iommufd/selftest; machine hands it in';
  }
  if (toLayer !== 'iommu' || (toPath.length === 1 && DRIVER_INTERFACE.includes(toPath[0]))) return null;
  if (selftest && toPath[0] === 'mock') return null;
  const allowed = DRIVER_INTERFACE.map((name) => `iommu/${name}`).join(', ');
  return `iommufd may not import iommu/${toPath.join('/')}; of IOMMUs it knows ${allowed}`;
}

function specProblem(toLayer, toPath) {
  if (toLayer === 'base' || (toLayer === 'iommu' && toPath[1] === 'spec')) return null;
  return `spec may not import ${[toLayer, ...toPath].join('/')}; it describes, and needs nothing but base`;
}

function hardwareProblem(toLayer, toPath) {
  const path = [toLayer, ...toPath].join('/');
  if (toLayer === 'abi') return `hardware may not import ${path}; silicon knows no ioctl and no errno`;
  if (toLayer !== 'iommu') return null;
  const driverSide =
    toPath.length === 1
      ? DRIVER_INTERFACE.includes(toPath[0])
      : SHARED.drivers.includes(toPath[0]) || DRIVER_PARTS.includes(partOf(toPath));
  if (!driverSide) return null;
  return `hardware may not import ${path}; it sees registers, memory and requests, and no driver`;
}

/** `driver` for VENDOR/driver/x.ts and for VENDOR/driver.ts. */
function partOf(path) {
  return path[1].replace(/\.ts$/, '');
}
