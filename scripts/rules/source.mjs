// What the rules need of a source file: its code without comments and the contents of strings, and what it imports.

const BEFORE_REGEX =
  /(?:^|[(,=:[!&|?{};+\-*%<>~^]|\b(?:return|typeof|case|in|of|do|else|void|delete|throw))\s*$/;
const SPACE = /[^\n]/g;

/**
 * TypeScript or JavaScript with comments and the contents of strings, templates and regular expressions turned into
 * spaces. Every other character stays where it was, so that offsets and lines hold.
 *
 * @param {string} text
 * @returns {string}
 */
export function maskSource(text) {
  let masked = '';
  let at = 0;
  /** The depth of braces within each template expression that is open. */
  const templates = [];
  const blank = (end) => {
    masked += text.slice(at, end).replace(SPACE, ' ');
    at = end;
  };
  const keep = (count) => {
    masked += text.slice(at, at + count);
    at += count;
  };
  const template = () => {
    const end = endOfTemplate(text, at);
    blank(Math.min(end, text.length));
    if (text[at] === '`') keep(1);
    else if (at < text.length) {
      keep(2);
      templates.push(0);
    }
  };
  while (at < text.length) {
    const two = text.slice(at, at + 2);
    if (two === '//') blank(endOf(text, '\n', at));
    else if (two === '/*') blank(endOf(text, '*/', at + 2) + 2);
    else if (text[at] === "'" || text[at] === '"') {
      const end = endOfString(text, at + 1, text[at]);
      keep(1);
      blank(end);
      keep(1);
    } else if (text[at] === '`') {
      keep(1);
      template();
    } else if (text[at] === '/' && BEFORE_REGEX.test(masked.slice(-80))) {
      const end = endOfRegex(text, at + 1);
      keep(1);
      blank(end);
      keep(1);
    } else if (text[at] === '}' && templates.at(-1) === 0) {
      templates.pop();
      keep(1);
      template();
    } else {
      if (templates.length > 0 && text[at] === '{') templates[templates.length - 1]++;
      if (templates.length > 0 && text[at] === '}') templates[templates.length - 1]--;
      keep(1);
    }
  }
  return masked;
}

function endOf(text, what, from) {
  const end = text.indexOf(what, from);
  return end === -1 ? text.length : end;
}

function endOfString(text, from, quote) {
  let at = from;
  while (at < text.length && text[at] !== quote && text[at] !== '\n') at += text[at] === '\\' ? 2 : 1;
  return at;
}

/** Where the template's text ends: at its closing quote, or at an expression's `${`. */
function endOfTemplate(text, from) {
  let at = from;
  while (at < text.length && text[at] !== '`' && text.slice(at, at + 2) !== '${') {
    at += text[at] === '\\' ? 2 : 1;
  }
  return at;
}

function endOfRegex(text, from) {
  let at = from;
  let inClass = false;
  while (at < text.length && text[at] !== '\n' && (inClass || text[at] !== '/')) {
    if (text[at] === '[') inClass = true;
    if (text[at] === ']') inClass = false;
    at += text[at] === '\\' ? 2 : 1;
  }
  return at;
}

/** The line, from 1, of the character at `offset`. */
export function lineAt(text, offset) {
  let line = 1;
  for (let at = text.indexOf('\n'); at !== -1 && at < offset; at = text.indexOf('\n', at + 1)) line++;
  return line;
}

const IMPORT =
  /(?<![.\w$])(?:(?:import|export)\b(?:\s+type\b)?[\w\s*{},$]*?\bfrom\s*|import\s*|import\s*\(\s*)(['"])/g;

/**
 * What a source imports, types too, and what it exports again.
 *
 * @param {string} text
 * @param {string} masked what maskSource() made of it
 * @returns {{ specifier: string, line: number }[]}
 */
export function importsOf(text, masked) {
  return [...masked.matchAll(IMPORT)].map((match) => {
    const start = match.index + match[0].length;
    const specifier = text.slice(start, endOf(masked, match[1], start));
    return { specifier, line: lineAt(text, start) };
  });
}
