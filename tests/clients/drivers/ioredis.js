// ioredis, without its failover detector, as is its default: the detector ends the client for good where the event comes
// while it is connecting, which is when a failover is quick.
'use strict';

const { Redis } = require('ioredis');
const { PATIENCE, group, mode, name, password, readForEver, say, sentinels, why, writeForEver } = require('./common');

function connect(role, options) {
  const client = new Redis({
    sentinels,
    name: group,
    role,
    sentinelPassword: password,
    connectTimeout: PATIENCE,
    // Without it a lost host is noticed when TCP gives up, which takes a quarter of an hour.
    socketTimeout: PATIENCE,
    commandTimeout: PATIENCE,
    sentinelCommandTimeout: PATIENCE,
    ...options,
  });
  client.on('error', () => {});
  return client;
}

async function refuse() {
  const client = connect('master', { sentinelRetryStrategy: () => null, retryStrategy: () => null, lazyConnect: true });
  try {
    await client.connect();
    say('accepted');
  } catch (error) {
    say('refused', why(error));
  }
  process.exit(0);
}

if (mode === 'refuse') {
  refuse();
} else {
  const primary = connect('master', {});
  const replica = connect('slave', {});
  readForEver(async () => (await replica.role())[0]);
  writeForEver((n) => primary.set(`${name}:${n}`, n));
}
