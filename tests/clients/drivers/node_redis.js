// node-redis' createSentinel; reads go to the replicas by themselves.
'use strict';

const { createSentinel } = require('@redis/client');
const { PATIENCE, group, mode, name, password, readForEver, say, sentinels, sleep, why, writeForEver } = require('./common');

function create() {
  const socket = { connectTimeout: PATIENCE, socketTimeout: PATIENCE };
  const client = createSentinel({
    name: group,
    sentinelRootNodes: sentinels,
    sentinelClientOptions: { password, socket: { connectTimeout: PATIENCE } },
    nodeClientOptions: { socket },
    replicaPoolSize: 1,
    maxCommandRediscovers: mode === 'refuse' ? 1 : 16,
    passthroughClientErrorEvents: true,
  });
  client.on('error', () => {});
  return client;
}

async function refuse() {
  const client = create();
  const said = new Set();
  client.on('error', (error) => said.add(why(error)));
  try {
    await client.connect();
    say('accepted');
  } catch (error) {
    say('refused', [...said, why(error)].join('; '));
  }
  process.exit(0);
}

async function write() {
  const client = create();
  await client.connect();
  readForEver(async () => (await client.sendCommand(true, ['ROLE']))[0]);
  // The library waits without a bound where it finds no primary; a client has its own.
  const bounded = (promise) => Promise.race([promise, sleep(2 * PATIENCE).then(() => Promise.reject(new Error('no answer')))]);
  await writeForEver((n) => bounded(client.set(`${name}:${n}`, String(n))));
}

if (mode === 'refuse') {
  refuse();
} else {
  write().catch((error) => {
    say('fail', 0, 0, why(error));
    process.exit(1);
  });
}
