import { describe, expect, test } from 'vitest';
import { debianMirror, parseDeb822, parseList } from './sources.mjs';

describe('a one-line file', () => {
  test('gives its binary sources, with and without options', () => {
    const text = [
      '# deb http://a.example/debian trixie main',
      'deb-src http://b.example/debian trixie main',
      'deb [arch=amd64 signed-by=/k.gpg] http://c.example/debian trixie main contrib',
      '  deb http://d.example/debian trixie-updates main',
      'deb http://e.example/flat ./',
    ].join('\n');
    expect(parseList(text)).toEqual([
      { uri: 'http://c.example/debian', suite: 'trixie' },
      { uri: 'http://d.example/debian', suite: 'trixie-updates' },
      { uri: 'http://e.example/flat', suite: './' },
    ]);
  });
});

describe('a deb822 file', () => {
  test('gives every pair of URI and suite of its enabled binary stanzas', () => {
    const text = [
      'Types: deb deb-src',
      'URIs: http://a.example/debian',
      '# a comment in the stanza',
      ' http://b.example/debian',
      'Suites: trixie trixie-updates',
      'Components: main',
      'Signed-By:',
      ' -----BEGIN PGP PUBLIC KEY BLOCK-----',
      ' .',
      ' URIs: none',
      '',
      'Enabled: no',
      'Types: deb',
      'URIs: http://c.example/debian',
      'Suites: sid',
      ' \t',
      'Types: deb-src',
      'URIs: http://d.example/debian',
      'Suites: sid',
      '',
      'types: deb',
      'uris: http://e.example/debian-security',
      'suites: trixie-security',
    ].join('\n');
    expect(parseDeb822(text)).toEqual([
      { uri: 'http://a.example/debian', suite: 'trixie' },
      { uri: 'http://a.example/debian', suite: 'trixie-updates' },
      { uri: 'http://b.example/debian', suite: 'trixie' },
      { uri: 'http://b.example/debian', suite: 'trixie-updates' },
      { uri: 'http://e.example/debian-security', suite: 'trixie-security' },
    ]);
  });
});

describe('the mirror', () => {
  test('is the first that serves a Debian suite, not the security archive and not a third party', () => {
    expect(
      debianMirror([
        { uri: 'http://a.example/apt', suite: 'nodistro' },
        { uri: 'http://b.example/debian-security', suite: 'stable' },
        { uri: 'http://c.example/apt', suite: 'bookworm' },
        { uri: 'http://d.example/debian', suite: 'bookworm' },
      ]),
    ).toBe('http://d.example/debian');
  });

  test('may have any path where no URI ends in /debian', () => {
    expect(debianMirror([{ uri: 'mirror+file:/etc/apt/mirrors/debian.list', suite: 'trixie' }])).toBe(
      'mirror+file:/etc/apt/mirrors/debian.list',
    );
  });

  test('is absent on a system that is not Debian', () => {
    expect(debianMirror([{ uri: 'http://a.example/ubuntu', suite: 'noble' }])).toBeNull();
  });
});
