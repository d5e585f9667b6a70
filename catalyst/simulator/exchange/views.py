"""How the exchange shows what it knows, in Alpaca's field names and text numbers."""

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal

from catalyst.clock import NEW_YORK
from catalyst.simulator.exchange.account import Account, Marks, mark_of
from catalyst.simulator.exchange.order_store import Book
from catalyst.simulator.exchange.positions import Position
from catalyst.simulator.exchange.settings import Switches
from catalyst.simulator.market.interface import Asset, Session
from catalyst.simulator.rules.orders import Execution, Order, OrderClass
from catalyst.simulator.rules.wire_format import plain, stamp, stamp_of, text_of, type_json


def order_view(
    order: Order,
    book: Book,
    switches: Switches,
    *,
    nested: bool,
    stream: bool = False,
    seen: Callable[[Order], Order] | None = None,
) -> type_json:
    """An order; its legs inside it when `nested`, never inside a leg; all as `seen` shows them, else as they are."""
    born = book.legs(order) if nested else []
    order = seen(order) if seen else order
    legs = [order_view(leg, book, switches, nested=False, stream=stream, seen=seen) for leg in born]
    local = stream and switches.local_offsets
    simple = order.order_class is OrderClass.SIMPLE
    return {
        "id": order.id,
        "client_order_id": order.client_order_id,
        "created_at": stamp(order.created_at, local=local),
        "updated_at": stamp(order.updated_at),
        "submitted_at": stamp(order.submitted_at, local=local),
        "filled_at": stamp(order.filled_at),
        "expired_at": stamp(order.expired_at),
        "canceled_at": stamp(order.canceled_at),
        "failed_at": stamp(order.failed_at),
        "replaced_at": stamp(order.replaced_at),
        "cancel_requested_at": stamp(order.cancel_requested_at),
        "expires_at": stamp(order.expires_at),
        "replaced_by": order.replaced_by,
        "replaces": order.replaces,
        "asset_id": order.asset_id,
        "symbol": order.symbol,
        "asset_class": "us_equity",
        "notional": plain(order.notional),
        "qty": None if order.notional is not None else plain(order.qty),
        "filled_qty": text_of(order.filled_qty),
        "filled_avg_price": plain(order.average),
        "order_class": switches.simple_class if simple else order.order_class.value,
        "order_type": order.type.value,
        "type": order.type.value,
        "side": order.side.value,
        "position_intent": order.intent.value,
        "time_in_force": order.time_in_force.value,
        "limit_price": plain(order.limit_price),
        "stop_price": plain(order.stop_price),
        "status": order.status.value,
        "extended_hours": order.extended_hours,
        "legs": legs or None,
        "trail_percent": plain(order.trail_percent),
        "trail_price": plain(order.trail_price),
        "hwm": plain(order.hwm),
        "subtag": None,
        "source": None,
    }


def account_view(account: Account, marks: Marks, reserved: Decimal, switches: Switches) -> type_json:
    """The account as of now."""
    long, short = account.market_value(marks)
    equity = account.cash + long + short
    initial, maintenance = account.margins(marks)
    power = account.buying_power(marks, reserved)
    cents = Decimal("0.01")
    view: type_json = {
        "id": account.id,
        "account_number": account.number,
        "status": account.status,
        "crypto_status": "ACTIVE",
        "currency": "USD",
        "buying_power": text_of(power.quantize(cents)),
        "regt_buying_power": text_of(max((equity - initial) * 2 - reserved, Decimal(0)).quantize(cents)),
        "non_marginable_buying_power": text_of(max(account.cash - reserved, Decimal(0)).quantize(cents)),
        "options_buying_power": text_of(max(account.cash - reserved, Decimal(0)).quantize(cents)),
        "cash": text_of(account.cash),
        "accrued_fees": text_of(account.accrued_fees),
        "pending_transfer_in": "0",
        "pending_transfer_out": "0",
        "portfolio_value": text_of(equity),
        "trading_blocked": account.trading_blocked,
        "transfers_blocked": False,
        "account_blocked": account.account_blocked,
        "trade_suspended_by_user": account.configuration.suspend_trade,
        "created_at": stamp(account.created_at),
        "multiplier": str(account.leverage(equity)),
        "shorting_enabled": account.multiplier > 1 and not account.configuration.no_shorting,
        "equity": text_of(equity),
        "last_equity": text_of(account.last_equity),
        "long_market_value": text_of(long),
        "short_market_value": text_of(short),
        "position_market_value": text_of(long - short),
        "initial_margin": text_of(initial),
        "maintenance_margin": text_of(maintenance),
        "last_maintenance_margin": text_of(account.last_maintenance),
        "sma": "0",
        "intraday_adjustments": "0",
        "balance_asof": account.created_at.astimezone(NEW_YORK).date().isoformat(),
    }
    if switches.legacy_fields:
        view["pattern_day_trader"] = False
        view["daytrade_count"] = 0
        view["daytrading_buying_power"] = view["buying_power"]
    return view


def configuration_view(account: Account, switches: Switches) -> type_json:
    """The account's configuration page."""
    configuration = account.configuration
    view: type_json = {
        "no_shorting": configuration.no_shorting,
        "suspend_trade": configuration.suspend_trade,
        "fractional_trading": configuration.fractional_trading,
        "max_margin_multiplier": configuration.max_margin_multiplier,
        "trade_confirm_email": configuration.trade_confirm_email,
        "ptp_no_exception_entry": configuration.ptp_no_exception_entry,
        "disable_overnight_trading": configuration.disable_overnight_trading,
        "max_options_trading_level": 0,
    }
    if switches.legacy_fields:
        view["pdt_check"] = view["dtbp_check"] = "entry"
    return view


def position_view(
    position: Position, asset: Asset, marks: Marks, yesterday: Decimal | None, held: Decimal
) -> type_json:
    """A position; `yesterday` is the previous session's last price, `held` what open exits reserve."""
    price = mark_of(position, marks)
    last = price if yesterday is None else yesterday
    value = position.qty * price
    profit = value - position.cost
    today = position.qty - position.overnight_qty
    day_cost = position.overnight_qty * last + today * position.average
    return {
        "asset_id": asset.id,
        "symbol": position.symbol,
        "exchange": asset.exchange,
        "asset_class": "us_equity",
        "asset_marginable": asset.marginable,
        "qty": text_of(position.qty),
        "qty_available": text_of(max(abs(position.qty) - held, Decimal(0)).copy_sign(position.qty)),
        "side": "long" if position.qty > 0 else "short",
        "avg_entry_price": text_of(position.average.quantize(Decimal("0.0000000001"))),
        "market_value": text_of(value),
        "cost_basis": text_of(position.cost),
        "unrealized_pl": text_of(profit),
        "unrealized_plpc": ratio(profit, position.cost),
        "unrealized_intraday_pl": text_of((value - day_cost).quantize(Decimal("0.0000000001"))),
        "unrealized_intraday_plpc": ratio(value - day_cost, day_cost),
        "current_price": text_of(price),
        "lastday_price": text_of(last),
        "change_today": ratio(price - last, last),
    }


def ratio(part: Decimal, whole: Decimal) -> str:
    """part / |whole| to sixteen places."""
    return "0" if not whole else text_of((part / abs(whole)).quantize(Decimal("0.0000000000000001")))


def asset_view(asset: Asset, switches: Switches) -> type_json:
    """A listing, with `borrow_status` in the place of the removed `easy_to_borrow`."""
    easy = asset.easy_to_borrow and asset.symbol not in switches.hard_to_borrow
    view: type_json = {
        "id": asset.id,
        "class": "us_equity",
        "exchange": asset.exchange,
        "symbol": asset.symbol,
        "name": asset.name,
        "status": asset.status,
        "tradable": asset.tradable,
        "marginable": asset.marginable,
        "margin_requirement_long": "30",
        "margin_requirement_short": "30",
        "shortable": asset.shortable,
        "borrow_status": "easy_to_borrow" if easy else "hard_to_borrow",
        "fractionable": asset.fractionable,
        "attributes": [],
    }
    if switches.legacy_fields:
        view["easy_to_borrow"] = easy
        view["maintenance_margin_requirement"] = 30
    return view


def fill_view(execution: Execution) -> type_json:
    """A FILL activity."""
    return {
        "id": activity_id(execution.at, execution.id),
        "activity_type": "FILL",
        "transaction_time": stamp_of(execution.at),
        "type": "fill" if not execution.leaves_qty else "partial_fill",
        "price": text_of(execution.price),
        "qty": text_of(execution.qty),
        "side": execution.side.value,
        "symbol": execution.symbol,
        "leaves_qty": text_of(execution.leaves_qty),
        "order_id": execution.order_id,
        "cum_qty": text_of(execution.cum_qty),
        "order_status": execution.order_status.value,
    }


def cash_view(kind: str, at: datetime, identity: str, amount: Decimal, **more: str) -> type_json:
    """A non-trade activity: a deposit (CSD), a withdrawal (CSW) or a fee (FEE)."""
    return {
        "id": activity_id(at, identity),
        "activity_type": kind,
        "date": at.astimezone(NEW_YORK).date().isoformat(),
        "created_at": stamp_of(at),
        "net_amount": text_of(amount),
        "currency": "USD",
        "status": "executed",
        **more,
    }


def activity_id(at: datetime, identity: str) -> str:
    """An id that sorts by New York time to the millisecond, then by whatever the identity gives."""
    return f"{at.astimezone(NEW_YORK):%Y%m%d%H%M%S%f}"[:17] + f"::{identity}"


def calendar_view(session: Session, settlement: Session | None, switches: Switches) -> type_json:
    """A session day in New York's local time, without a zone."""
    day = session.day.isoformat()
    early = session.close.astimezone(NEW_YORK).hour < 16
    return {
        "date": day,
        "open": f"{session.open.astimezone(NEW_YORK):%H:%M}",
        "close": f"{session.close.astimezone(NEW_YORK):%H:%M}",
        "session_open": "0400",
        "session_close": switches.half_day_post_close if early else "2000",
        "settlement_date": settlement.day.isoformat() if settlement else day,
    }
