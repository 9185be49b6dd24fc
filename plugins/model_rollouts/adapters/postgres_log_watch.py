"""Gives a connection to the prediction log up when its server stops answering.

A backend that is stopped, or hangs, keeps its connection open, so neither the kernel nor libpq ever gives it up.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg


@contextmanager
def answering(connection: "psycopg.Connection[tuple[object, ...]]", seconds: float) -> Iterator[None]:
    """Bound what is done on a connection within the block.

    Args:
        connection: Useless when the time was over; close it then.
        seconds: For all of the block.

    Raises:
        psycopg.OperationalError: It was not done in time.
    """
    given_up = threading.Event()

    def give_up() -> None:
        given_up.set()
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as its_socket:
            its_socket.shutdown(socket.SHUT_RDWR)  # closing it would not wake up who waits for an answer

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    except psycopg.Error as error:
        if given_up.is_set():
            raise psycopg.OperationalError(
                f"the database was not done after {seconds:g} s and its connection was given up; see whether it hangs"
            ) from error
        raise
    finally:
        timer.cancel()
        timer.join()  # or it might shut the next connection with the same number
