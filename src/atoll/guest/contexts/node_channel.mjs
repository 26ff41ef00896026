// Frames of the control socket and synchronous output: the Node.js side of channel.py.

import fs from 'node:fs';
import net from 'node:net';
import { Writable } from 'node:stream';

export const FRAME_LIMIT = 32 * 1024 * 1024;

const PAUSE = new Int32Array(new SharedArrayBuffer(4));

/** Write all of `bytes` before returning, also to a descriptor that does not block. */
function writeAll(fd, bytes) {
  let offset = 0;
  while (offset < bytes.length) {
    try {
      offset += fs.writeSync(fd, bytes, offset);
    } catch (error) {
      if (error.code !== 'EAGAIN') throw error;
      Atomics.wait(PAUSE, 0, 0, 1);
    }
  }
}

/** A stream that has written when write() returns, so that output is in order with events.
 *
 * It keeps no state: an interrupt may come in the middle of any write, and the next one must work.
 */
export class SyncStream extends Writable {
  constructor(fd) {
    super({ autoDestroy: false, emitClose: false });
    this.fd = fd;
  }

  write(chunk, encoding, callback) {
    const done = typeof encoding === 'function' ? encoding : callback;
    const isText = typeof chunk === 'string';
    const coding = typeof encoding === 'string' ? encoding : 'utf8';
    let failure = null;
    try {
      writeAll(this.fd, isText ? Buffer.from(chunk, coding) : chunk);
    } catch (error) {
      failure = error;
    }
    if (done) process.nextTick(done, failure);
    else if (failure) throw failure;
    return true;
  }

  /** Whoever ends it is told so; the next cell writes all the same. */
  end(chunk, encoding, callback) {
    const done = [chunk, encoding, callback].find((item) => typeof item === 'function');
    if (chunk !== undefined && chunk !== null && chunk !== done) this.write(chunk, encoding);
    if (done) process.nextTick(done);
    process.nextTick(() => this.emit('finish'));
    return this;
  }
}

/** One frame; null if the event does not fit into one. */
function encode(event) {
  const body = Buffer.from(JSON.stringify(event));
  if (body.length > FRAME_LIMIT) return { frame: null, size: body.length };
  const head = Buffer.alloc(4);
  head.writeUInt32BE(body.length);
  return { frame: Buffer.concat([head, body]), size: body.length };
}

function tooLarge(event, size) {
  const value =
    `a result takes ${size} bytes, more than the limit of 32 MiB; ` +
    'write it to a file or show a part of it';
  const name = 'ResultTooLarge';
  return { event: 'error', id: event.id, name, value, traceback: `${name}: ${value}`, frames: [] };
}

/** The control socket: calls `onRequest` for every frame, `onEnd` when the host is gone. */
export class Channel {
  #fd;

  #unsent = [];

  #pending = [];

  #size = 0;

  constructor(fd, onRequest, onEnd) {
    this.#fd = fd;
    const socket = new net.Socket({ fd, readable: true, writable: false });
    socket.on('data', (data) => this.#take(data, onRequest));
    socket.on('close', onEnd);
    socket.on('error', onEnd);
  }

  send(event) {
    this.post(event);
    this.#flush();
  }

  /** Keep an event for the next `send`, so that both take one system call. */
  post(event) {
    const { frame, size } = encode(event);
    this.#unsent.push(frame ?? encode(tooLarge(event, size)).frame);
  }

  // An interrupt can end a cell in here: what is left of a frame goes out before the next one.
  #flush() {
    if (this.#unsent.length > 1) this.#unsent = [Buffer.concat(this.#unsent)];
    while (this.#unsent.length) {
      try {
        const rest = this.#unsent[0];
        this.#unsent[0] = rest.subarray(fs.writeSync(this.#fd, rest));
        if (!this.#unsent[0].length) this.#unsent.shift();
      } catch (error) {
        if (error.code !== 'EAGAIN') throw error;
        Atomics.wait(PAUSE, 0, 0, 1);
      }
    }
  }

  #take(data, onRequest) {
    this.#pending.push(data);
    this.#size += data.length;
    for (;;) {
      if (this.#size < 4) return;
      if (this.#pending[0].length < 4) this.#pending = [Buffer.concat(this.#pending)];
      const length = this.#pending[0].readUInt32BE(0);
      if (this.#size < 4 + length) return;
      const all = this.#pending.length === 1 ? this.#pending[0] : Buffer.concat(this.#pending);
      this.#pending = [all.subarray(4 + length)];
      this.#size -= 4 + length;
      onRequest(JSON.parse(all.subarray(4, 4 + length).toString()));
    }
  }
}
