// Where this system gets its Debian packages from, as sources.list(5) says it: one-line .list and deb822 .sources.

const SUITES =
  /^(?:(?:old){0,2}stable|testing|unstable|sid|experimental|buster|bullseye|bookworm|trixie|forky|duke)(?:-(?:updates|backports|proposed-updates))?$/;

/**
 * @typedef {{ uri: string, suite: string }} Source
 */

/**
 * The binary package sources of a one-line file.
 *
 * @param {string} text
 * @returns {Source[]}
 */
export function parseList(text) {
  const sources = [];
  for (const line of text.split('\n')) {
    const words = /^\s*deb\s+(?:\[[^\]]*\]\s*)?(\S+)\s+(\S+)/.exec(line);
    if (words !== null) sources.push({ uri: words[1], suite: words[2] });
  }
  return sources;
}

/**
 * The binary package sources of a deb822 file.
 *
 * @param {string} text
 * @returns {Source[]}
 */
export function parseDeb822(text) {
  const sources = [];
  for (const stanza of text.split(/\n(?:[ \t]*\n)+/)) {
    const fields = new Map();
    let last = '';
    for (const line of stanza.split('\n')) {
      if (line.startsWith('#')) continue;
      const field = /^([A-Za-z0-9-]+):(.*)$/.exec(line);
      if (field !== null) {
        last = field[1].toLowerCase();
        fields.set(last, field[2]);
      } else if (/^[ \t]/.test(line) && last !== '') {
        fields.set(last, `${fields.get(last)} ${line}`);
      }
    }
    const words = (name) => (fields.get(name) ?? '').split(/\s+/).filter((word) => word !== '');
    if (/^(?:no|false|0|off|without|disable)$/.test(words('enabled')[0] ?? 'yes')) continue;
    if (!words('types').includes('deb')) continue;
    for (const uri of words('uris')) for (const suite of words('suites')) sources.push({ uri, suite });
  }
  return sources;
}

/**
 * The mirror of the Debian archive among `sources`: the first that serves a Debian suite. The security archive and
 * other people's repositories are none, and flat ones (`./`) neither.
 *
 * @param {Source[]} sources
 * @returns {string | null}
 */
export function debianMirror(sources) {
  const match = sources.filter(({ uri, suite }) => SUITES.test(suite) && !/security/.test(uri));
  const named = match.find(({ uri }) => /\/debian\/?$/.test(uri));
  return (named ?? match[0])?.uri ?? null;
}
