// What a JavaScript value shows of itself: a bundle of MIME types.

import util from 'node:util';

const DISPLAY = Symbol.for('Jupyter.display');
const LARGEST_JSON = 1 << 20;

const isMime = (key) => /^[a-z]+\/[\w.+-]+$/.test(key);

function isBundle(value) {
  if (value === null || typeof value !== 'object') return false;
  const keys = Object.keys(value);
  return keys.length > 0 && keys.every(isMime);
}

/** Binary content as base64, everything but JSON types as text. */
function content(mime, value) {
  if (value instanceof Uint8Array) return Buffer.from(value).toString('base64');
  if (/[/+]json$/.test(mime)) return value === undefined ? null : value;
  return typeof value === 'string' ? value : String(value);
}

function encoded(bundle) {
  return Object.fromEntries(Object.entries(bundle).map(([k, v]) => [k, content(k, v)]));
}

function isPlain(value) {
  if (Array.isArray(value)) return true;
  if (value === null || typeof value !== 'object') return false;
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

// A value may choose by a method named Symbol.for('Jupyter.display'), which may be async.
/** The bundle of a value: text, JSON too for plain objects and arrays, or its own choice. */
export function bundleOf(value) {
  if (typeof value?.[DISPLAY] === 'function') {
    const own = value[DISPLAY]();
    return typeof own?.then === 'function' ? own.then(encoded) : encoded(own);
  }
  const bundle = { 'text/plain': util.inspect(value) };
  if (isPlain(value)) {
    try {
      const json = JSON.stringify(value);
      if (json !== undefined && json.length <= LARGEST_JSON) {
        bundle['application/json'] = JSON.parse(json);
      }
    } catch {
      // Cycles, BigInt: text is all there is.
    }
  }
  return bundle;
}

/** What display() shows: a bundle as it is, any other value as a cell's last value. */
export function displayBundle(value, options) {
  if (options?.raw || isBundle(value)) return encoded(value);
  return bundleOf(value);
}
