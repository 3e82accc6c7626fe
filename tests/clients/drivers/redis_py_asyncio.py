"""redis-py's asyncio `Sentinel`."""

import asyncio

from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from common import PATIENCE, PAUSE, READ_EVERY, arguments, now, say, why


async def read(replica):
    while True:
        try:
            say("role", (await replica.execute_command("ROLE"))[0].decode())
        except Exception as error:
            say("role", "none", why(error))
        await asyncio.sleep(READ_EVERY)


async def write(args, primary):
    n = 0
    while True:
        sent = now()
        try:
            await primary.set(f"{args.name}:{n}", n)
            say("ack", n, sent, now())
            pause = args.pace
        except Exception as error:
            say("fail", n, now(), why(error))
            pause = PAUSE
        n += 1
        await asyncio.sleep(max(0.0, pause - (now() - sent) / 1e9))


async def main():
    args = arguments()
    sockets = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE, "retry": Retry(NoBackoff(), 0)}
    sentinel = Sentinel(args.sentinels, sentinel_kwargs={"password": args.password, **sockets}, **sockets)
    if args.mode == "refuse":
        try:
            await sentinel.discover_master(args.group)
            say("accepted")
        except Exception as error:
            say("refused", why(error))
        return
    say("ready")
    await asyncio.gather(write(args, sentinel.master_for(args.group)), read(sentinel.slave_for(args.group)))


asyncio.run(main())
