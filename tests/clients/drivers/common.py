"""What every Python driver shares: its arguments, its clock, and the lines it prints for the test.

    ready                       the library is set up
    ack N SENT DONE             write N was acknowledged (nanoseconds of CLOCK_MONOTONIC)
    fail N DONE WHY             it was not
    role NAME                   what the instance that reads go to calls itself
    refused WHY | accepted      the answer to a wrong password
"""

import sys
import time

# The longest a client waits for a connection or an answer, in seconds: the same for all clients and both systems.
PATIENCE = 0.5
# After a failed write, before the next one.
PAUSE = 0.01
# From one read at a replica to the next.
READ_EVERY = 0.25


class Arguments:
    """MODE NAME GROUP PASSWORD PACE_MS HOST:PORT,HOST:PORT,..."""

    def __init__(self, words):
        self.mode, self.name, self.group, self.password, pace, sentinels = words
        self.pace = int(pace) / 1000
        pairs = (sentinel.rsplit(":", 1) for sentinel in sentinels.split(","))
        self.sentinels = [(host, int(port)) for host, port in pairs]


def arguments():
    return Arguments(sys.argv[1:])


def say(*words):
    line = " ".join(str(word) for word in words)
    sys.stdout.write(line.replace("\n", " ") + "\n")
    sys.stdout.flush()


def now():
    return time.monotonic_ns()


def why(error):
    text = str(error)
    # Some errors show whole clients; what matters stands at both ends.
    if len(text) > 160:
        text = f"{text[:50]} ... {text[-100:]}"
    return f"{type(error).__name__}: {text}"


def write_for_ever(args, write, read_role):
    """Writes 0, 1, 2, ...; `read_role` is asked now and then, and may be None."""
    say("ready")
    n, read_at = 0, now()
    while True:
        sent = now()
        try:
            write(n)
            say("ack", n, sent, now())
            pause = args.pace
        except Exception as error:
            say("fail", n, now(), why(error))
            pause = PAUSE
        n += 1
        if read_role is not None and now() >= read_at:
            read_at = now() + int(READ_EVERY * 1e9)
            try:
                say("role", read_role())
            except Exception as error:
                say("role", "none", why(error))
        time.sleep(max(0.0, pause - (now() - sent) / 1e9))


def refusal(attempt):
    """What becomes of an attempt with a wrong password."""
    try:
        attempt()
    except Exception as error:
        say("refused", why(error))
    else:
        say("accepted")
