"""redis-py's blocking `Sentinel`."""

from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from common import PATIENCE, arguments, refusal, write_for_ever


def main():
    args = arguments()
    # Tries again by itself only as the driver says: the test counts its attempts.
    sockets = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE, "retry": Retry(NoBackoff(), 0)}
    sentinel = Sentinel(args.sentinels, sentinel_kwargs={"password": args.password, **sockets}, **sockets)
    if args.mode == "refuse":
        refusal(lambda: sentinel.discover_master(args.group))
        return
    primary = sentinel.master_for(args.group)
    replica = sentinel.slave_for(args.group)
    write_for_ever(
        args,
        lambda n: primary.set(f"{args.name}:{n}", n),
        lambda: replica.execute_command("ROLE")[0].decode(),
    )


main()
