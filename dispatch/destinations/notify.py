"""`apprise:` tells services that have URLs of Apprise: chats, pagers, phones.

Apprise waits in threads, which nobody can stop. So there are few of them, their sockets have time
limits, and while one is still busy with a user that was given up on, that user's next attempt does
not start: no event overtakes another. Apprise says only whether it worked, never why not.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import apprise

from dispatch.delivery import Delivery
from dispatch.destinations.opening import Opening
from dispatch.destinations.template import Message
from dispatch.outcome import Delivered, Outcome, Unavailable
from keylane.errors import ConfigurationError

#: At once; each keeps a service's own pace, so more would only break its limits.
MAX_THREADS: Final = 4
#: Services cut or split at lengths of their own.
MAX_TEXT_CHARACTERS: Final = 30_000
MAX_TITLE_CHARACTERS: Final = 250
#: The least that a socket waits, and how much of an attempt's time it has for each of connecting
#: and answering.
_MIN_SOCKET_S: Final = 0.1
_SOCKET_SHARE: Final = 0.45


class NotifyDestination:
    """Tells every URL; delivered when all of them took it. `timeout_s` bounds an attempt."""

    def __init__(self, urls: Sequence[str], message: Message, timeout_s: float) -> None:
        self._urls = urls
        self._message = message
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(MAX_THREADS, "notify")
        self._own = threading.local()
        #: By user, what still runs after its attempt was given up.
        self._late: dict[str, Future[list[str]]] = {}

    async def attempt(self, delivery: Delivery) -> Outcome:
        user = delivery.event.user
        if user in self._late:
            return Unavailable("the attempt before is still running", is_overload=True)
        text = self._message.text(delivery, MAX_TEXT_CHARACTERS)
        title = self._message.subject(delivery, MAX_TITLE_CHARACTERS)
        telling = self._threads.submit(self._tell, text, title)
        try:
            async with asyncio.timeout(self._timeout_s):
                failed = await asyncio.wrap_future(telling)
        except TimeoutError:
            return Unavailable("no answer within the timeout", may_be_down=True, is_overload=True)
        finally:
            self._remember(user, telling)
        if failed:
            return Unavailable(f"not taken by {', '.join(failed)}", may_be_down=True)
        return Delivered()

    def _remember(self, user: str, telling: Future[list[str]]) -> None:
        """Note a thread that goes on. Cancelled before it began, none does."""
        if not telling.done() and not telling.cancel():
            self._late[user] = telling
            telling.add_done_callback(lambda _: self._late.pop(user, None))

    def _tell(self, text: str, title: str) -> list[str]:
        """Runs on a thread: tell each, in order; the answer names those that did not take it."""
        return [name for name, service in self._services() if not _took(service, text, title)]

    def _services(self) -> Iterator[tuple[str, apprise.Apprise]]:
        # Each thread has its own: not all of what Apprise brings may be shared.
        if not hasattr(self._own, "services"):
            self._own.services = [service_of(url, self._timeout_s) for url in self._urls]
        for index, (url, service) in enumerate(zip(self._urls, self._own.services, strict=True)):
            yield _name(url, index), service

    async def close(self) -> None:
        """Returns when no thread is left."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)


def _took(service: apprise.Apprise, text: str, title: str) -> bool:
    try:
        return bool(service.notify(text, title, body_format="text"))
    # More than a hundred services' code, and what is wrong there is no fault of this one.
    except Exception:  # noqa: BLE001
        return False


def service_of(url: str, timeout_s: float) -> apprise.Apprise:
    """One URL's service. Raises `ValueError` if there is none such, without the URL in it."""
    service = apprise.Apprise(asset=apprise.AppriseAsset(async_mode=False))
    if not service.add(url) or len(service) != 1:
        raise ValueError("no URL of Apprise")
    wait_s = max(_MIN_SOCKET_S, timeout_s * _SOCKET_SHARE)
    plugin = service[0]
    plugin.socket_connect_timeout = min(plugin.socket_connect_timeout, wait_s)
    plugin.socket_read_timeout = wait_s
    return service


def _name(url: str, index: int) -> str:
    """What may be told of a URL: all the rest of it may be a secret."""
    return f"{url.partition(':')[0]}:// (urls[{index}])"


def open_notify(opening: Opening) -> NotifyDestination:
    """Raises `ConfigurationError` without URLs, or naming the one that is none of Apprise's."""
    name = f"destination '{opening.destination}'"
    urls = [url.get_secret_value() for url in opening.settings.urls]
    if not urls:
        raise ConfigurationError(f"{name}: apprise: needs urls")
    # Its log lines quote what was sent and where to.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    for index, url in enumerate(urls):
        try:
            service_of(url, opening.timeout_s)
        except ValueError as error:
            raise ConfigurationError(f"{name}: {_name(url, index)} is {error}") from error
    return NotifyDestination(urls, Message(opening.settings.message, name), opening.timeout_s)
