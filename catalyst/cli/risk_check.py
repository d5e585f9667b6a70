"""`catalyst risk-check`: judges one trade by the limits, with the positions and the account of now. Sends nothing."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from catalyst.cli.bracket_trial import dollars_of, position_side
from catalyst.cli.output import print_result
from catalyst.cli.settings import ConfigOption, JsonOption, open_clock, query_store, read_settings
from catalyst.config.settings import Settings

if TYPE_CHECKING:
    from rich.text import Text

    from catalyst.pipeline.proposal import Proposal
    from catalyst.pipeline.risk_checks import RiskVerdict
    from catalyst.store.pool import Store


def risk_check(
    symbol: Annotated[str, typer.Argument(help="The symbol to trade.")],
    price: Annotated[str, typer.Option(help="The entry price in dollars.")],
    side: Annotated[str, typer.Option(help="long or buy, short or sell.")] = "long",
    qty: Annotated[
        int | None, typer.Option("--qty", min=1, help="Shares (default: what the limits allow).")
    ] = None,
    stop: Annotated[
        str | None, typer.Option(help="Default: positions.default_stop_loss_pct from the price.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Default: positions.default_take_profit_pct from the price.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge one trade by every limit; exit 0 when it is approved, else 1. Sends nothing.

    It may be asked at any time: market hours, the spread, the volume and the correlation are not checked.
    """
    settings = read_settings(config)
    from catalyst.domain.order import PositionSide
    from catalyst.pipeline.proposal import propose
    from catalyst.pipeline.risk_inputs import limits_of

    entry = dollars_of("--price", price)
    assert entry is not None  # the option is required
    limits = limits_of(settings.config)
    proposal = propose(
        symbol.upper(),
        PositionSide(position_side(side)),
        entry,
        limits,
        quantity=qty,
        stop=dollars_of("--stop", stop),
        target=dollars_of("--target", target),
    )

    async def judge(store: "Store", _: Settings) -> "tuple[Proposal, RiskVerdict]":
        return await judge_proposal(store, settings, proposal)

    proposal, verdict = query_store(config, judge)
    facts = {
        "approved": verdict.approved,
        "risk_score": round(verdict.risk_score, 4),
        "risk_amount": verdict.risk_amount,
        "reason": "; ".join(verdict.reasons),
        "symbol": proposal.symbol,
        "side": proposal.side,
        "quantity": verdict.quantity,
        "entry": proposal.entry,
        "stop": proposal.stop,
        "target": proposal.target,
        "checks": verdict.checks,
    }
    print_result(facts, as_json, lambda: _lines(verdict))
    if not verdict.approved:
        raise typer.Exit(1)


async def judge_proposal(
    store: "Store", settings: Settings, proposal: "Proposal"
) -> "tuple[Proposal, RiskVerdict]":
    """Return the proposal with what the broker knows of its symbol, and the verdict of every limit.

    Raises BrokerError, and UserError for a symbol that the broker does not list.
    """
    from catalyst.broker.alpaca import AlpacaBroker
    from catalyst.config.current import CurrentConfig
    from catalyst.daemon.trading_day.first_live_sessions import FirstLiveSessions
    from catalyst.daemon.trading_day.portfolio import read_portfolio
    from catalyst.daemon.trading_state.entry_gate import EntryGate
    from catalyst.domain.errors import UserError
    from catalyst.domain.session import trading_date
    from catalyst.pipeline.risk_checks import MostCorrelated, check_risk
    from catalyst.pipeline.risk_inputs import limits_of
    from catalyst.store import cycles, latches, securities

    clock = open_clock(settings)
    key, secret = settings.keys
    broker = AlpacaBroker(clock, base_url=settings.trading_url, key=key, secret=secret)
    try:
        async with store.read() as conn:
            cycle = await cycles.of_day(conn, trading_date(clock.now()))
            sectors = {row.symbol: row.sector or "unknown" for row in await securities.active(conn)}
            gate = EntryGate(clock, reasons=await latches.active_latches(conn))
        portfolio, account = await read_portfolio(
            store,
            broker,
            gate,
            cycle_id="" if cycle is None else cycle.cycle_id,
            start_equity=None if cycle is None else cycle.start_equity,
            sectors=sectors,
        )
        first_sessions = FirstLiveSessions(store, clock, CurrentConfig(settings.config), settings.mode)
        limits = limits_of(settings.config, size_factor=await first_sessions.size_factor())
        asset = next((asset for asset in await broker.assets() if asset.symbol == proposal.symbol), None)
    finally:
        await broker.close()
    if asset is None:
        raise UserError(f"the broker does not list {proposal.symbol}")
    known = replace(
        proposal,
        sector=sectors.get(proposal.symbol, "unknown"),
        shortable=asset.shortable,
        easy_to_borrow=asset.easy_to_borrow,
    )
    others = sorted(portfolio.side_by_symbol().keys() - {known.symbol})
    correlated = MostCorrelated(others[0], float("nan"), "this command reads no bars") if others else None
    verdict = check_risk(known, portfolio, account, limits, None, clock.now(), most_correlated=correlated)
    return known, verdict


def _lines(verdict: "RiskVerdict") -> "Iterator[Text]":
    from rich.text import Text

    word, style = ("approved", "bold green") if verdict.approved else ("refused", "bold red")
    yield Text(
        f"{word}: {'; '.join(verdict.reasons)}; {verdict.quantity} shares, risk ${verdict.risk_amount}, "
        f"risk score {verdict.risk_score:.2f}",
        style=style,
    )
    for check in verdict.checks:
        share = "" if check.limit_share is None else f" ({check.limit_share:.0%} of the limit)"
        yield Text(f"{'ok' if check.passed else 'NO':<3}{check.name:<19}{check.text}{share}")
