"""The database of a review: SQLite by default, or any SQLAlchemy URL, with transactions that never half happen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Engine, create_engine, event, inspect, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from .schema import Base

#: Seconds for which a transaction waits for another process's lock on an SQLite file.
BUSY_SECONDS = 30


class DatabaseError(Exception):
    """The database cannot be used; the message is a sentence for people without passwords."""


def open_database(url: str) -> sessionmaker[Session]:
    """Return a factory of sessions, after creating the tables that are missing.

    Raises:
        DatabaseError: the URL is malformed, its driver is not installed, the server or file cannot be opened, or its
            tables are those of another version.
    """
    try:
        if make_url(url).get_backend_name() == "sqlite":
            engine = create_engine(url, pool_pre_ping=True)
            _make_sqlite_safe(engine)
        else:  # a statement must see what others have committed before it, also where that is not the default
            engine = create_engine(url, pool_pre_ping=True, isolation_level="READ COMMITTED")
        try:
            Base.metadata.create_all(engine)
        except (OperationalError, ProgrammingError):
            Base.metadata.create_all(engine)  # another process created a table at the same time
        _check_columns(engine)
    except (ArgumentError, NoSuchModuleError) as error:
        raise DatabaseError(f"the database URL cannot be used: {error}") from None
    except ImportError as error:
        raise DatabaseError(f"the driver of the database is not installed: {error}") from None
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
        raise DatabaseError(f"the database cannot be opened: {reason}") from None
    return sessionmaker(engine, expire_on_commit=False)


def _make_sqlite_safe(engine: Engine) -> None:
    """Let every transaction take the write lock when it begins, and sync it to disk when it ends.

    A transaction that reads first and writes later would fail at once when another process has written in between
    (https://www.sqlite.org/lang_transaction.html, SQLITE_BUSY_SNAPSHOT). With BEGIN IMMEDIATE it waits instead.
    """

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, record: object) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would come too late
        for pragma in (
            f"busy_timeout={BUSY_SECONDS * 1000}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _check_columns(engine: Engine) -> None:
    found = inspect(engine)
    for table in Base.metadata.sorted_tables:
        missing = {column.name for column in table.columns} - {c["name"] for c in found.get_columns(table.name)}
        if missing:
            raise DatabaseError(f"table {table.name} is of another version: it lacks {', '.join(sorted(missing))}")


@contextlib.contextmanager
def transaction(sessions: sessionmaker[Session]) -> Iterator[Session]:
    """Yield a session that is committed at the end of the ``with``, or rolled back when an error leaves it."""
    with sessions.begin() as session:
        yield session
