"""A lease as a PostgreSQL advisory lock of the session that holds it; it ends with the session, however that ends."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from srpo.errors import ConfigError, UnreachableError

if TYPE_CHECKING:
    from srpo.lease import Held

PAUSE = 0.5
"""Seconds between two attempts."""
TAKE = "SELECT pg_try_advisory_lock(hashtextextended(%(name)s, 0))"


class _PostgresHeld:
    """The session lives, so the lock does."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def confirm(self) -> None:
        """Ask the session for a sign of life."""
        try:
            self.connection.exec_driver_sql("SELECT 1")
            self.connection.commit()
        except Exception as error:  # each driver has its own
            raise UnreachableError(f"the database session that held the lease ended ({type(error).__name__})") from None


@contextmanager
def postgres_lease(uri: str, name: str, wait: float) -> Iterator["Held"]:
    """The advisory lock of `name` in a database. Passwords come from PGPASSWORD or ~/.pgpass, as libpq reads them."""
    engine = _engine(uri)
    try:
        with engine.connect() as connection:
            _take(connection, f"srpo/{name}", wait)
            yield _PostgresHeld(connection)
    finally:
        engine.dispose()  # closes the session, which frees the lock


def _take(connection: Any, name: str, wait: float) -> None:
    deadline = time.monotonic() + wait
    while not connection.exec_driver_sql(TAKE, {"name": name}).scalar():
        if time.monotonic() > deadline:
            raise UnreachableError(f"another session has held the advisory lock of {name!r} for {wait:g} s; try again")
        time.sleep(PAUSE)
    connection.commit()  # the lock belongs to the session; no transaction stays open meanwhile


def _engine(uri: str) -> Any:
    from mlflow.store.db.utils import create_sqlalchemy_engine

    try:
        return create_sqlalchemy_engine(uri)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"a lease in PostgreSQL needs the driver {error.name}; install psycopg2-binary, or name another driver in "
            "the address (postgresql+DRIVER://)"
        ) from None
