// What both Node drivers share: as common.py, which tells the lines that are printed.
'use strict';

const PATIENCE = 500;
const PAUSE = 10;
const READ_EVERY = 250;

const [mode, name, group, password, pace, list] = process.argv.slice(2);
const sentinels = list.split(',').map((sentinel) => {
  const colon = sentinel.lastIndexOf(':');
  return { host: sentinel.slice(0, colon), port: Number(sentinel.slice(colon + 1)) };
});

// Libraries log to the console; the test reads standard output, so that they must not.
console.log = console.error;

const now = () => process.hrtime.bigint();
const say = (...words) => process.stdout.write(words.join(' ').replaceAll('\n', ' ') + '\n');
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)));
const why = (error) => (error instanceof Error ? `${error.name}: ${error.message}` : String(error));

async function writeForEver(write) {
  say('ready');
  for (let n = 0; ; n += 1) {
    const sent = now();
    let pause = PAUSE;
    try {
      await write(n);
      say('ack', n, sent, now());
      pause = Number(pace);
    } catch (error) {
      say('fail', n, now(), why(error));
    }
    await sleep(pause - Number(now() - sent) / 1e6);
  }
}

async function readForEver(readRole) {
  for (;;) {
    try {
      say('role', await readRole());
    } catch (error) {
      say('role', 'none', why(error));
    }
    await sleep(READ_EVERY);
  }
}

module.exports = { PATIENCE, group, mode, name, password, readForEver, say, sentinels, sleep, why, writeForEver };
