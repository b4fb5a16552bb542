// What a header declares, so that nothing of it is left out of the descriptions by accident.

/** Of vfio.h: devices that viommu does not have. The rest of each header is described whole. */
const LEFT_OUT = [
  // Include guards.
  /^\w*_H$/,
  /GFX|gfx/,
  /CCW_|_CCW$|^VFIO_AP_/,
  /NVLINK2|nvlink2/,
  /EEH_PE|eeh_pe/,
  /SPAPR_(?:INFO|TCE_(?:GET|CREATE|REMOVE)|REGISTER|UNREGISTER)|spapr/,
  /ZPCI_(?!ERROR)|zpci_err/,
  /INTEL_IGD/,
  // The migration region of before Linux 5.17.
  /MIGRATION_DEPRECATED|STATE_V1_|VFIO_DEVICE_STATE_(?:MASK|VALID|IS_ERROR|SET_ERROR)|device_migration_info/,
  // Strings.
  /^VFIO_DEVICE_API_\w+_STRING$/,
];

function withoutComments(text) {
  return text.replace(/\/\*[\s\S]*?\*\//g, ' ').replace(/\/\/.*$/gm, ' ');
}

/** The text between the brace at `open` and its partner. */
function block(text, open) {
  let depth = 0;
  for (let at = open; at < text.length; at++) {
    if (text[at] === '{') depth++;
    if (text[at] === '}' && --depth === 0) return text.slice(open + 1, at);
  }
  throw new Error('a brace is never closed');
}

/** The members of a struct's body, with their paths: those of an anonymous union or struct count as its own. */
function members(body, prefix = '') {
  const found = [];
  let rest = body.replace(/^\s*#.*(?:\\\n.*)*$/gm, ' ');
  for (let inner; (inner = /\b(?:union|struct)\s*\{/.exec(rest)) !== null;) {
    const open = inner.index + inner[0].length - 1;
    const content = block(rest, open);
    const after = rest.slice(open + content.length + 2);
    const [, name, tail] = /^\s*(\w*)\s*;([\s\S]*)$/.exec(after);
    found.push(...members(content, name === '' ? prefix : `${prefix}${name}.`));
    rest = rest.slice(0, inner.index) + tail;
  }
  for (const statement of rest.split(';')) {
    // A flexible array is no part of a layout.
    const name = /[\s*](\w+)\s*(?:\[\s*\w+\s*\])?\s*$/.exec(statement)?.[1];
    if (name !== undefined) found.push(prefix + name);
  }
  return found;
}

/**
 * The names that a header declares.
 *
 * @param {string} text
 * @returns {{ structs: Map<string, string[]>, constants: string[] }}
 */
export function inventory(text) {
  const code = withoutComments(text);
  const structs = new Map();
  const constants = [];
  for (const match of code.matchAll(/^struct\s+(\w+)\s*\{/gm)) {
    structs.set(match[1], members(block(code, match.index + match[0].length - 1)));
  }
  for (const match of code.matchAll(/^enum\b[^{;]*\{/gm)) {
    for (const item of block(code, match.index + match[0].length - 1).split(',')) {
      const name = /^\s*(\w+)/.exec(item)?.[1];
      if (name !== undefined) constants.push(name);
    }
  }
  for (const match of code.matchAll(/^[ \t]*#define[ \t]+(\w+)(\()?/gm)) {
    if (match[2] === undefined) constants.push(match[1]);
  }
  return { structs, constants };
}

/**
 * What the header has and the description lacks, a line each.
 *
 * @param {string} text
 * @param {import('./describe.mjs').Description} description
 * @returns {string[]}
 */
export function missing(text, description) {
  const { structs, constants } = inventory(text);
  const wanted = (name) => !LEFT_OUT.some((pattern) => pattern.test(name));
  const lines = [];
  for (const name of constants) {
    if (wanted(name) && description.constants[name] === undefined) lines.push(`${name} is not described`);
  }
  for (const [name, fields] of structs) {
    if (!wanted(name)) continue;
    // A described struct, and those that stand for the members of its union.
    const layouts = Object.entries(description.structs).filter(
      ([each]) => each === name || (name === 'iommu_test_cmd' && each.startsWith(`${name}_`)),
    );
    if (layouts.length === 0) lines.push(`struct ${name} is not described`);
    else {
      const known = new Set(layouts.flatMap(([, layout]) => Object.keys(layout.fields)));
      for (const field of fields)
        if (!known.has(field)) lines.push(`struct ${name}: ${field} is not described`);
    }
  }
  return lines;
}
