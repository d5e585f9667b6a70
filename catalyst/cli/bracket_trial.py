"""`catalyst test-order`: lets the daemon send one bracket far from the market, shows its legs and cancels it."""

from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Annotated, Final

import typer

from catalyst.cli.commands import LONG_ANSWER_TIMEOUT, send_command
from catalyst.cli.output import print_result
from catalyst.cli.settings import ConfigOption, JsonOption
from catalyst.domain.errors import UserError

# The words of the command for the side of a position.
SIDES: Final = {"buy": "long", "long": "long", "sell": "short", "short": "short"}


def position_side(text: str) -> str:
    """Return long or short for buy, long, sell and short in any case. Raises UserError."""
    side = SIDES.get(text.lower())
    if side is None:
        raise UserError(f"--side {text}: use {', '.join(SIDES)}")
    return side


def dollars_of(name: str, text: str | None) -> Decimal | None:
    """Return a price in dollars; None stays None. Raises UserError."""
    if text is None:
        return None
    try:
        price = Decimal(text)
    except InvalidOperation:
        price = Decimal("NaN")
    if not price.is_finite() or price <= 0:
        raise UserError(f"{name} {text}: write a price in dollars, as in 190.25")
    return price


def send_test_order(
    symbol: Annotated[str, typer.Argument(help="A symbol with a quote.")] = "AAPL",
    qty: Annotated[int, typer.Option("--qty", min=1, help="Shares.")] = 1,
    side: Annotated[str, typer.Option("--side", help="buy or sell.")] = "buy",
    entry: Annotated[str | None, typer.Option(help="Limit price; default: 10 % from the market.")] = None,
    stop: Annotated[str | None, typer.Option(help="Default: 2 % beyond the entry.")] = None,
    target: Annotated[str | None, typer.Option(help="Default: 6 % beyond the market.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send one bracket far from the market, show its three legs at the broker, and cancel it; sim and paper only.

    Exit 2 when it is not cancelled or shares have filled.
    """
    prices = {
        name: str(price)
        for name, text in (("entry", entry), ("stop", stop), ("target", target))
        if (price := dollars_of(f"--{name}", text)) is not None
    }
    arguments = {"symbol": symbol.upper(), "side": position_side(side), "quantity": qty, **prices}
    answer = send_command(config, "test_order", arguments, timeout=LONG_ANSWER_TIMEOUT)
    print_result(answer, as_json, lambda: _lines(answer))
    if not answer.get("cancelled"):
        raise typer.Exit(2)


def _lines(answer: Mapping[str, object]) -> Iterator[str]:
    legs = answer.get("legs")
    for leg in legs if isinstance(legs, list) else []:
        yield (
            f"{leg['purpose']:<12}{leg['side']} {leg['quantity']} {answer['symbol']} {leg['type']} {leg['price']}: "
            f"{leg['status']}, broker id {leg['broker_id']}"
        )
    if answer.get("cancelled"):
        yield "cancelled: nothing filled"
    else:
        yield (
            f"NOT cancelled: the entry is {answer.get('status')}, {answer.get('filled')} shares filled; "
            f"`catalyst close {answer['symbol']}` exits them"
        )
