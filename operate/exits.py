"""Exit codes, those of sysexits.h where it has one, and which error ends with which."""

from __future__ import annotations

from typing import Final

from keylane.errors import (
    BrokerUnavailable,
    ConfigurationError,
    ContractError,
    EventTooLarge,
    MissingPiece,
    PublishUnconfirmed,
    SubscriptionBusy,
)

DONE: Final = 0
#: Something else went wrong; the message says what.
FAILED: Final = 1
#: The command line can't be understood.
USAGE: Final = 2
#: Some of the data was refused, and will be the next time too.
BAD_DATA: Final = 65
#: The broker, a service or a program that is needed is not there.
UNAVAILABLE: Final = 69
#: Partly done; trying again later completes it.
TRY_AGAIN: Final = 75
#: A setting is wrong or unknown; nothing was started.
CONFIGURATION: Final = 78
#: Ctrl-C.
INTERRUPTED: Final = 130

_CODES: Final[dict[type[BaseException], int]] = {
    ConfigurationError: CONFIGURATION,
    ContractError: BAD_DATA,
    EventTooLarge: BAD_DATA,
    BrokerUnavailable: UNAVAILABLE,
    MissingPiece: UNAVAILABLE,
    PublishUnconfirmed: TRY_AGAIN,
    SubscriptionBusy: TRY_AGAIN,
    KeyboardInterrupt: INTERRUPTED,
}


def exit_code_of(error: BaseException) -> int:
    """The exit code of an error, that of its nearest ancestor; 1 if none has one."""
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), FAILED)
