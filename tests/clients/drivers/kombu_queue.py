"""kombu's Sentinel transport, as celery uses it: publishes numbers to a queue, which is a list of that name."""

from kombu import Connection
from redis.backoff import NoBackoff
from redis.retry import Retry

from common import PATIENCE, arguments, refusal, write_for_ever


class Publisher:
    def __init__(self, args):
        self.args = args
        self.connection = None
        self.queue = None

    def connect(self):
        sockets = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}
        options = {
            "master_name": self.args.group,
            # A Sentinel on a lost host is left at once; by default redis-py tries it three times more, seconds apart.
            "sentinel_kwargs": {"password": self.args.password, "retry": Retry(NoBackoff(), 0), **sockets},
            # By default it would try for ever, seconds apart; towards the primary redis-py keeps its own three tries.
            "max_retries": 0,
            **sockets,
        }
        url = ";".join(f"sentinel://{host}:{port}" for host, port in self.args.sentinels)
        self.connection = Connection(url, transport_options=options)
        self.queue = self.connection.SimpleQueue(self.args.name)

    def publish(self, n):
        try:
            if self.queue is None:
                self.connect()
            self.queue.put(n)
        except Exception:
            connection, self.connection, self.queue = self.connection, None, None
            if connection is not None:
                connection.release()
            raise


def main():
    args = arguments()
    publisher = Publisher(args)
    if args.mode == "refuse":
        refusal(lambda: publisher.publish(0))
        return
    write_for_ever(args, publisher.publish, None)


main()
